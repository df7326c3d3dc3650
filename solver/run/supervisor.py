"""The state machine of a run: hands out work, takes in results, watches workers, and stops in time.

It never imports torch, never reads a clock but the one it is given, and asks a `Policy` what to do next, so the same
code runs real processes and a simulation. After every result the ledger and the submission on disk are up to date.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from solver.arc.submission import Submission
from solver.arc.task import Task
from solver.budget.chunk import Chunks
from solver.budget.expect import Expected, expect
from solver.budget.planner import MAX_LOSSES, Assignment, Policy, TaskState, full_plan
from solver.budget.reserve import reserve_for_writes, reserve_seconds, writing_seconds
from solver.budget.shorten import shortened, token_limit
from solver.config import Settings
from solver.run.book import Book
from solver.run.executors.base import (
    Changed,
    Executor,
    Heartbeat,
    ItemDone,
    ItemFailed,
    Message,
    Ready,
    SharedFit,
    StartFailed,
    Warned,
    WorkerLost,
    WorkResult,
)
from solver.run.footprint import describe
from solver.run.ledger import BEFORE, SHARED, SHORTENED, Records
from solver.run.scribe import Scribe
from solver.run.shelf import Shelf
from solver.run.slot import Slot
from solver.run.types import Observer, Progress
from solver.run.watch import Watch
from solver.types import AdapterRef, Candidate, Deadline, TaskOutcome, TaskPlan, TaskWork, WorkItem

# Of one worker in a row. The fewer count where nobody has ever been ready and that has cost a good part of the time: memory that
# another process still holds may be free a minute later, but a model that cannot be loaded must not cost its user hours.
MAX_FAILED_STARTS, HOPEFUL_SHARE = 3, 0.1
MAX_FAILED_RESTARTS = 20
SHARED_FIT_SHARE = 0.5  # of the time left, under policies that go by the clock
POLL = 0.5  # seconds between two looks at signals, at most
ABSENCE = 5.0  # seconds more than a look at the workers should take, after which their silence says nothing
SETTLE = 0.1  # seconds within which a worker that reported its last task says that it is free

Stop = Literal["finished", "deadline", "interrupted", "no worker", "bad input"]


@dataclass(frozen=True)
class Ending:
    """Why the supervisor stopped; `detail` is the line for people."""

    stop: Stop
    detail: str


class Supervisor:
    """One run, from the first worker to the last outcome."""

    def __init__(
        self,
        settings: Settings,
        tasks: list[Task],
        book: Book,
        ledger: Records,
        executor: Executor,
        policy: Policy,
        end: Deadline,
        publish: Callable[[Submission], None],
        observer: Observer,
        *,
        start: int = 1,
        interrupted: Callable[[], str | None] = lambda: None,
        clock_set: Callable[[], str | None] = lambda: None,
        keep_adapters: bool = False,
        poll: float = POLL,
    ) -> None:
        """`end` is when the process has to be gone, on the clock of the run; `start` counts the processes of this run.

        `publish` writes the submission and may raise OSError; `interrupted` gives a reason to stop at once; `clock_set` tells
        once that somebody set the wall clock, which moves nothing here but is worth knowing for who reads times.
        """
        self._settings = settings
        self._tasks = {task.id: task.without_answers() for task in tasks}
        self._book = book
        self._ledger = ledger
        self._executor = executor
        self._policy = policy
        self._observer = observer
        self._scribe = Scribe(ledger, publish, observer, end.clock)
        self._start = start
        self._interrupted = interrupted
        self._clock_set = clock_set
        self._shelf = Shelf(keep_adapters)
        self._poll = poll
        self._now = end.clock
        self._end = end
        self._most_reserve = end.remaining() / 2
        self._hopeful_until = end.earlier((1 - HOPEFUL_SHARE) * end.remaining())
        self._slowest_write = 0.0
        self._keep(reserve_seconds(settings.budget.reserve, end.remaining()))
        whole = full_plan(settings)
        self._chunks = Chunks(settings.budget.chunk, whole.views * whole.samples)
        self._watch = Watch(settings.budget.heartbeat, settings.budget.grace)
        self._slots: list[Slot] = []
        self._items = 0
        self._shared: AdapterRef | None = None
        self._shared_losses = 0
        self._nothing_more = False
        self._wave = 0
        self.facts: dict[str, str] = {}
        self.peak_memory = 0

    def run(self) -> Ending:
        """Work until there is nothing to do, no time, or a reason to stop. The workers are gone when it returns."""
        self._recall_shared()
        self._tidy_adapters(self._tasks)
        self._scribe.outdate()  # so that the first write tells how slow the disk is
        self._flush()
        began = self._now()
        self._slots = [Slot("starting", began) for _ in range(self._executor.workers)]
        ending = self._ending()
        if ending is None:
            self._executor.start()
        try:
            while ending is None:
                self._assign()  # before anything is written: a slow disk must not keep workers waiting
                self._flush()
                self._listen(self._patience())
                if any(slot.reported_all for slot in self._slots):
                    self._listen(SETTLE)
                self._look_after_workers()
                if (line := self._clock_set()) is not None:
                    self._scribe.event("clock", line)
                self._tell()
                ending = self._ending()
            self._note_unfinished(ending)
        finally:
            self._executor.close()
        self._scribe.outdate()  # the file on disk may have been touched by others
        self._flush()
        return ending

    # -- deciding

    def _ending(self) -> Ending | None:
        signal = self._interrupted()
        if signal is not None:
            return Ending("interrupted", signal)
        refused = next((slot for slot in self._slots if slot.state == "given up" and slot.error.startswith(_BAD_INPUT)), None)
        if refused is not None:
            return Ending("bad input", refused.error.removeprefix(_BAD_INPUT))
        busy = any(slot.item is not None for slot in self._slots)
        if not busy and not self._work_left():
            return Ending("finished", "nothing is left to do")
        if self._nothing_more:
            return Ending("deadline", "the time left is too short for another pass")
        if self._last_call.expired() or (self._work_end.expired() and not busy):
            return Ending("deadline", "the time is up")
        if all(slot.state == "given up" for slot in self._slots):
            return Ending("no worker", f"no worker could be started: {self._slots[0].error}")
        return None

    def _work_left(self) -> bool:
        return any(self._policy.pending(state) for state in self._book.states())

    def _assign(self) -> None:
        """Give every idle worker something to do, if there is something and time for it."""
        if self._work_end.expired():
            return
        for worker, slot in enumerate(self._slots):
            if slot.state != "idle" or slot.dying:
                continue
            if self._needs_shared_fit():
                if not any(other.item is not None and other.item.kind == "shared" for other in self._slots):
                    self._submit_shared(worker)
                continue
            active = sum(other.state != "given up" for other in self._slots)
            states, left = self._book.states(), self._work_end.remaining()
            self._choose_chunk(states, left, active)
            assignment = self._policy.next(states, left, active)
            if assignment is None:
                # the time only gets less: what is not worth starting now never will be
                self._nothing_more = not any(other.item is not None for other in self._slots)
                return
            self._submit(worker, assignment)

    def _choose_chunk(self, states: Sequence[TaskState], left: float, workers: int) -> None:
        if not self._chunks.in_question:
            return
        chunk = self._chunks.choose(left, sum(map(self._policy.pending, states)), workers)
        if chunk.size != self._policy.chunk:
            self._policy.chunk = chunk.size
            self._scribe.event("chunk", f"{chunk.size} task{'s' * (chunk.size > 1)} per item: {chunk.reason}")

    def _submit(self, worker: int, assignment: Assignment) -> None:
        self._wave = assignment.wave
        seconds = min(assignment.seconds, self._work_end.remaining())
        works = tuple(self._task_work(id_, assignment, seconds / len(assignment.tasks)) for id_ in assignment.tasks)
        shapes = [shortened(self._book.state(work.task.id).shape, work.max_tokens) for work in works]
        expected = expect(self._policy.costs, shapes, assignment.plan, seconds, assignment.wave)
        deadline_at = self._now() + seconds
        halvings = assignment.halvings
        item = WorkItem(self._next_id(), assignment.wave, works, deadline_at, halvings=halvings, keep=expected.keep)
        self._book.mark(assignment.tasks, busy=True)
        for id_, phases in zip(assignment.tasks, expected.seconds, strict=True):
            record = (id_, assignment.wave, assignment.plan, sum(phases.values()), assignment.reason)
            self._scribe.save(partial(self._ledger.plan, *record))
        self._hand_over(worker, item, expected, endless=math.isinf(assignment.seconds))

    def _task_work(self, id_: str, assignment: Assignment, seconds: float) -> TaskWork:
        start = self._shared
        known: tuple[tuple[Candidate, ...], ...] = ()
        if assignment.wave > 0:
            known = self._book.known(id_, assignment.wave)
            start = next((ref for ref in reversed(self._book.adapters(id_)) if ref.path.is_dir()), self._shared)
        return TaskWork(self._tasks[id_], assignment.plan, start, known, self._max_tokens(id_, assignment, seconds))

    def _max_tokens(self, id_: str, assignment: Assignment, seconds: float) -> int | None:
        if math.isinf(assignment.seconds):  # a policy that does not go by the clock
            return None
        shape, context = self._book.state(id_).shape, self._settings.model.context
        limit = token_limit(self._policy.costs, shape, assignment.plan, seconds, context, assignment.wave)
        if limit is not None:
            shown = len(shortened(shape, limit).demonstrations)
            what = f"{shown} of {len(shape.demonstrations)} demonstrations at once, in {limit} tokens"
            self._scribe.event(SHORTENED, f"{what}: all take too long for {seconds:.1f} s", id_, assignment.wave)
        return limit

    def _hand_over(self, worker: int, item: WorkItem, expected: Expected, endless: bool = False) -> None:
        now = self._now()
        # an item without a deadline of its own must not let a worker hang to the end of the run
        due = min(item.deadline_at, now + expected.longest) if endless else item.deadline_at
        self._slots[worker].begin(item, expected, due, now)
        self._executor.submit(worker, item)

    def _next_id(self) -> str:
        self._items += 1
        return f"r{self._start}i{self._items}"  # adapters are named after it, and their names are never used again

    # -- the shared adapter

    def _needs_shared_fit(self) -> bool:
        return self._settings.train.shared and self._shared is None and self._shared_losses < MAX_LOSSES

    def _recall_shared(self) -> None:
        fit = self._ledger.shared_fit()
        if fit is not None and fit.adapter is not None and fit.adapter.path.is_dir():
            self._shared = fit.adapter

    def _submit_shared(self, worker: int) -> None:
        one = full_plan(self._settings.model_copy(update={"train": self._settings.train.model_copy(update={"shared": False})}))
        works = tuple(TaskWork(task, TaskPlan(one.steps, 0, 0)) for task in self._tasks.values())
        share = 1.0 if self._settings.budget.policy == "fixed" else SHARED_FIT_SHARE
        seconds = self._work_end.remaining() * share
        item = WorkItem(self._next_id(), BEFORE, works, self._now() + seconds, "shared", self._shared_losses)
        self._hand_over(worker, item, Expected())

    # -- taking in

    def _listen(self, patience: float) -> None:
        """Take in what workers say within so many seconds."""
        began = self._now()
        for result in self._executor.results(patience):
            self._take(result)
        if (now := self._now()) - began > patience + ABSENCE:  # this process was stopped, and perhaps they were
            for slot in self._slots:
                slot.pardon(now)

    def _take(self, result: WorkResult | WorkerLost) -> None:
        slot = self._slots[result.worker]
        if isinstance(result, WorkerLost):
            self._take_loss(slot, result)
            return
        slot.heard = self._now()
        if slot.item is not None and result.item == slot.item.id:
            self._take_work(slot, result.message)
        match result.message:
            case Heartbeat(activity, peak_memory):
                slot.activity = activity
                self.peak_memory = max(self.peak_memory, peak_memory)
            case Ready(parts, facts) if slot.state in ("starting", "given up"):  # better late than never
                slot.state, slot.failed_starts, slot.activity = "idle", 0, ""
                self.facts = facts
                self._chunks.meet(facts)
                if (doubt := self._policy.costs.meet(facts.get("device", ""))) is not None:
                    self._scribe.event("profile", doubt)
                self._scribe.started(self._policy.costs.start_parts(), parts, self._start)
                self._policy.costs.started(parts)
                ready = f"worker {result.worker} ready after {sum(parts.values()):.1f} s: "
                self._scribe.note(ready + ", ".join(map(" ".join, facts.items())))
            case Changed(facts):
                self.facts = facts
            case Warned(kind, detail) if not result.item:  # while it starts
                self._scribe.event(kind, detail)
            case StartFailed(error, bad_input):
                self._scribe.event("start failed", error)
                self._scribe.note(f"worker {result.worker} cannot start: {error}")
                final = bad_input and not self.facts  # what a worker could read before is good: the machine is in trouble
                slot.error = (_BAD_INPUT if final else "") + error
                if final:
                    slot.state = "given up"

    def _take_work(self, slot: Slot, message: Message) -> None:
        match message:
            case TaskOutcome() as outcome:
                if outcome.final:  # with less, a worker lost while it scores is lost over the task
                    slot.reported |= {outcome.task_id}
                self._take_outcome(slot, outcome)
            case SharedFit(fit, events):
                slot.reported |= {SHARED}
                self._shared = fit.adapter
                if fit.adapter is None:
                    self._shared_losses += 1
                    self._scribe.event("shared fit failed", fit.reason)
                for kind, detail in events:
                    self._scribe.event(kind, detail)
                self._scribe.save(lambda: self._ledger.record_shared(fit))
                self._scribe.note(f"shared adapter: {fit.steps} steps in {fit.seconds:.1f} s, stopped by {fit.reason}")
            case Warned(kind, detail):
                assert slot.item is not None
                (task,) = [work.task.id for work in slot.item.tasks] if len(slot.item.tasks) == 1 else [SHARED]
                self._scribe.event(kind, detail, task, slot.item.wave)
            case ItemDone():
                self._end_item(slot, "the worker did not report it")
            case ItemFailed(error):
                self._end_item(slot, error)

    def _take_outcome(self, slot: Slot, outcome: TaskOutcome) -> None:
        began = self._now()
        self._book.add(outcome)
        outcome = self._compared(slot, replace(outcome, seconds={**outcome.seconds, "select": self._now() - began}))
        self._scribe.outdate()
        self._scribe.save(lambda: self._ledger.record(outcome))
        fit = outcome.fit
        fitted = f"{fit.steps} steps to loss {fit.final_loss:.3f}" if fit is not None and fit.steps else "no fit"
        found = sum(len(query.candidates) for query in outcome.queries)
        seconds = sum(outcome.seconds.values())
        agreed = self._book.state(outcome.task_id).agreement
        name = f"{outcome.task_id} wave {outcome.wave + 1}"
        self._scribe.note(f"{name}: {outcome.status}, {fitted}, {found} candidates, agreement {agreed:.0%}, {seconds:.1f} s")
        for kind, detail in outcome.events:
            self._scribe.note(f"{outcome.task_id}: {kind}: {detail}")

    def _compared(self, slot: Slot, outcome: TaskOutcome) -> TaskOutcome:
        """The outcome beside what was expected of it; the cost model learns from it, unless its footprint was smaller."""
        assert slot.item is not None
        place = next(place for place, work in enumerate(slot.item.tasks) if work.task.id == outcome.task_id)
        planned = dict(slot.expected.seconds[place])
        if outcome.final and not slot.item.halvings:
            work = slot.item.tasks[place]
            shape, plan = shortened(self._book.state(outcome.task_id).shape, work.max_tokens), work.plan
            if "score" in planned and (seconds := self._policy.costs.score_seconds(shape, plan, outcome)) is not None:
                planned["score"] = seconds  # how many answers there would be to score, nobody could know before
            self._policy.costs.observe(shape, plan, outcome)
            if outcome.status == "complete":
                self._chunks.observe(sum(outcome.seconds.values()), len(slot.item.tasks))
        return replace(outcome, planned=planned)

    def _end_item(self, slot: Slot, error: str) -> None:
        """Free the worker; tasks of its item without a final outcome are charged with the loss."""
        item = slot.item
        assert item is not None
        slot.state, slot.item = "idle", None
        self._charge(item, slot.reported, error, killed=False)

    def _take_loss(self, slot: Slot, loss: WorkerLost) -> None:
        self._scribe.event("worker lost", loss.reason)
        self._scribe.note(f"worker {loss.worker} lost: {loss.reason}" + (f"\n{loss.output}" if loss.output else ""))
        item, slot.item, slot.dying = slot.item, None, False
        if slot.state == "given up":
            return
        if item is not None:
            self._charge(item, slot.reported, loss.reason, killed=True)
        elif slot.state == "starting":
            slot.failed_starts += 1
            slot.error = slot.error or loss.reason
        most = MAX_FAILED_STARTS if not self.facts and self._hopeful_until.expired() else MAX_FAILED_RESTARTS
        slot.state = "given up" if slot.failed_starts >= most else "starting"
        slot.heard, slot.activity = self._now(), "starting"

    def _charge(self, item: WorkItem, reported: frozenset[str], reason: str, killed: bool) -> None:
        """Release an item's tasks; those without a final outcome are tried again, smaller, until they have cost too much."""
        if item.kind == "shared":
            if SHARED not in reported:
                self._shared_losses += 1
                self._scribe.event("shared fit lost", reason)
            return
        ids = [work.task.id for work in item.tasks]
        self._book.mark(ids, busy=False)
        for id_ in ids:
            if id_ not in reported and not self._work_end.expired():
                state = self._book.lose(id_, killed)
                if not state.set_aside:
                    self._scribe.event("retry", f"{reason}; next time with {describe(state.losses)}", id_, item.wave)
                else:
                    self._scribe.event("skipped", reason, id_, item.wave)
                    self._scribe.save(partial(self._ledger.set_status, id_, "skipped"))
        self._tidy_adapters(ids)

    def _note_unfinished(self, ending: Ending) -> None:
        """What the end takes away from workers that did not stop by themselves: nothing is held against it."""
        for worker, slot in enumerate(self._slots):
            if slot.dying:
                self._scribe.event("worker stays", f"worker {worker} was killed and has not vanished")
            if slot.item is None:
                continue
            if slot.item.kind == "shared":
                self._scribe.event("broken off", f"{ending.detail}; the shared fit")
            for work in slot.item.tasks if slot.item.kind != "shared" else ():
                if work.task.id not in slot.reported:
                    self._scribe.event("broken off", ending.detail, work.task.id, slot.item.wave)

    def _tidy_adapters(self, ids: Iterable[str]) -> None:
        """Delete adapters that no later pass starts from, and others if the disk has no room for new ones."""
        for id_ in ids:
            self._shelf.sort(id_, self._book.adapters(id_), not self._policy.pending(self._book.state(id_)), self._shared)
        coming = len(self._slots) * self._policy.chunk
        for id_ in self._shelf.make_room(coming, lambda id_: self._book.state(id_).busy):
            self._scribe.event("adapter dropped", "the scratch disk has no room: its next pass begins from the base", id_)

    # -- watching

    def _look_after_workers(self) -> None:
        now = self._now()
        for worker, slot in enumerate(self._slots):
            if not slot.dying and slot.state != "given up":
                verdict = self._watch.verdict(now, slot.heard, *slot.limits)
                if verdict is not None:
                    slot.dying = True
                    self._executor.kill(worker, verdict)

    def _patience(self) -> float:
        """Seconds until something has to be looked at even if no worker says anything."""
        now = self._now()
        looks = [self._last_call.at]
        if not self._work_end.expired():
            looks.append(self._work_end.at)
        for slot in self._slots:
            if not slot.dying and slot.state != "given up":
                looks.append(self._watch.next_look(slot.heard, *slot.limits))
        return max(0.0, min(self._poll, min(looks) - now + 1e-3))

    # -- telling

    def _keep(self, reserve: float, writing: float = 0.0) -> None:
        """Plan with so many seconds for the end: half of them, or the `writing` if that takes longer, for the last writes."""
        self._reserve = reserve
        self._work_end = self._end.earlier(reserve)
        last = min(max(reserve / 2, writing), reserve)
        self._last_call = self._end.earlier(max(last, reserve - self._settings.budget.grace))

    def _flush(self) -> None:
        took = self._scribe.flush(self._book.submission)
        # a disk that is slow now will be slow at the end
        if took is not None and self._settings.budget.reserve is None and took > self._slowest_write:
            self._slowest_write, writing = took, writing_seconds(took)
            self._keep(max(self._reserve, min(reserve_for_writes(took), self._most_reserve)), writing)

    def _tell(self) -> None:
        totals = self._book.totals()
        progress = Progress(
            tasks=len(self._tasks),
            done=self._book.done(),
            failed=self._book.failed(),
            wave=self._wave,
            steps=totals.steps,
            trained_rate=totals.trained_rate,
            sampled_rate=totals.sampled_rate,
            agreement=self._book.agreement(),
            seconds_left=max(0.0, self._work_end.remaining()),
            activity=", ".join(_activities(self._slots)),
        )
        with contextlib.suppress(OSError, ValueError):
            self._observer.progress(progress)


_BAD_INPUT = "bad input: "


def _activities(slots: list[Slot]) -> Iterator[str]:
    for worker, slot in enumerate(slots):
        if slot.activity:
            yield slot.activity if len(slots) == 1 else f"{worker}: {slot.activity}"
