"""What a run reports while it works, and who listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from solver.report.results import Summary


@dataclass(frozen=True)
class Progress:
    """How far a run is. Rates are tokens a second of the phase that makes them, 0 before the first result."""

    tasks: int
    done: int  # tasks with at least one finished pass
    failed: int
    wave: int  # of the latest work, from 0
    steps: int  # optimizer steps so far
    trained_rate: float  # tokens/s
    sampled_rate: float  # tokens/s
    agreement: float  # mean over the queries that have candidates, 0..1
    seconds_left: float  # until work stops
    activity: str  # what the workers do now, in words


class Observer(Protocol):
    """Is told of a run's progress; a terminal table or plain lines."""

    def progress(self, progress: Progress) -> None:
        """Called after every change and about once a second."""
        ...

    def note(self, line: str) -> None:
        """One line for people: a task done, a worker lost, a file that cannot be written."""
        ...

    def end(self, summary: Summary | None) -> None:
        """The last call: shows what the run leaves, None if it was refused, and gives the terminal back."""
        ...


class SilentObserver:
    """Ignores everything."""

    def progress(self, progress: Progress) -> None:
        """Ignore."""

    def note(self, line: str) -> None:
        """Ignore."""

    def end(self, summary: Summary | None) -> None:
        """Ignore."""
