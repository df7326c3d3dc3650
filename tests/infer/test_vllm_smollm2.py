"""SmolLM2-135M-Instruct, converted to the grid vocabulary, in vLLM and in the HF engine, with and without an adapter of PEFT."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from text_models import smollm2_file

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.arc.grid import Grid
from solver.config import InferSettings, ModelSettings
from solver.infer.hf import HFEngine
from solver.infer.vllm import shim
from solver.infer.vllm.engine import VllmEngine
from solver.model.convert import convert
from solver.model.load import Base, load_base, share
from solver.types import NEVER, AdapterRef, Result, SampleRequest, ScoreRequest, TokenIds

pytestmark = [
    pytest.mark.skipif(not shim.distribution(), reason="vllm is not installed here"),
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]
NEW = 24  # tokens at most
CONTEXT = 1024


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    done = convert(smollm2_file(), tmp_path_factory.mktemp("smollm2") / "model", "grid")
    return load_base(done.folder, ModelSettings(dtype="float32", device="cpu", context=CONTEXT))


@pytest.fixture(scope="module")
def adapter(base: Base, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    """An adapter saved by PEFT itself, with weights that change the answers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")
    model = get_peft_model(share(base.model), config)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.02, generator=generator)
    folder = tmp_path_factory.mktemp("adapter") / "peft"
    model.save_pretrained(folder)
    return AdapterRef("peft", folder, "lora")


@pytest.fixture(scope="module")
def engines(base: Base) -> Iterator[tuple[HFEngine, VllmEngine]]:
    settings = InferSettings(batch_tokens=4096)
    vllm = VllmEngine(base, settings)
    vllm.start(8)
    yield HFEngine(base, settings), vllm
    vllm.close()


def prompts(base: Base) -> list[TokenIds]:
    tasks = shortest_tasks(load_tasks("arc1:evaluation"), 2)
    return [base.codec.prompt(task.query(0), 0, CONTEXT).ids for task in tasks]


def in_order(results: Iterator[Result]) -> list[Result]:
    found = sorted(results, key=lambda result: result.request)
    assert {(result.status, result.error) for result in found} == {("complete", "")}
    return found


def test_greedy_answers_are_the_same(base: Base, adapter: AdapterRef, engines: tuple[HFEngine, VllmEngine]) -> None:
    requests = [
        SampleRequest(f"{place} {'peft' if lora else 'base'}", prompt, lora, 1, 0.0, NEW)
        for place, prompt in enumerate(prompts(base))
        for lora in (None, adapter)
    ]
    ours, theirs = (in_order(engine.sample(requests, NEVER)) for engine in engines)
    for one, other in zip(ours, theirs, strict=True):
        (completion,), (served,) = one.completions, other.completions
        assert completion.ids.tolist() == served.ids.tolist()
        np.testing.assert_allclose(served.logprobs, completion.logprobs, atol=1e-4)
    answers = [tuple(result.completions[0].logprobs.tolist()) for result in ours]
    assert len(set(answers)) == len(requests)  # the adapter changes the answers


def test_scores_are_the_same(base: Base, adapter: AdapterRef, engines: tuple[HFEngine, VllmEngine]) -> None:
    grids: list[Grid] = [np.array(rows, dtype=np.uint8) for rows in ([[1, 2], [3, 4]], [[7, 7, 7]])]
    completions = tuple(base.codec.encode_answer(grid) for grid in grids)
    requests = [
        ScoreRequest(f"{place} {'peft' if lora else 'base'}", prompt, lora, completions)
        for place, prompt in enumerate(prompts(base))
        for lora in (None, adapter)
    ]
    ours, theirs = (in_order(engine.score(requests, NEVER)) for engine in engines)
    for one, other in zip(ours, theirs, strict=True):
        for completion, served in zip(one.completions, other.completions, strict=True):
            np.testing.assert_allclose(served.logprobs, completion.logprobs, atol=1e-4)
