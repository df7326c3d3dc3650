"""Program search within a run: hands tasks to its processes, takes in what they find, and replaces processes that fail.

Nothing that happens here costs the run more than answers of programs: a process that crashes, hangs or cannot start is an event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from solver.arc.task import Task
from solver.budget.program_share import ProgramTime
from solver.run.executors.base import ProgramExecutor, WorkerLost, WorkResult
from solver.types import Deadline, ProgramOutcome, ProgramReady, ProgramWork

AHEAD = 4  # tasks that a process has at a time: it begins the next one without waiting for the supervisor
MAX_FAILED_STARTS = 3  # in a row, after which a process is given up
START_SECONDS = 60.0  # for a process to start, after which it is killed
CLOSING = 0.1  # seconds to wait for killed processes
GRACE = 5.0  # seconds past the end of its search at which a process is killed


@dataclass(frozen=True, eq=False)
class ProgramResources:
    """The processes of program search, and how their time is divided."""

    executor: ProgramExecutor
    time: ProgramTime


@dataclass(eq=False)
class _Process:
    """What is known of one process. Times are seconds on the clock of the run."""

    state: Literal["starting", "ready", "given up"]
    due: float  # when it should be ready, or have ended its first search
    works: list[ProgramWork] = field(default_factory=list)  # that it was handed, in order
    dying: bool = False  # killed, and not yet reported lost
    failed_starts: int = 0


class ProgramSearch:
    """The searches of one run, the shortest tasks first."""

    def __init__(
        self,
        resources: ProgramResources,
        tasks: Sequence[Task],
        take: Callable[[ProgramOutcome, int], None],
        event: Callable[[str, str, str], None],
        wanted: Callable[[str], bool],
    ) -> None:
        """`tasks` are those without a search so far. `take` gets every outcome and the number of its process, `event` the
        kind, detail and task of events.

        Tasks that are not `wanted` any more, by id, are searched after all others.
        """
        self._executor, self._time = resources.executor, resources.time
        self._waiting = sorted((task.without_answers() for task in tasks), key=lambda task: (task.grid_tokens(), task.id))
        self._take = take
        self._event = event
        self._wanted = wanted
        self._processes: list[_Process] = []
        self._over = not tasks or not self._executor.workers
        self._works = 0

    @property
    def active(self) -> bool:
        """Whether a search is in progress or to come."""
        return not self._over

    @property
    def activity(self) -> str:
        """What it does, in words; empty while it does nothing."""
        searching = [process.works[0].task.id for process in self._processes if process.works]
        return f"searching programs for {', '.join(searching)}" if searching else ""

    def start(self, now: float) -> None:
        """Start the processes."""
        if not self._over:
            self._processes = [_Process("starting", now + START_SECONDS) for _ in range(self._executor.workers)]
            self._executor.start()

    def close(self) -> None:
        """Kill the processes and hardly wait for them: the end of the run has no time for that. Idempotent."""
        self._over = True
        self._executor.close(CLOSING)

    def step(self, end: Deadline, patience: float = 0.0) -> None:
        """Take in what has arrived, waiting at most `patience` seconds for it, and hand out tasks; work ends at `end`."""
        if self._over:
            return
        for result in self._executor.results(patience):
            self._hear(result, end.clock)
        now = end.clock()
        for number, process in enumerate(self._processes):
            if process.state != "given up" and not process.dying and now > process.due:
                process.dying = True
                what = "start" if process.state == "starting" else "search"
                self._executor.kill(number, f"{now - process.due:.0f} s past the end of its {what}")
        self._hand_out(end)
        idle = all(process.state == "given up" or (process.state == "ready" and not process.works) for process in self._processes)
        if idle and not any(process.dying for process in self._processes):
            self.close()  # no task waits, there is no time for one, or there is no process

    def next_look(self) -> float:
        """The earliest time at which a process may be overdue; inf if none can be."""
        dues = [process.due for process in self._processes if not process.dying and process.state != "given up"]
        return min(dues, default=float("inf")) if not self._over else float("inf")

    def pardon(self, now: float) -> None:
        """Measure the lateness of processes anew from `now` on, because the supervisor has not listened for a while."""
        for process in self._processes:
            if process.state == "starting":
                process.due = max(process.due, now + START_SECONDS)
            elif process.works:
                process.due = max(process.due, now + process.works[0].seconds + GRACE)

    # -- inside

    def _hear(self, result: WorkResult | WorkerLost, clock: Callable[[], float]) -> None:
        process, now = self._processes[result.worker], clock()
        if isinstance(result, WorkerLost):
            self._lose(process, result, now)
            return
        match result.message:
            case ProgramReady() if process.state == "starting":
                process.state, process.failed_starts, process.due = "ready", 0, float("inf")
            case ProgramOutcome() as outcome if process.works and process.works[0].id == result.item:
                process.works.pop(0)
                process.due = self._due(process, now)
                self._finish(outcome, result.worker)

    def _finish(self, outcome: ProgramOutcome, number: int) -> None:
        self._time.used += outcome.seconds
        if outcome.error:
            self._event("program search failed", outcome.error, outcome.task_id)
        self._take(outcome, number)

    def _lose(self, process: _Process, loss: WorkerLost, now: float) -> None:
        """Note the loss of a process. Its first task has failed, and the others wait again; a new process is starting."""
        process.dying = False
        if process.state == "starting":
            process.failed_starts += 1
            last = loss.output.splitlines()[-1:] or [loss.reason]
            self._event("program search", f"a process did not start: {loss.reason}: {last[0]}", "")
            if process.failed_starts >= MAX_FAILED_STARTS:
                process.state = "given up"
                self._event("program search", f"a process is given up after {process.failed_starts} failed starts", "")
                return
        works, process.works = process.works, []
        self._waiting[:0] = [work.task for work in works[1:]]
        process.state, process.due = "starting", now + START_SECONDS
        if works:
            answers = ((),) * len(works[0].task.test)
            reason = f"its process was lost: {loss.reason}"
            lost = ProgramOutcome(works[0].task.id, "failed", answers, works[0].seconds, works[0].seconds, reason)
            self._finish(lost, loss.worker)

    def _hand_out(self, end: Deadline) -> None:
        for ahead in range(AHEAD):
            for number, process in enumerate(self._processes):
                if process.state != "ready" or process.dying or len(process.works) > ahead or not self._waiting:
                    continue
                committed = sum(work.seconds for other in self._processes for work in other.works)
                seconds = self._time.seconds(end.remaining(), len(self._waiting), committed)
                if seconds is None:
                    return
                self._works += 1
                work = ProgramWork(f"p{self._works}", self._next(), seconds, end.at)
                process.works.append(work)
                if len(process.works) == 1:
                    process.due = self._due(process, end.clock())
                self._executor.submit(number, work)

    def _next(self) -> Task:
        place = next((place for place, task in enumerate(self._waiting) if self._wanted(task.id)), 0)
        return self._waiting.pop(place)

    def _due(self, process: _Process, now: float) -> float:
        """When a process that begins with its first task now is overdue."""
        return now + process.works[0].seconds + GRACE if process.works else float("inf")
