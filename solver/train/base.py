"""The contract of trainers."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from solver.types import Deadline, Fit, FitJob


class Trainer(Protocol):
    """Turns jobs of token sequences into adapters. Knows token ids only."""

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One `Fit` per job, as each completes; stops inside one step's reach of the deadline."""
        ...
