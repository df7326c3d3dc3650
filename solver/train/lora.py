"""LoRA of our own, in PEFT's format on disk: the adapters of one task, or those of many tasks advanced by every step.

A stack of n adapters is trained in one step: every row of a batch uses its own task's matrices. Each adapter comes out as if
it were fitted alone (to rounding, and up to dropout's random numbers): loss normalisation, gradient clipping and the response
to a loss that is not finite are per task. A small model on a large GPU spends most of a lone step on launching kernels; a stack
pays for that once. A processor launches nothing: there one adapter after the other is faster, by the merged product of
`model.lora` and the fused pass of `model.fused_training`, which both know one adapter at a time.
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

STACK_BYTES = 2 * 2**30  # for the weights, gradients and optimizer state of a stack
MAX_STACK = 64  # tasks; a step of more is no longer bound by launches, and every task of a stack waits for the last one


class LoraFitTarget:
    """A stack of adapters as what a loop trains."""

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
        """Fresh matrices, or those of an adapter where it has some. Raises InputError if it does not fit."""
        self._stack.reset(slot, seed)
        if start is not None:
            self._stack.load(slot, start)

    def use(self, rows: Tensor) -> None:
        """Alone, all rows are slot 0 and take the fast path."""
        self._stack.set_rows(None if self.slots == 1 else rows)

    def save(self, slot: int, folder: Path) -> None:
        """In PEFT's format."""
        self._stack.save(slot, folder)


class LoraTrainer:
    """A LoRA adapter per job, as many jobs a step as `max_stack` says. Raises InputError if the model has no layer for them."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if left_out := check_layers(base):
            log.warning("trainer: %s", left_out)
        self._base, self._settings, self._scratch = base, settings, scratch
        self._make(1)
        self.max_stack = max_stack(settings, base.device, sum(p.numel() for p in self._target.parameters()))

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, in order; those of a stack arrive together."""
        return fit_in_stacks(self._loop_of, jobs, self.max_stack, deadline)

    def move(self, device: torch.device) -> None:
        """Take the matrices elsewhere between two fits."""
        self._loop.move(device)

    def _loop_of(self, slots: int) -> Loop:
        if self._target.slots != slots:
            del self._target, self._loop  # one stack in memory
            self._make(slots)
        return self._loop

    def _make(self, slots: int) -> None:
        self._target = LoraFitTarget(self._base, self._settings, slots)
        self._loop = Loop(self._base, self._target, self._settings, self._scratch, autocast=None)


def max_stack(settings: TrainSettings, device: torch.device, weights: int) -> int:
    """The most tasks in a stack, for adapters of so many weights: by the setting, else by the device and `STACK_BYTES`."""
    if settings.stack is not None:
        return settings.stack
    if device.type == "cpu":
        return 1
    return max(1, min(MAX_STACK, STACK_BYTES // (weights * ADAPTER_COPIES)))
