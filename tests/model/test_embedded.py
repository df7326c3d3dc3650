"""The models inside the package: small, loadable, trained, and documented."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from solver.arc.datasets import load_tasks
from solver.codec import GRID_VOCABULARY, grid_codec
from solver.config import ModelSettings
from solver.model.folder import SHIPPED
from solver.model.load import load_base

MILLIONS = {"embedded-base": 6.8, "embedded-mid": 19.2}


@pytest.fixture(params=MILLIONS)
def shipped(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, SHIPPED[request.param]


def test_together_they_are_small() -> None:
    files = [file for folder in SHIPPED.values() for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) <= 56 * 2**20
    assert max(file.stat().st_size for file in files) <= 15 * 2**20


def test_each_says_what_it_is(shipped: tuple[str, Path]) -> None:
    name, folder = shipped
    assert (folder / "README.md").is_file()
    base = load_base(folder, ModelSettings(), weights=False)
    assert round(base.parameters / 1e6, 1) == MILLIONS[name]
    assert base.context == 8192
    assert base.codec == grid_codec()


def test_transformers_loads_it_once_the_architecture_is_known(shipped: tuple[str, Path]) -> None:
    from solver.model.transformers_registration import TransformersCellDecoder

    model = AutoModelForCausalLM.from_pretrained(shipped[1], local_files_only=True, use_safetensors=True, dtype=torch.float32)
    assert type(model) is TransformersCellDecoder
    ids = torch.arange(16)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, load_base(shipped[1], ModelSettings(dtype="float32")).model(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(shipped[1], local_files_only=True)
    assert model.config.vocab_size == len(tokenizer) == len(GRID_VOCABULARY)
    assert tokenizer("<begin><input>01\n2").input_ids == [14, 11, 0, 1, 10, 2]
    assert tokenizer.eos_token_id == model.config.eos_token_id == grid_codec().end


def test_it_predicts_outputs_of_tasks_from_their_demonstrations(shipped: tuple[str, Path]) -> None:
    """On training tasks of ARC-AGI-1; an untrained model gets one token in sixteen."""
    base = load_base(shipped[1], ModelSettings(dtype="float32"))
    short = sorted(load_tasks("arc1:training"), key=lambda task: task.grid_tokens())[20:35]
    right, total = 0, 0
    for task in short:
        sequence = base.codec.sequence(task.query(0), base.context)
        ids = torch.from_numpy(sequence.ids.astype(np.int64))
        with torch.inference_mode():
            guesses = base.model(input_ids=ids[None]).logits[0, :-1].argmax(-1)
        wanted = torch.from_numpy(sequence.weights[1:] > 0)
        right += int((guesses == ids[1:])[wanted].sum())
        total += int(wanted.sum())
    assert right / total > 0.93
