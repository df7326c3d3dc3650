"""The executor without processes: for a run without a network, and for one without program search."""

from __future__ import annotations

import time
from collections.abc import Iterator

from solver.run.executors.base import WorkerLost, WorkResult
from solver.types import ProgramWork, WorkItem


class NoWorkers:
    """An Executor, and a ProgramExecutor, without processes."""

    workers = 0

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, worker: int, work: WorkItem | ProgramWork) -> None:
        """Never called."""
        raise ValueError(f"there is no worker {worker} for {work.id}")

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """Nothing; waits."""
        time.sleep(max(timeout, 0.0))
        return iter(())

    def kill(self, worker: int, reason: str) -> None:
        """Nothing to kill."""

    def close(self, patience: float = 0.0) -> None:
        """Nothing to close."""
