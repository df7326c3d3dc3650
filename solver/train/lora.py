"""The trainer `lora`: this package's own LoRA, in PEFT's format on disk, for one task at a time or for many in one step.

A stack of n adapters is trained by one optimizer step: every row of a batch uses the matrices of its own task. Loss
normalisation, gradient clipping and the response to a loss that is not finite are per task, so each adapter comes out as if it
were fitted alone, except for rounding and the random numbers of dropout. With a small model on a large GPU, launching kernels
takes most of the time of a step for one task, and a stack shares that. A CPU has no such cost. There, one adapter after the
other is faster, by the merged product of `model.lora` and the fused pass of `model.fused_training`; neither takes stacks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solver.config import TrainSettings
from solver.model.device import ADAPTER_COPIES
from solver.model.load import Base
from solver.model.lora import LoraShape, attach, check_layers
from solver.train.loop import Loop, fit_in_stacks
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

STACK_BYTES = 2 * 2**30  # at most, for the weights, gradients and optimizer state of a stack
MAX_STACK = 64  # tasks: with more, launches no longer limit a step, and every task of a stack waits for the slowest one


class LoraFitTarget:
    """A stack of adapters."""

    kind: Literal["lora", "full"] = "lora"
    reentrant: bool = False

    def __init__(self, base: Base, settings: TrainSettings, slots: int) -> None:
        shape = LoraShape(settings.rank, settings.alpha, settings.rslora, settings.dropout)
        self._stack = attach(base, shape, slots)
        self.slots = slots
        self.model: Any = self._stack.model

    def parameters(self) -> list[nn.Parameter]:
        """Every A and B, (slots, ...)."""
        return self._stack.parameters()

    def begin(self, slot: int, seed: int, start: Path | None) -> None:
        """Draw fresh matrices, then load those that the adapter in `start` has. Raises InputError if it does not fit."""
        self._stack.reset(slot, seed)
        if start is not None:
            self._stack.load(slot, start)

    def use(self, rows: Tensor) -> None:
        """Say which slot each row uses. With one slot all rows take the path for one adapter, which is faster."""
        self._stack.set_rows(None if self.slots == 1 else rows)

    def save(self, slot: int, folder: Path) -> None:
        """Write the slot's adapter in PEFT's format."""
        self._stack.save(slot, folder)


class LoraTrainer:
    """Fits a LoRA adapter for each job, `max_stack` jobs at a time. Raises InputError if the model has no layer for LoRA."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if left_out := check_layers(base):
            log.warning("trainer: %s", left_out)
        self._base, self._settings, self._scratch = base, settings, scratch
        self._make(1)
        self.max_stack = max_stack(settings, base.device, sum(p.numel() for p in self._target.parameters()))

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """Yield one fit for each job, in order. The fits of a stack come together, when the last one is done."""
        return fit_in_stacks(self._loop_of, jobs, self.max_stack, deadline)

    def move(self, device: torch.device) -> None:
        """Move the matrices to another device, between two fits."""
        self._loop.move(device)

    def _loop_of(self, slots: int) -> Loop:
        if self._target.slots != slots:
            del self._target, self._loop  # first: only one stack may be in memory
            self._make(slots)
        return self._loop

    def _make(self, slots: int) -> None:
        self._target = LoraFitTarget(self._base, self._settings, slots)
        self._loop = Loop(self._base, self._target, self._settings, self._scratch, autocast=None)


def max_stack(settings: TrainSettings, device: torch.device, weights: int) -> int:
    """Tasks in a stack at most, if an adapter has `weights` weights: the setting, else by the device and `STACK_BYTES`."""
    if settings.stack is not None:
        return settings.stack
    if device.type == "cpu":
        return 1
    return max(1, min(MAX_STACK, STACK_BYTES // (weights * ADAPTER_COPIES)))
