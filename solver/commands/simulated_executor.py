"""Simulated workers: they take items, answer, and fail on a simulated clock.

Nothing is computed and nothing waits: `results` moves the clock to the next event. All randomness comes from one seeded
generator, so a rehearsal can be repeated exactly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.budget.rehearsal import Course, DeviceSpeed, Fault, Faults, Noise, course
from solver.messages import Heartbeat, ItemDone, ItemFailed, Message, Ready, SharedFit, StartFailed, WorkerFacts
from solver.run.executors.base import WorkerLost, WorkResult
from solver.types import Candidate, Fit, QueryOutcome, Score, Status, TaskOutcome, TaskWork, WorkItem

REAP_SECONDS = 1.0  # `close` waits for killed workers, as the local executor does
LONG = 3600.0  # seconds an unkillable process stays


class SimulatedClock:
    """A clock that advances only when `now` is set."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@dataclass(frozen=True, eq=False)
class Sketch:
    """What a simulated worker knows of a task: its sizes, two possible answers, and its difficulty."""

    tokens: int  # of a training sequence and of a prompt
    answers: tuple[int, ...]  # tokens, by query
    grids: tuple[tuple[Grid, Grid], ...]  # the answer that views agree on, and another one; by query
    ease: float  # share of views that agree before any fit
    steps: float  # optimizer steps after which two thirds of the others do; inf: they never will
    poisoned: bool = False  # its worker is lost every time

    @staticmethod
    def of(task: Task, dice: Random, poisoned: bool = False) -> Sketch:
        """A task with a drawn difficulty."""
        shown = [pair.output for pair in task.train if pair.output is not None]
        answer = max(grid.size + grid.shape[0] for grid in shown)
        grids = tuple((shown[0], pair.input) for pair in task.test)
        hopeless = dice.random() < 0.4
        steps = float("inf") if hopeless else dice.lognormvariate(4.0, 0.8)
        return Sketch(task.grid_tokens(), (answer,) * len(task.test), grids, dice.betavariate(1.0, 3.0), steps, poisoned)

    def agreeing(self, steps: float) -> float:
        """The share of views that agree after so many optimizer steps."""
        return 1.0 - (1.0 - self.ease) * 2.718281828 ** (-steps / self.steps)


@dataclass(eq=False)
class _Worker:
    """One simulated worker."""

    slower: float
    life: int = 0  # counts its processes; messages of earlier ones are dropped
    alive: bool = False
    mute: bool = False
    working_since: float | None = None  # since when it works on an item and does not hang
    down_since: float | None = None  # since when a fault keeps it from work
    loading_since: float | None = None  # since when its first process starts, without a fault so far
    gone_at: float = 0.0  # when the last process killed has vanished


@dataclass(frozen=True)
class _Hang:
    """An event: from now on the worker does nothing until it is killed."""

    silent: bool  # not even heartbeats


@dataclass(frozen=True)
class _Wake:
    """An event outside of the workers: `results` returns when it happens."""


@dataclass(eq=False)
class Usage:
    """Worker seconds."""

    worked: float = 0.0  # spent on items; not while hung
    lost: float = 0.0  # of `worked`, on tasks without an outcome
    down: float = 0.0  # hung, dead, or starting again
    loading: float = 0.0  # before the first start of a worker, and in it
    closed_at: float = 0.0  # when the run closed the workers
    down_then: int = 0  # workers that were down at that time
    events: dict[str, int] = field(default_factory=dict)  # faults that happened, by kind


