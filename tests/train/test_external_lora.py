"""Adapters inside peft's wrapper, recomputed layers included, and the PEFT trainer: fits are those of the LoRA trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from text_models import FAMILIES, write_folder
from torch.utils.checkpoint import CheckpointFunction

from solver.config import ModelSettings, TrainSettings
from solver.model.adapters import apply_adapter
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape
from solver.train.external_lora import ExternalLoraFitTarget, ExternalLoraTrainer
from solver.train.loop import Loop
from solver.train.lora import LoraTrainer
from solver.train.peft import PeftTrainer
from solver.types import NEVER, Fit, FitJob, TokenSequence

SETTINGS = TrainSettings(rank=8, alpha=16, rslora=True, lr=3e-3, batch_sequences=2, batch_tokens=64)
FP32 = ModelSettings(dtype="float32", device="cpu")


def sequences(seed: int) -> tuple[TokenSequence, ...]:
    rng = np.random.default_rng(seed)
    made = []
    for length in rng.integers(12, 40, 5):
        weights = (rng.random(length) < 0.5).astype(np.float32)
        weights[0], weights[-1] = 0, 1
        made.append(TokenSequence(rng.integers(0, 250, length).astype(np.int32), weights))
    return tuple(made)


def wrap(base: Base, checkpointing: bool) -> ExternalLoraTrainer:
    """As unsloth does: peft's wrapper, and reentrant checkpointing through inputs that ask for gradients."""
    config = LoraConfig(
        r=SETTINGS.rank,
        lora_alpha=SETTINGS.alpha,
        use_rslora=True,
        target_modules="all-linear",
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
    )
    wrapped: Any = get_peft_model(base.model, config)
    if checkpointing:
        wrapped.gradient_checkpointing_enable({"use_reentrant": True})
        wrapped.enable_input_require_grads()
    inner = wrapped.get_base_model()
    view = Base(inner, base.codec, base.device, base.dtype, base.path, base.context)
    shape = LoraShape(SETTINGS.rank, SETTINGS.alpha, SETTINGS.rslora)
    return ExternalLoraTrainer(
        Loop(view, ExternalLoraFitTarget(view, shape, checkpointing), SETTINGS, base.path.parent / "wrapped", None)
    )


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fits_are_those_of_the_lora_trainer(
    family: str, checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed = record_calls(monkeypatch, CheckpointFunction, "backward")
    write_folder(tmp_path / "model", family, tied=False)
    jobs = [FitJob(name, sequences(seed), 6, seed) for name, seed in (("a", 1), ("b", 2))]
    own = LoraTrainer(load_base(tmp_path / "model", FP32), SETTINGS, tmp_path / "own")
    theirs = wrap(load_base(tmp_path / "model", FP32), checkpointing)
    expected, found = list(own.fit(jobs, NEVER)), list(theirs.fit(jobs, NEVER))
    compare(expected, found)
    assert found[1].final_loss < found[1].first_loss
    refit = [FitJob("c", sequences(3), 3, 3, start=found[0].adapter)]
    again = [FitJob("c", sequences(3), 3, 3, start=expected[0].adapter)]
    compare(list(own.fit(again, NEVER)), list(theirs.fit(refit, NEVER)))
    assert bool(recomputed) == checkpointing


@pytest.mark.parametrize("family", [*FAMILIES, "phi3", "glm4"])
def test_the_peft_trainer_fits_as_the_lora_trainer_does(family: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", family, tied=False)
    base = load_base(tmp_path / "model", FP32)
    modules, weights = dict(base.model.named_modules()), {name: value.clone() for name, value in base.model.named_parameters()}
    jobs = [FitJob(name, sequences(seed), 6, seed) for name, seed in (("a", 1), ("b", 2))]
    expected = list(LoraTrainer(base, SETTINGS, tmp_path / "own").fit(jobs, NEVER))
    trainer = PeftTrainer(base, SETTINGS, tmp_path / "peft")
    found = list(trainer.fit(jobs, NEVER))
    compare(expected, found)
    compare(expected[1:], list(trainer.fit(jobs[1:], NEVER)))  # nothing is left of the fits before
    assert dict(base.model.named_modules()) == modules
    assert all(torch.equal(value, weights[name]) for name, value in base.model.named_parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_peft_trainer_fits_beside_four_bits(dtype: Any, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "phi3", tied=False, intermediate_size=128)
    base = load_base(tmp_path / "model", ModelSettings(dtype=dtype, device="cpu", quantization="nf4"))
    jobs = [FitJob("a", sequences(1), 12, 1)]
    (expected,) = LoraTrainer(base, SETTINGS, tmp_path / "own").fit(jobs, NEVER)
    (found,) = PeftTrainer(base, SETTINGS, tmp_path / "peft").fit(jobs, NEVER)
    assert found.final_loss < found.first_loss
    assert found.final_loss == pytest.approx(expected.final_loss, rel=1e-3 if dtype == "float32" else 5e-2)
    assert found.adapter is not None
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert not torch.allclose(apply_adapter(base, found.adapter)(ids).logits, base.model(ids).logits, atol=1e-2)


def compare(expected: list[Fit], found: list[Fit]) -> None:
    for mine, other in zip(expected, found, strict=True):
        assert (mine.status, mine.steps, mine.tokens) == (other.status, other.steps, other.tokens) != ("failed", 0, 0)
        assert other.first_loss == pytest.approx(mine.first_loss, rel=1e-5)
        assert other.final_loss == pytest.approx(mine.final_loss, rel=1e-3)
        assert mine.adapter is not None
        assert other.adapter is not None
        left, right = (load_file(ref.path / "adapter_model.safetensors") for ref in (mine.adapter, other.adapter))
        assert left.keys() == right.keys()
        for name, value in left.items():
            # Adam turns the rounding of a gradient near 0 into a step of either sign: single numbers may differ
            assert float((right[name] - value).norm()) <= 0.02 * float(value.norm()), name
        assert (mine.adapter.path / "adapter_config.json").read_text() == (other.adapter.path / "adapter_config.json").read_text()
