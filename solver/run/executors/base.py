"""The contracts of executors, which run the supervisor's work: in processes of this machine, or simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from solver.messages import Message
from solver.types import ProgramWork, WorkItem


@dataclass(frozen=True, eq=False)
class WorkResult:
    """One message of a worker; `item` is the WorkItem.id it belongs to, empty between items."""

    worker: int
    item: str
    message: Message


@dataclass(frozen=True)
class WorkerLost:
    """A worker process ended or was killed. No more messages come from it, and a new one of the same number is started."""

    worker: int
    reason: str
    output: str = field(default="", compare=False)  # the last lines it wrote


class Processes(Protocol):
    """Numbered processes that work. Every method returns soon, whatever they do."""

    @property
    def workers(self) -> int:
        """How many there are; they are numbered from 0."""
        ...

    def start(self) -> None:
        """Start all of them; each says when it is ready."""
        ...

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """The messages that have arrived, waiting at most `timeout` seconds for the first."""
        ...

    def kill(self, worker: int, reason: str) -> None:
        """Kill a worker at once and start a new one. `results` gives WorkerLost with `reason` before the new one's Ready."""
        ...


class Executor(Processes, Protocol):
    """Runs work items on workers. Each sends Ready or StartFailed first."""

    def close(self) -> None:
        """Kill every worker and wait for them to be gone. Idempotent."""
        ...

    def submit(self, worker: int, work: WorkItem) -> None:
        """Hand an item to an idle, ready worker."""
        ...


class ProgramExecutor(Processes, Protocol):
    """Searches for programs. Each process sends ProgramReady first."""

    def close(self, patience: float) -> None:
        """Kill every process and wait at most `patience` seconds for them to be gone. Idempotent."""
        ...

    def submit(self, worker: int, work: ProgramWork) -> None:
        """Hand a task to a ready process, which works on what it was handed in this order."""
        ...