class SimulatedExecutor:
    """An Executor on a simulated clock."""

    def __init__(
        self,
        clock: SimulatedClock,
        pace: DeviceSpeed,
        sketches: Mapping[str, Sketch],
        dice: Random,
        workers: int = 1,
        noise: Noise | None = None,
        faults: Faults | None = None,
    ) -> None:
        """`sketches` of all tasks by id; all chance is drawn from `dice`."""
        self._clock = clock
        self._pace = pace
        self._sketches = sketches
        self._dice = dice
        self._noise = noise or Noise()
        self._faults = faults or Faults()
        run = self._noise.of_run(dice)
        self._workers = [_Worker(run * self._noise.of_device(dice)) for _ in range(workers)]
        self._queue: list[tuple[float, int, int, int, str, Message | WorkerLost | _Hang | _Wake]] = []
        self._count = 0
        self._steps: dict[str, float] = {}  # optimizer steps a task has had
        self._closed = False
        self.usage = Usage()

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def gone_at(self) -> float:
        """When the last of the killed workers has vanished."""
        return max(worker.gone_at for worker in self._workers)

    def start(self) -> None:
        """Start every worker."""
        for number, worker in enumerate(self._workers):
            self.usage.loading += self._clock.now
            worker.loading_since = self._clock.now
            self._spawn(number)

    def submit(self, worker: int, work: WorkItem) -> None:
        """Take an item. Everything that will happen to it is drawn now."""
        state = self._workers[worker]
        state.working_since = at = self._clock.now
        if work.kind == "shared":
            self._share(worker, work)
            return
        fault = self._faults.of_item(self._dice)
        if any(self._sketches[one.task.id].poisoned for one in work.tasks):
            fault = "crash"
        if fault is not None:
            self._happened(fault)
        for one in work.tasks:
            taken = self._course(state, one, at, work)
            if fault in ("crash", "stuck", "silent", "failed"):
                self._break_off(worker, work, fault, at + self._dice.random() * taken.seconds)
                return
            outcome = self._outcome(one, work, taken, fault)
            at += taken.seconds
            if fault == "late":
                at = max(at, work.deadline_at) + self._dice.uniform(0.0, self._faults.late_seconds)
            self._say(at, worker, work.id, outcome)
        self._say(at, worker, work.id, ItemDone())

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """The next message within `timeout` simulated seconds; if there is none, heartbeats of the workers that send them."""
        until = self._clock.now + max(timeout, 0.0)
        while self._queue and self._queue[0][0] <= until:
            at, _, number, life, item, message = heapq.heappop(self._queue)
            if isinstance(message, _Wake):
                self._clock.now = max(self._clock.now, at)
                return
            worker = self._workers[number]
            if worker.life != life:
                continue
            self._clock.now = max(self._clock.now, at)
            if isinstance(message, _Hang):
                self._account(worker, at, lost=True)
                worker.mute, worker.down_since = message.silent, at
                continue
            if isinstance(message, WorkerLost):
                self._account(worker, at, lost=True)
                self._down(worker)
                self._spawn(number)
                yield message
            else:
                self._account(worker, at, lost=isinstance(message, ItemFailed))
                if isinstance(message, Ready):
                    self._up(worker)
                if isinstance(message, TaskOutcome):
                    worker.working_since = at
                yield WorkResult(number, item, message)
            return
        self._clock.now = until
        for number, worker in enumerate(self._workers):
            if worker.alive and not worker.mute:
                yield WorkResult(number, "", Heartbeat("", 0))

    def kill(self, worker: int, reason: str) -> None:
        """Kill a worker; it is lost once its process has vanished."""
        state = self._workers[worker]
        self._account(state, self._clock.now, lost=True)
        self._down(state)
        self._end(state)
        self._later(state.gone_at, worker, "", WorkerLost(worker, reason))

    def close(self) -> None:
        """Kill every worker, and wait for them for as long as the local executor does."""
        if self._closed:
            return
        self._closed = True
        self.usage.closed_at = self._clock.now
        self.usage.down_then = sum(worker.down_since is not None for worker in self._workers)
        for worker in self._workers:
            self._account(worker, self._clock.now, lost=True)
            self._up(worker)
            if worker.alive:
                self._end(worker)
        self._clock.now = min(max(self.gone_at, self._clock.now), self._clock.now + REAP_SECONDS)

    def wake(self, at: float) -> None:
        """Make `results` return at a time, because something else happens then."""
        heapq.heappush(self._queue, (at, self._count, -1, -1, "", _Wake()))
        self._count += 1

    # -- inside

    def _spawn(self, number: int) -> None:
        worker, dice, faults = self._workers[number], self._dice, self._faults
        worker.life += 1
        worker.alive, worker.mute, worker.working_since = True, False, None
        slower = worker.slower * self._noise.of_work(dice)
        seconds = sum(self._pace.start.values()) * slower
        if dice.random() < faults.hung_start:
            self._happened("hung start")
            self._down(worker)
            worker.mute = True
            return
        if dice.random() < faults.failed_start:
            self._happened("failed start")
            self._down(worker)
            at = self._clock.now + seconds * dice.random()
            self._say(at, number, "", StartFailed("MemoryError: simulated"))
            self._later(at + 0.1, number, "", WorkerLost(number, "it ended with exit code 0"))
            return
        if dice.random() < faults.slow_start:
            self._happened("slow start")
            self._down(worker)
            slower *= 10.0
        parts = {part: part_seconds * slower for part, part_seconds in self._pace.start.items()}
        ready = Ready(parts, WorkerFacts("simulated", "simulated"))
        self._say(self._clock.now + ready.seconds, number, "", ready)

    def _end(self, worker: _Worker) -> None:
        """Kill the process; it ends a little later, or, if it is unkillable, much later."""
        seconds = self._dice.uniform(0.0, self._faults.kill_seconds)
        if self._dice.random() < self._faults.unkillable:
            self._happened("unkillable")
            seconds = LONG
        worker.life += 1
        worker.alive = False
        worker.gone_at = self._clock.now + seconds

    def _share(self, number: int, work: WorkItem) -> None:
        """The fit of the shared adapter: as many steps as there is time for."""
        tokens = max(self._sketches[one.task.id].tokens for one in work.tasks)
        step = self._pace.step_seconds(tokens) * self._workers[number].slower
        steps = min(sum(one.plan.steps for one in work.tasks), int(max(work.deadline_at - self._clock.now, 0.0) / step))
        at = self._clock.now + steps * step
        self._say(at, number, work.id, SharedFit(Fit(work.id, "complete", "steps", None, steps, 0, at, 2.0, 1.0)))
        self._say(at, number, work.id, ItemDone())

    def _course(self, worker: _Worker, one: TaskWork, at: float, work: WorkItem) -> Course:
        sketch = self._sketches[one.task.id]
        slower = worker.slower * self._noise.of_work(self._dice)
        keep = work.keep[0] / len(work.tasks) if work.keep is not None else None
        tokens = min(sketch.tokens, one.max_tokens or sketch.tokens)
        return course(self._pace, one.plan, tokens, sketch.answers, slower, work.deadline_at - at, keep)

    def _break_off(self, number: int, work: WorkItem, fault: Fault, at: float) -> None:
        if fault == "crash":
            self._later(at, number, "", WorkerLost(number, "it was ended by SIGKILL"))
        elif fault == "failed":
            self._say(at, number, work.id, ItemFailed("MemoryError: simulated"))
        else:
            self._later(at, number, work.id, _Hang(silent=fault == "silent"))

    def _outcome(self, one: TaskWork, work: WorkItem, taken: Course, fault: Fault | None) -> TaskOutcome:
        sketch, id_ = self._sketches[one.task.id], one.task.id
        steps, reason = taken.steps, "steps" if taken.steps == one.plan.steps else "deadline"
        if fault == "nan":
            steps, reason = int(steps * self._dice.random()), "nan"
        had = self._steps[id_] = self._steps.get(id_, 0.0) + steps
        events: tuple[tuple[str, str], ...] = ()
        if fault in ("oom fit", "oom decode"):
            events = (("out of memory", f"simulated, in {fault.removeprefix('oom ')}: backed off in place"),)
        elif fault == "nan":
            events = (("fit stopped", f"nan after {steps} steps"),)
        agreeing = round(sketch.agreeing(had) * taken.views)
        adapter = f"{work.id}{id_}"
        queries = []
        for index, (answer, other) in enumerate(sketch.grids):
            found = tuple(
                Candidate(answer if view < agreeing else other, f"v{view}/", -1.0, "greedy", adapter)
                for view in range(taken.views)
            )
            scores = tuple(Score(answer, f"v{view}/", 1.0, sketch.answers[index], adapter) for view in range(taken.views))
            queries.append(QueryOutcome(index, found, scores if taken.score else (), taken.views))
        status: Status = "failed" if reason == "nan" else "cut" if reason == "deadline" else "complete"
        fit = Fit(adapter, status, reason, None, steps, steps * sketch.tokens, taken.fit, 2.0, 1.0) if one.plan.steps else None
        return TaskOutcome(
            id_,
            work.wave,
            "complete" if taken.in_full else "cut",
            fit,
            tuple(queries),
            {"prepare": taken.prepare, "fit": taken.fit, "infer": taken.infer, "score": taken.score},
            {},
            {
                "trained": steps * sketch.tokens,
                "prompt": taken.views * sketch.tokens,
                "new": taken.views * one.plan.samples * sum(sketch.answers),
            },
            events,
        )

    def _account(self, worker: _Worker, at: float, lost: bool) -> None:
        if worker.working_since is not None:
            seconds = at - worker.working_since
            self.usage.worked += seconds
            self.usage.lost += seconds * lost
            worker.working_since = None

    def _down(self, worker: _Worker) -> None:
        self._loaded(worker)
        if worker.down_since is None:
            worker.down_since = self._clock.now

    def _loaded(self, worker: _Worker) -> None:
        if worker.loading_since is not None:
            self.usage.loading += self._clock.now - worker.loading_since
            worker.loading_since = None

    def _up(self, worker: _Worker) -> None:
        self._loaded(worker)
        if worker.down_since is not None:
            self.usage.down += self._clock.now - worker.down_since
            worker.down_since = None

    def _happened(self, what: str) -> None:
        self.usage.events[what] = self.usage.events.get(what, 0) + 1

    def _say(self, at: float, worker: int, item: str, message: Message) -> None:
        self._later(at, worker, item, message)

    def _later(self, at: float, worker: int, item: str, message: Message | WorkerLost | _Hang) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, worker, self._workers[worker].life, item, message))
