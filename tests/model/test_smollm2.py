"""A real language model from end to end: SmolLM2-135M-Instruct, converted, fitted to a task with LoRA, and asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from text_models import smollm2_file

from solver.arc.datasets import load_tasks
from solver.arc.task import Task
from solver.config import InferSettings, ModelSettings, TrainSettings
from solver.infer.hf import HFEngine
from solver.model.convert import convert
from solver.model.load import Base, load_base
from solver.train.lora import LoraTrainer
from solver.types import NEVER, FitJob, SampleRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    done = convert(smollm2_file(), tmp_path_factory.mktemp("smollm2") / "model", "grid")
    assert (done.tokens, done.tokens_before) == (16, 49152)
    return load_base(done.folder, ModelSettings(dtype="float32", device="cpu"))


def shortest_task(base: Base) -> Task:
    tasks = load_tasks("arc1:training").tasks
    return min(tasks, key=lambda task: len(base.codec.sequence(task, 8192)))


def test_the_model_writes_an_answer_that_it_was_fitted_to(base: Base, tmp_path: Path) -> None:
    task = shortest_task(base)
    sequence = base.codec.sequence(task, base.context)
    assert base.codec.begin != (base.codec.end,)
    settings = TrainSettings(rank=8, alpha=16, lr=1e-3, batch_sequences=1, warmup=0.0, cooldown=0.0)
    (fit,) = LoraTrainer(base, settings, tmp_path).fit([FitJob("a", (sequence,), 8)], NEVER)
    assert (fit.status, fit.steps) == ("complete", 8)
    assert fit.final_loss < 0.5 * fit.first_loss
    # a pretrained model finds grids likely before it is fitted: a uniform guess over its vocabulary costs log 16 a token
    assert fit.first_loss < 0.8 * float(np.log(16))
    prompt = base.codec.prompt(task, 0, base.context)
    engine = HFEngine(base, InferSettings())
    (result,) = engine.sample([SampleRequest("q", prompt.ids, fit.adapter, 1, 0.0, 40)], NEVER)
    answer = base.codec.decode_answer(result.completions[0].ids)
    assert answer is not None
    assert np.array_equal(answer, task.test[0].output)


def test_embedding_and_head_are_the_rows_of_grids(base: Base) -> None:
    assert base.parameters == 106_212_672
    weight = base.model.get_input_embeddings().weight
    assert weight is base.model.get_output_embeddings().weight
    assert tuple(weight.shape) == (16, 576)
