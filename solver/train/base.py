"""The contract of trainers, and what a process remembers of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from solver.types import Deadline, Fit, FitJob

if TYPE_CHECKING:
    from solver.train.subprocess_trainer import SubprocessTrainer


class Trainer(Protocol):
    """Turns jobs of token sequences into adapters. Knows token ids only."""

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One `Fit` per job, as each completes; stops inside one step's reach of the deadline."""
        ...


@dataclass(eq=False)
class TrainerState:
    """What a process remembers of the trainers of its base model from one to the next."""

    unsloth_failed: str = ""  # why unsloth did not start, and is not tried again
    unsloth: SubprocessTrainer | None = None  # its process, which all trainers share

    @property
    def peak_memory(self) -> int:
        """Bytes: the most that unsloth's process had held when it last answered, on host and device; 0 without one."""
        return 0 if self.unsloth is None else self.unsloth.peak_memory
