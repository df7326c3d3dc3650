"""The contract between the supervisor, which holds the state, and whatever runs its work: processes, or a simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from solver.types import Fit, TaskOutcome, WorkItem


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model and waits for work."""

    parts: dict[str, float]  # seconds of each part of its start: those of budget.costs.START
    facts: dict[str, str]  # "trainer", "engine", "dtype", "device", ..., in words

    @property
    def seconds(self) -> float:
        """Of the whole start."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Changed:
    """The worker goes on with another engine than it began with."""

    facts: dict[str, str]  # as in `Ready`


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life, about once a second."""

    activity: str  # what is going on, in words; empty while idle
    peak_memory: int  # bytes


@dataclass(frozen=True)
class SharedFit:
    """The outcome of a work item of kind "shared"."""

    fit: Fit
    events: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ItemDone:
    """Every task of the item has been reported; the worker waits for work."""


@dataclass(frozen=True)
class ItemFailed:
    """The item ended with an error that the worker survived; tasks not yet reported will not be."""

    error: str


@dataclass(frozen=True)
class StartFailed:
    """The worker cannot start; it ends. `bad_input`: `error` is the line for the user, and trying again is pointless."""

    error: str
    bad_input: bool = False


@dataclass(frozen=True)
class Warned:
    """Something went wrong that the item goes on in spite of, such as memory that ran out and was made do with."""

    kind: str
    detail: str


Message = Ready | Changed | Heartbeat | SharedFit | TaskOutcome | ItemDone | ItemFailed | StartFailed | Warned


@dataclass(frozen=True, eq=False)
class WorkResult:
    """One message of a worker; `item` is the WorkItem.id it belongs to, empty between items."""

    worker: int
    item: str
    message: Message


@dataclass(frozen=True)
class WorkerLost:
    """A worker process ended or was killed. Nothing more comes from it; a new one of the same number is on its way."""

    worker: int
    reason: str
    output: str = field(default="", compare=False)  # the last lines it wrote


class Executor(Protocol):
    """Runs work items on numbered workers. Every method returns soon, whatever the workers do."""

    @property
    def workers(self) -> int:
        """How many workers there are; they are numbered from 0."""
        ...

    def start(self) -> None:
        """Start every worker; each sends Ready or StartFailed."""
        ...

    def submit(self, worker: int, work: WorkItem) -> None:
        """Hand an item to an idle, ready worker."""
        ...

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """What has come, waiting at most `timeout` seconds for the first of it."""
        ...

    def kill(self, worker: int, reason: str) -> None:
        """Kill a worker at once and start a new one. `results` gives WorkerLost with `reason` before the new one's Ready."""
        ...

    def close(self) -> None:
        """Kill every worker and wait for them to be gone. Idempotent."""
        ...
