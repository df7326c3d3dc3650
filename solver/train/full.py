"""Fits all weights of a small model, in a copy in fp32 that starts from the base's weights for every job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from solver.config import TrainSettings
from solver.errors import InputError
from solver.model.adapters import load_full, own_weights, save_full
from solver.model.load import Base
from solver.train.loop import Loop, fit_in_stacks
from solver.types import Deadline, Fit, FitJob


class FullFitTarget:
    """All weights of a copy of the base model."""

    kind: Literal["lora", "full"] = "full"
    slots = 1
    reentrant = False

    def __init__(self, base: Base) -> None:
        self._base = base
        self.model: Any = own_weights(base, torch.float32)

    def parameters(self) -> list[nn.Parameter]:
        """Every weight; tied ones once."""
        return list(self.model.parameters())

    @torch.no_grad()
    def begin(self, slot: int, seed: int, start: Path | None) -> None:  # noqa: ARG002
        """Set the weights to those in the folder `start`, else to the base's. Raises InputError if they do not fit the model."""
        if start is not None:
            load_full(self.model, start)
            return
        for own, base in zip(self.model.parameters(), self._base.model.parameters(), strict=True):
            own.copy_(base)

    def save(self, slot: int, folder: Path) -> None:  # noqa: ARG002
        """Write a model folder."""
        save_full(self._base, self.model, folder)


class FullTrainer:
    """Fits all weights of the model for each job. Raises InputError for a quantised base, whose weights cannot be trained."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if base.quantized:
            raise InputError("train.trainer=full cannot train a quantised model; use lora, or model.quantization=none")
        autocast = None if base.dtype == torch.float32 else base.dtype
        self._loop = Loop(base, FullFitTarget(base), settings, scratch, autocast)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """Yield one fit for each job, in order, as soon as it is done."""
        return fit_in_stacks(lambda _: self._loop, jobs, 1, deadline)
