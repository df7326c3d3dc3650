"""Fits of all weights of a tiny model: a working copy in fp32, set back to the base for every job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solver.config import TrainSettings
from solver.errors import InputError
from solver.model.adapters import load_full, own_weights, save_full
from solver.model.load import Base
from solver.train.loop import Loop, fit_in_stacks
from solver.types import Deadline, Fit, FitJob


class FullFitTarget:
    """All weights of a model as what a loop trains."""

    kind: Literal["lora", "full"] = "full"
    slots = 1
    reentrant = False

    def __init__(self, base: Base) -> None:
        self._base = base
        self.model: Any = own_weights(base, torch.float32)

    def parameters(self) -> list[nn.Parameter]:
        """Every weight, tied ones once."""
        return list(self.model.parameters())

    @torch.no_grad()
    def begin(self, slot: int, seed: int, start: Path | None) -> None:  # noqa: ARG002
        """The base's weights, or those of an adapter. Raises InputError if it does not fit."""
        if start is not None:
            load_full(self.model, start)
            return
        for own, base in zip(self.model.parameters(), self._base.model.parameters(), strict=True):
            own.copy_(base)

    def use(self, rows: Tensor) -> None:
        """All rows are the one model's."""

    def save(self, slot: int, folder: Path) -> None:  # noqa: ARG002
        """As a model folder."""
        save_full(self._base, self.model, folder)


class FullTrainer:
    """A whole set of weights per job. Raises InputError for a quantised base, whose weights cannot be trained."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if base.quantized:
            raise InputError("train.trainer=full cannot train a quantised model; use lora, or model.quantization=none")
        autocast = None if base.dtype == torch.float32 else base.dtype
        self._loop = Loop(base, FullFitTarget(base), settings, scratch, autocast)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, in order, as each completes."""
        return fit_in_stacks(lambda _: self._loop, jobs, 1, deadline)
