"""Simulated program search for rehearsals: processes that take time, find something or nothing, crash and hang."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from random import Random

from solver.budget.rehearsal import Faults
from solver.commands.simulated_executor import LONG, SimulatedClock, Sketch
from solver.messages import Message
from solver.run.executors.base import WorkerLost, WorkResult
from solver.types import Candidate, Program, ProgramOutcome, ProgramReady, ProgramWork, Status

START_SECONDS = 0.5  # of a process
SOLVED = 0.3  # share of tasks for which a program is found
LATE = 0.2  # seconds that a search may take longer than it was allowed


class SimulatedPrograms:
    """A ProgramExecutor on a simulated clock."""

    def __init__(
        self,
        clock: SimulatedClock,
        sketches: Mapping[str, Sketch],
        dice: Random,
        processes: int,
        faults: Faults,
        wake: Callable[[float], None],
    ) -> None:
        """`sketches` of all tasks by id; `wake` is told when something will happen, so that nobody sleeps longer."""
        self._clock, self._sketches, self._dice, self._faults, self._wake = clock, sketches, dice, faults, wake
        self._lives = [0] * processes  # counts the processes of each number; messages of earlier ones are dropped
        self._free_at = [0.0] * processes  # when each has done what it was handed; inf: it hangs
        self._queue: list[tuple[float, int, int, int, str, Message | WorkerLost]] = []
        self._count = 0
        self.gone_at = 0.0  # when the last of the killed processes has vanished

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return len(self._lives)

    def start(self) -> None:
        """Start every process."""
        for number in range(self.workers):
            self._spawn(number, self._clock.now)

    def submit(self, worker: int, work: ProgramWork) -> None:
        """Take a task. What will happen to it is drawn now."""
        began = max(self._clock.now, self._free_at[worker])
        solved = self._dice.random() < SOLVED
        seconds = work.seconds * self._dice.random() if solved else work.seconds + LATE * self._dice.random()
        fault = self._faults.of_item(self._dice)
        if fault in ("stuck", "silent"):
            began = float("inf")
        self._free_at[worker] = at = began + seconds
        if at == float("inf"):
            return
        if fault == "crash":
            self._say(at, worker, "", WorkerLost(worker, "it was ended by SIGSEGV"))
            return
        program = Program("simulated", 1.0, exact=True, agreement=1.0)
        grids = self._sketches[work.task.id].grids
        answers = tuple((Candidate.of_program(right, program),) if solved else () for right, _ in grids)
        status: Status = "complete" if solved else "cut"
        self._say(at, worker, work.id, ProgramOutcome(work.task.id, status, answers, seconds, work.seconds))

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """What has happened by now; it never waits."""
        del timeout
        while self._queue and self._queue[0][0] <= self._clock.now:
            at, _, number, life, item, message = heapq.heappop(self._queue)
            if self._lives[number] != life:
                continue
            if isinstance(message, WorkerLost):
                self._spawn(number, at)
                yield message
            else:
                yield WorkResult(number, item, message)

    def kill(self, worker: int, reason: str) -> None:
        """Kill a process; it is lost once it has vanished."""
        self._lives[worker] += 1
        self._say(self._vanish(), worker, "", WorkerLost(worker, reason))

    def close(self, patience: float) -> None:
        """Kill every process and wait for none."""
        del patience
        for number in range(self.workers):
            self._lives[number] += 1
            self._vanish()

    def _vanish(self) -> float:
        """When a process that is killed now is gone."""
        seconds = LONG if self._dice.random() < self._faults.unkillable else self._dice.uniform(0.0, self._faults.kill_seconds)
        self.gone_at = max(self.gone_at, self._clock.now + seconds)
        return self._clock.now + seconds

    def _spawn(self, number: int, at: float) -> None:
        self._lives[number] += 1
        self._free_at[number] = ready = at + START_SECONDS * (0.5 + self._dice.random())
        self._say(ready, number, "", ProgramReady(ready - at))

    def _say(self, at: float, number: int, item: str, message: Message | WorkerLost) -> None:
        heapq.heappush(self._queue, (at, self._count, number, self._lives[number], item, message))
        self._count += 1
        self._wake(at)
