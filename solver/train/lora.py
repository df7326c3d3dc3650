"""The trainer `lora`: this package's own LoRA, in PEFT's format on disk, for one task at a time or for many in one step.

A stack of n adapters is trained by one optimizer step (`train.stack_loop`): every row of a batch uses the matrices of its own
task. Loss normalisation, gradient clipping, learning rate and the response to a loss that is not finite are per task, so each
adapter comes out as if it were fitted alone, except for rounding and the random numbers of dropout. A stack shares the
launches of kernels, which are expected to take most of the time of a step of one task with a small model on a large GPU; that was
not measured yet. On a CPU one adapter after the other is faster, by the merged product of `model.lora` and the fused pass of
`model.fused_training`; neither takes stacks.
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
from solver.train.compiler import CompilerState, PassCompiler
from solver.train.loop import Loop, fit_in_stacks
from solver.train.stack_loop import StackLoop
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

STACK_BYTES = 2 * 2**30  # at most, for the weights, gradients and optimizer state of a stack
MAX_STACK = 64  # tasks; an estimate. Launches hardly limit such a step any more, and all tasks of a stack wait for the slowest
# Weights of a model: one task alone fills a GPU from this size on. An estimate: 4 sequences of 1,000 tokens are 7 * 10^12
# operations then, 36 ms at 200 TFLOP/s, and launching the kernels of a step takes about as long.
FILLING_WEIGHTS = 300_000_000


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

    def use_tasks(self, weights: Tensor | None) -> None:
        """Use these adapters (tasks, numbers) for the tasks of the next pass, whose rows lie together; None: no pass follows."""
        self._stack.set_tasks(weights)

    def save(self, slot: int, folder: Path) -> None:
        """Write the slot's adapter in PEFT's format."""
        self._stack.save(slot, folder)


class LoraTrainer:
    """Fits a LoRA adapter for each job, `max_stack` jobs at a time. Raises InputError if the model has no layer for LoRA."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if left_out := check_layers(base):
            log.warning("trainer: %s", left_out)
        self._base, self._settings, self._scratch = base, settings, scratch
        self._compiling = CompilerState.of(base.device, settings.compile)
        self._make(1)
        adapter = sum(p.numel() for p in self._target.parameters())
        self.max_stack = max_stack(settings, base.device, adapter, base.parameters)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """Yield one fit for each job, in order. The fits of a stack come together, when the last one is done."""
        return fit_in_stacks(self._loop_of, jobs, self.max_stack, deadline)

    def move(self, device: torch.device) -> None:
        """Move the matrices to another device, between two fits."""
        self._loop.move(device)

    def _loop_of(self, slots: int) -> Loop | StackLoop:
        if self._target.slots != slots:
            del self._target, self._loop  # first: only one stack may be in memory
            self._make(slots)
        return self._loop

    def _make(self, slots: int) -> None:
        base, settings, scratch = self._base, self._settings, self._scratch
        self._target = LoraFitTarget(base, settings, slots)
        if slots == 1 and base.device.type == "cpu":
            self._loop: Loop | StackLoop = Loop(base, self._target, settings, scratch, autocast=None)
            return
        compiler = PassCompiler(self._target.model, settings.compile, self._compiling)
        self._loop = StackLoop(base, self._target, settings, scratch, compiler)


def max_stack(settings: TrainSettings, device: torch.device, adapter: int, model: int) -> int:
    """Tasks in a stack at most, if an adapter has `adapter` weights and the model has `model` weights.

    It is what the settings say, else one on a CPU, and on a GPU as many tasks as fill it and as `STACK_BYTES` hold.
    """
    if settings.stack is not None:
        return settings.stack
    if device.type == "cpu":
        return 1
    return max(1, min(MAX_STACK, filling_stack(model), STACK_BYTES // (adapter * ADAPTER_COPIES)))


def filling_stack(model: int) -> int:
    """The number of tasks whose step fills a GPU, if the model has `model` weights; an estimate, see `FILLING_WEIGHTS`."""
    return -(-FILLING_WEIGHTS // max(1, model))
