"""Processes on a simulated clock: what they send arrives at its time, and a lost process starts anew."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from solver.run.executors.base import WorkerLost, WorkResult


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SimulatedProcesses:
    """Executors inherit from it; `_spawn` starts a process, and `_later` queues what it sends."""

    clock: Clock
    workers: int = 1
    closed: bool = False
    _queue: list[tuple[float, int, int, int, WorkResult | WorkerLost]] = field(default_factory=list)
    _life: dict[int, int] = field(
        default_factory=dict
    )  # how many processes a number has had; results of earlier ones are dropped
    _count: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        for worker in range(self.workers):
            self._spawn(worker, self.clock.now)

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        until = self.clock.now + timeout
        while self._queue and self._queue[0][0] <= until:
            at, _, worker, life, result = heapq.heappop(self._queue)
            if self._life[worker] != life or self.closed:
                continue
            self.clock.now = max(self.clock.now, at)
            if isinstance(result, WorkerLost):
                self._spawn(worker, at)
            elif not self._sends(result, at):
                continue
            yield result
            return
        self.clock.now = until

    def kill(self, worker: int, reason: str) -> None:
        self._life[worker] += 1
        self._later(self.clock.now + 0.1, worker, WorkerLost(worker, reason))

    def _spawn(self, worker: int, at: float) -> None:
        self._life[worker] = self._life.get(worker, 0) + 1

    def _sends(self, result: WorkResult, at: float) -> bool:
        """Whether the process really sends this result, which is due."""
        return True

    def _later(self, at: float, worker: int, result: WorkResult | WorkerLost) -> None:
        heapq.heappush(self._queue, (at, next(self._count), worker, self._life[worker], result))
