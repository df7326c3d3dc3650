"""The progress that a run reports while it works, and the contract of those who show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from solver.report.results import Summary


@dataclass(frozen=True)
class Progress:
    """How far a run has come. Rates count only the seconds of their own phase; they are 0 before the first result."""

    tasks: int
    done: int  # tasks with at least one finished pass
    failed: int
    wave: int  # of the latest work, from 0
    steps: int  # optimizer steps so far
    trained_rate: float  # tokens/s
    sampled_rate: float  # tokens/s
    agreement: float  # mean over the queries that have candidates, 0..1
    seconds_left: float  # until work stops
    activity: str  # what the workers are doing, in words


class Observer(Protocol):
    """Shows a run's progress, as a terminal table or as plain lines."""

    def progress(self, progress: Progress) -> None:
        """Show the progress. Called after every change and about once a second."""
        ...

    def note(self, line: str) -> None:
        """Show one line: a task done, a worker lost, a file that cannot be written."""
        ...

    def end(self, summary: Summary | None) -> None:
        """Show the summary (None if the run was refused) and give the terminal back. This is the last call."""
        ...


class SilentObserver:
    """Ignores everything."""

    def progress(self, progress: Progress) -> None:
        """Ignore."""

    def note(self, line: str) -> None:
        """Ignore."""

    def end(self, summary: Summary | None) -> None:
        """Ignore."""
