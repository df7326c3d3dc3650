"""LoRA fits of many tasks at once: their matrices stacked, every row using its own task's, one optimizer step for all.

Each adapter comes out as if it were fitted alone (to rounding, and up to dropout's random numbers): loss normalisation,
gradient clipping and the response to a loss that is not finite are per task. A small model on a large GPU spends most of
a lone step launching kernels; a stack pays that once for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from solver.config import TrainSettings
from solver.model.load import Base
from solver.train.loop import Loop, fit_in_stacks
from solver.train.peft import LoraTarget
from solver.types import Deadline, Fit, FitJob

_BYTES = 2 * 2**30  # for the weights, gradients and optimizer state of a stack
_MOST = 64  # tasks in a stack; beyond it a step is no longer bound by launches, and all of them wait for the last
_COPIES = 6 * 4  # values, gradients, two moments, snapshot and update, in fp32


class StackedTrainer:
    """As PeftTrainer, many jobs a step."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        self._base, self._settings, self._scratch = base, settings, scratch
        numbers = sum(p.numel() for p in LoraTarget(base, settings, 1).parameters())
        self._stack = max(1, min(_MOST, _BYTES // (numbers * _COPIES)))
        self._loops: dict[int, Loop] = {}

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, in order; those of a stack arrive together."""
        return fit_in_stacks(self._loop, jobs, self._stack, deadline)

    def move(self, device: torch.device) -> None:
        """Take the matrices elsewhere between two fits."""
        for loop in self._loops.values():
            loop.move(device)

    def _loop(self, slots: int) -> Loop:
        if slots not in self._loops:
            self._loops.clear()  # one stack in memory
            target = LoraTarget(self._base, self._settings, slots)
            self._loops[slots] = Loop(self._base, target, self._settings, self._scratch, autocast=None)
        return self._loops[slots]
