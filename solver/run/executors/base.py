"""The contracts of executors, which run the supervisor's work: on this machine, on the nodes of a cluster, or simulated."""

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


@dataclass(frozen=True)
class WorkerAway:
    """Nobody works under this number now: its node has left the cluster, or no node has a place for it yet.

    What it had in hand goes back without blame. Its next message, if one comes, is of a new worker.
    """

    worker: int
    reason: str


class Processes(Protocol):
    """Numbered processes that work. Every method returns soon, whatever they do."""

    @property
    def workers(self) -> int:
        """How many there are; they are numbered from 0. The number may grow, where nodes join a cluster."""
        ...

    def start(self) -> None:
        """Start all of them; each says when it is ready."""
        ...

    def kill(self, worker: int, reason: str) -> None:
        """Kill a worker at once and start a new one. `results` gives WorkerLost with `reason` before the new one's Ready."""
        ...


News = WorkResult | WorkerLost | WorkerAway


class Executor(Processes, Protocol):
    """Runs work items on workers. Each sends Ready or StartFailed first."""

    def close(self) -> None:
        """Kill every worker and wait for them to be gone. Idempotent."""
        ...

    def results(self, timeout: float) -> Iterator[News]:
        """The messages that have arrived, waiting at most `timeout` seconds for the first."""
        ...

    def submit(self, worker: int, work: WorkItem) -> None:
        """Hand an item to an idle, ready worker."""
        ...


class ProgramExecutor(Processes, Protocol):
    """Searches for programs. Each process sends ProgramReady first."""

    def close(self, patience: float) -> None:
        """Kill every process and wait at most `patience` seconds for them to be gone. Idempotent."""
        ...

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """The messages that have arrived, waiting at most `timeout` seconds for the first."""
        ...

    def submit(self, worker: int, work: ProgramWork) -> None:
        """Hand a task to a ready process, which works on what it was handed in this order."""
        ...
