"""The executor of a run without a network: it has no workers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from solver.run.executors.base import WorkerLost, WorkResult
from solver.types import WorkItem


class NoWorkers:
    """An Executor without workers."""

    workers = 0

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, worker: int, work: WorkItem) -> None:
        """Never called."""
        raise ValueError(f"there is no worker {worker} for {work.id}")

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """Nothing; waits."""
        time.sleep(max(timeout, 0.0))
        return iter(())

    def kill(self, worker: int, reason: str) -> None:
        """Nothing to kill."""

    def close(self) -> None:
        """Nothing to close."""
