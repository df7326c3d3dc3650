"""Fits of many tasks in one step on a CUDA device: nothing waits for it inside a step, and adapters are as on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from solver.config import ModelSettings, TrainSettings
from solver.model.load import load_base
from solver.train.lora import LoraTrainer
from solver.train.stack_loop import StackLoop
from solver.types import NEVER, Fit, FitJob, TokenSequence

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def jobs() -> list[FitJob]:
    made = []
    for task in range(8):
        rng = np.random.default_rng(task)
        sequences = []
        for length in rng.integers(30, 300, 8):
            weights = np.ones(length, np.float32)
            weights[0] = 0
            sequences.append(TokenSequence(rng.integers(0, 10, length).astype(np.int32), weights))
        made.append(FitJob(f"t{task}", tuple(sequences), 20, seed=task))
    return made


def fits(tiny_base: Path, scratch: Path, device: str, **changes: Any) -> list[Fit]:
    base = load_base(tiny_base, ModelSettings(device=device, dtype="float32" if device == "cpu" else "auto"))
    settings = TrainSettings(rank=8, alpha=8, lr=1e-2).model_copy(update=changes)
    return list(LoraTrainer(base, settings, scratch).fit(jobs(), NEVER))


@pytest.mark.parametrize("compiled", [False, True])
def test_stacks_on_a_gpu_fit_as_one_task_on_a_cpu_does(
    compiled: bool, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = fits(tiny_base, tmp_path / "cpu", "cpu", stack=1)
    together = fits(tiny_base, tmp_path / "cuda", "cuda:0", stack=8, compile=compiled)
    for one, other in zip(together, alone, strict=True):
        assert (one.status, one.steps, one.tokens) == ("complete", other.steps, other.tokens)
        assert one.final_loss == pytest.approx(other.final_loss, abs=0.05)
    assert not [record for record in caplog.records if record.name.startswith("solver")]  # the compiler did not fail


def test_no_step_waits_for_the_device(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = StackLoop._step

    def watched(self: StackLoop, *arguments: Any) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")  # whatever synchronises raises an error
        try:
            return real(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(StackLoop, "_step", watched)
    assert {fit.status for fit in fits(tiny_base, tmp_path, "cuda:0", stack=8, compile=False)} == {"complete"}
