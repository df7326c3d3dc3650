"""The interface of trainers, and the state that they share in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from solver.types import Deadline, Fit, FitJob

if TYPE_CHECKING:
    from solver.train.subprocess_trainer import SubprocessTrainer


class Trainer(Protocol):
    """Fits one adapter for each job. It sees token ids only, no tasks and no text."""

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """Yield one `Fit` for each job as soon as it is done. No step begins that is expected to end after the deadline."""
        ...


@dataclass(eq=False)
class TrainerState:
    """What a worker process keeps when one trainer of its base model replaces another, for example with smaller batches."""

    unsloth_failed: str = ""  # why unsloth did not start; it is not tried again. Empty: it has not failed
    unsloth: SubprocessTrainer | None = None  # the process that runs unsloth, shared by all trainers

    @property
    def peak_memory(self) -> int:
        """Peak memory of the process that runs unsloth, host plus device, in bytes, as of its last reply; 0 without a process."""
        return 0 if self.unsloth is None else self.unsloth.peak_memory
