"""Compiled passes of a stack: no graph breaks, few graphs, the same fits. Torch traces the graphs and runs them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_calls import record_calls

from solver.config import ModelSettings, TrainSettings
from solver.model.adapters import apply_adapter
from solver.model.load import load_base
from solver.train import compiler
from solver.train.compiler import MAX_GRAPHS
from solver.train.lora import LoraTrainer
from solver.train.stack_loop import StackLoop
from solver.types import NEVER, FitJob, TokenSequence

SETTINGS = TrainSettings(rank=8, alpha=8, lr=1e-2, batch_sequences=4, batch_tokens=8192, stack=3)


def job(name: str, seed: int, steps: int, lengths: range) -> FitJob:
    """A fit with a step for every four of the lengths."""
    rng = np.random.default_rng(seed)
    sequences = []
    for length in lengths:
        weights = np.ones(length, np.float32)
        weights[0] = 0
        sequences.append(TokenSequence(rng.integers(0, 10, length).astype(np.int32), weights))
    return FitJob(name, tuple(sequences), steps)


@pytest.mark.slow
def test_layers_share_one_graph_without_breaks_for_passes_of_all_shapes(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(compiler, "BACKEND", backend)
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    trainer = LoraTrainer(base, SETTINGS.model_copy(update={"compile": True}), tmp_path / "compiled")
    jobs = [job(f"j{i}", i, 5, range(10, 30)) for i in range(3)]
    compiled = list(trainer.fit(jobs, NEVER))
    assert len(graphs) == 2  # one for both layers, one for the optimizer's update
    plain = list(LoraTrainer(base, SETTINGS, tmp_path / "plain").fit(jobs, NEVER))
    ids = torch.arange(60).reshape(2, 30) % 10
    for one, other in zip(compiled, plain, strict=True):
        assert one.final_loss == pytest.approx(other.final_loss, abs=1e-5)
        with torch.no_grad():
            served, expected = (apply_adapter(base, fit.adapter)(ids).logits for fit in (one, other))
        torch.testing.assert_close(served, expected, atol=1e-4, rtol=0)
    passes = record_calls(monkeypatch, StackLoop, "_dense_losses")
    fits = trainer.fit([job(f"k{i}", 10 + i, 12, range(30, 174, 3)) for i in range(2)], NEVER)  # a stack of another size
    assert {fit.status for fit in fits} == {"complete"}
    assert len({tensors.columns.shape for _, tensors in passes}) > 2 * MAX_GRAPHS
    assert len(graphs) == 2
    assert not [record for record in caplog.records if record.name.startswith("solver")]  # the compiler was not given up
