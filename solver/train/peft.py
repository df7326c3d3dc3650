"""LoRA fits one after another: the base is wrapped once, the adapter starts afresh for every job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solver.config import TrainSettings
from solver.model.load import Base
from solver.model.lora import LoraShape, attach
from solver.train.loop import Loop, fit_in_stacks
from solver.types import Deadline, Fit, FitJob


class LoraTarget:
    """A stack of adapters as what a loop trains."""

    kind: Literal["lora", "full"] = "lora"
    reentrant = False

    def __init__(self, base: Base, settings: TrainSettings, slots: int) -> None:
        shape = LoraShape(settings.rank, settings.alpha, settings.rslora, settings.dropout)
        self._stack = attach(base, shape, slots)
        self.slots = slots
        self.model: Any = self._stack.model

    def parameters(self) -> list[nn.Parameter]:
        """Every A and B, (slots, ...)."""
        return self._stack.parameters()

    def begin(self, slot: int, seed: int, start: Path | None) -> None:
        """Fresh matrices, or those of an adapter. Raises InputError if it does not fit."""
        if start is None:
            self._stack.reset(slot, seed)
        else:
            self._stack.load(slot, start)

    def use(self, rows: Tensor) -> None:
        """Alone, all rows are slot 0 and take the fast path."""
        self._stack.set_rows(None if self.slots == 1 else rows)

    def save(self, slot: int, folder: Path) -> None:
        """In PEFT's format."""
        self._stack.save(slot, folder)


class PeftTrainer:
    """A LoRA adapter per job. Raises InputError if the model has no attention or MLP projections."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        self._loop = Loop(base, LoraTarget(base, settings, 1), settings, scratch, autocast=None)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, in order, as each completes."""
        return fit_in_stacks(lambda _: self._loop, jobs, 1, deadline)

    def move(self, device: torch.device) -> None:
        """Take the matrices elsewhere between two fits."""
        self._loop.move(device)
