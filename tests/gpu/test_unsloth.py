"""unsloth on a CUDA device beside the PEFT trainer: the same jobs, seeds and base. Not run where there is none."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from text_models import write_folder

from solver.config import InferSettings, ModelSettings, TrainSettings
from solver.infer.hf import HFEngine
from solver.model.load import Base, load_base
from solver.train.lora import LoraTrainer
from solver.train.registry import choose_trainer
from solver.train.unsloth import UnslothTrainer
from solver.types import NEVER, AdapterRef, FitJob, ScoreRequest, TokenSequence

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs unsloth"),
]
# Each starts a process of unsloth, which takes long: the first four have every family, and every kind of base and of layers.
KINDS = [
    ("qwen3", "nf4", True),
    ("llama", "none", False),
    ("qwen2", "nf4", False),
    ("qwen3", "none", True),
]
KINDS += [kind for kind in itertools.product(("llama", "qwen2", "qwen3"), ("nf4", "none"), (True, False)) if kind not in KINDS]
SETTINGS = TrainSettings(rank=16, alpha=16, rslora=True, lr=1e-3, batch_sequences=2, batch_tokens=2048)


def sequences(seed: int, tokens: int = 250) -> tuple[TokenSequence, ...]:
    rng = np.random.default_rng(seed)
    made = []
    for length in rng.integers(100, 700, 6):
        weights = (rng.random(length) < 0.5).astype(np.float32)
        weights[0], weights[-1] = 0, 1
        made.append(TokenSequence(rng.integers(0, tokens, length).astype(np.int32), weights))
    return tuple(made)


def job(name: str, seed: int, steps: int = 12, start: AdapterRef | None = None) -> FitJob:
    return FitJob(name, sequences(seed), steps, seed, start)


def load(folder: Path, quantization: str) -> Base:
    dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    settings = ModelSettings(dtype=dtype, quantization=quantization, device="cuda:0", context=1024)  # type: ignore[arg-type]
    return load_base(folder, settings)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnslothTrainer]:
    """One for the tests that are not about the kind of base: starting takes long."""
    folder = tmp_path_factory.mktemp("unsloth")
    write_folder(folder / "model", "qwen3", tied=True)
    made = UnslothTrainer(load(folder / "model", "nf4"), SETTINGS, folder / "adapters")
    yield made
    made._process.close()


def test_its_adapters_are_served(trainer: UnslothTrainer) -> None:
    (fit,) = trainer.fit([job("a", 1, steps=40)], NEVER)
    assert fit.adapter is not None
    sequence = sequences(1)[0]
    asked = [ScoreRequest(str(i), sequence.ids[:50], ref, (sequence.ids[50:],)) for i, ref in enumerate((None, fit.adapter))]
    bare, fitted = HFEngine(trainer._base, InferSettings()).score(asked, NEVER)
    assert fitted.completions[0].logprob > bare.completions[0].logprob


@pytest.mark.parametrize(("family", "quantization", "checkpointing"), KINDS)
def test_fits_are_those_of_the_peft_trainer(family: str, quantization: str, checkpointing: bool, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", family, tied=False)
    base = load(tmp_path / "model", quantization)
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing})
    jobs = [job("a", 1), job("b", 2), job("again", 1)]
    expected = list(LoraTrainer(base, settings, tmp_path / "lora").fit(jobs, NEVER))
    trainer = UnslothTrainer(base, settings, tmp_path / "unsloth")
    found = list(trainer.fit(jobs, NEVER))
    assert not {"unsloth", "unsloth_zoo"} & sys.modules.keys()
    assert found[2].first_loss == pytest.approx(found[0].first_loss, rel=1e-3)  # begun anew, nothing left of the jobs before
    for mine, theirs in zip(expected, found, strict=True):
        assert (theirs.status, theirs.steps, theirs.tokens) == (mine.status, mine.steps, mine.tokens)
        assert theirs.first_loss == pytest.approx(mine.first_loss, rel=0.01)
        assert theirs.final_loss == pytest.approx(mine.final_loss, rel=0.05)
        assert mine.adapter is not None
        assert theirs.adapter is not None
        left, right = (load_file(ref.path / "adapter_model.safetensors") for ref in (mine.adapter, theirs.adapter))
        assert left.keys() == right.keys()
        for name in (name for name in left if "lora_B" in name):
            assert float(torch.cosine_similarity(left[name].flatten(), right[name].flatten(), dim=0)) > 0.8, name
    refit = list(trainer.fit([job("c", 1, start=found[0].adapter)], NEVER))
    assert refit[0].first_loss < found[0].first_loss
    trainer._process.close()


def test_sequences_are_refused_before_they_would_be_cut(trainer: UnslothTrainer) -> None:
    ids = np.ones(1025, np.int32)
    weights = np.zeros(1025, np.float32)
    weights[-1] = 1
    (long,) = trainer.fit([FitJob("long", (TokenSequence(ids, weights),), 1)], NEVER)
    assert long.status == "failed"
    assert "exceeds the context of 1024" in long.reason
    (whole,) = trainer.fit([FitJob("whole", (TokenSequence(ids[1:], weights[1:]),), 1)], NEVER)
    assert whole.tokens == 1024
    assert np.isfinite(whole.final_loss)


def test_auto_takes_it_for_large_models(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "qwen3", tied=True)
    name, why = choose_trainer(load(tmp_path / "model", "nf4"), TrainSettings())
    assert name == "unsloth", why
