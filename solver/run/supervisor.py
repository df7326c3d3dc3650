"""The supervisor of a run: it hands out work, takes in results, watches the workers, and stops in time.

A `Policy` decides what is done next. The supervisor imports no torch and reads no clock but the one it is given, so the same code
runs real processes and a simulation. After every result it brings the ledger and the submission on disk up to date.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from solver.arc.submission import Submission
from solver.arc.task import Task
from solver.budget.backoff import describe
from solver.budget.chunk import Chunks
from solver.budget.forecast import ItemForecast
from solver.budget.planner import MAX_LOSSES, Policy, full_plan
from solver.budget.program_share import ProgramTime
from solver.budget.reserve import EndOfWork
from solver.budget.shorten import shortened
from solver.config import Settings
from solver.messages import (
    Changed,
    ClusterChanged,
    Heartbeat,
    ItemDone,
    ItemFailed,
    Message,
    Ready,
    SharedFit,
    StartFailed,
    Turns,
    Warned,
    WorkerFacts,
)
from solver.report.observer import Observer
from solver.run.adapter_store import AdapterDisk, AdapterStore, LocalDisk
from solver.run.dealing import Dealer, Dealt
from solver.run.executors.base import Executor, News, WorkerAway, WorkerLost
from solver.run.executors.none import NoWorkers
from solver.run.ledger import SHARED, Records
from solver.run.notes import activities, describe_outcome, describe_programs, describe_ready, progress_of
from solver.run.program_search import ProgramResources, ProgramSearch
from solver.run.state import RunState
from solver.run.types import Ending
from solver.run.work_items import WorkItems
from solver.run.worker_state import WorkerState, WorkerTimeouts
from solver.run.writer import Writer
from solver.types import AdapterRef, Deadline, ProgramOutcome, TaskOutcome, WorkItem

# A worker is given up after `MAX_FAILED_RESTARTS` failed starts in a row: memory that another process holds may be free a minute
# later. If none has been ready when `HOPEFUL_SHARE` of the time is used up, it is given up after `MAX_FAILED_STARTS`: a model
# that cannot be loaded must not cost its user hours.
MAX_FAILED_RESTARTS = 20
MAX_FAILED_STARTS, HOPEFUL_SHARE = 3, 0.1
SHARED_FIT_SHARE = 0.5  # of the time left, under policies that go by the clock
POLL = 0.5  # seconds, at most, between two checks for a signal
ABSENCE = 5.0  # seconds that waiting for messages may take too long; beyond that this process itself was stopped
MANY, ROUND = 32, 0.5  # with more workers, all of them are looked at only so often (seconds)
SETTLE = 0.1  # seconds to wait, after the last outcome of an item, for the message that its worker is free


class Supervisor:
    """One run, from the first worker to the last outcome."""

    def __init__(
        self,
        settings: Settings,
        tasks: list[Task],
        run_state: RunState,
        ledger: Records,
        executor: Executor,
        policy: Policy,
        end: Deadline,
        publish: Callable[[Submission], None],
        observer: Observer,
        *,
        programs: ProgramResources | None = None,
        disk: AdapterDisk | None = None,
        start: int = 1,
        interrupted: Callable[[], str | None] = lambda: None,
        clock_set: Callable[[], str | None] = lambda: None,
        keep_adapters: bool = False,
        poll: float = POLL,
    ) -> None:
        """`end` is when the process has to be gone, on the clock of the run; `start` counts the processes of this run from 1.

        An executor without workers is that of a run without a network. `programs`: without, no programs are searched. `disk`:
        where adapters lie; without, on this machine.

        `publish` writes the submission and may raise OSError. `interrupted` gives a reason to stop at once, or None. `clock_set`
        gives a line, once, when somebody has set the wall clock; that moves no deadline, but whoever reads times in the ledger
        should know it.
        """
        self._settings = settings
        self._tasks = {task.id: task.without_answers() for task in tasks}
        self._run_state = run_state
        self._ledger = ledger
        self._executor = executor
        self._policy = policy
        self._observer = observer
        self._writer = Writer(ledger, publish, observer, end.clock)
        self._start = start
        self._disk = disk = disk or LocalDisk()
        self._interrupted = interrupted
        self._clock_set = clock_set
        self._adapter_store = AdapterStore(keep_adapters, disk)
        self._poll = poll
        self._now = end.clock
        self._end = EndOfWork(settings.budget.reserve, settings.budget.grace, end)
        self._hopeful = HOPEFUL_SHARE * end.remaining()
        self._hopeful_until = end.earlier(end.remaining() - self._hopeful)
        self._deserted_at: float | None = None  # since when nobody works or may soon
        whole = full_plan(settings)
        self._chunks = Chunks(settings.budget.chunk, whole.views * whole.samples)
        self._timeouts = WorkerTimeouts(settings.budget.heartbeat, settings.budget.grace)
        self._workers: list[WorkerState] = []
        programs = programs or ProgramResources(NoWorkers(), ProgramTime(None, 0, beside=False))
        unsearched = [task for id_, task in self._tasks.items() if id_ not in run_state.program_outcomes()]
        self._programs = ProgramSearch(programs, unsearched, self._take_programs, self._writer.event, self._pending)
        self._items = WorkItems(settings, self._tasks, run_state, disk, ledger, self._writer, self._now, start)
        self._dealer = Dealer(settings, policy, run_state, self._chunks, disk.node_of, self._writer.event)
        self._shared: AdapterRef | None = None
        self._shared_losses = 0
        self._endless = settings.budget.policy == "fixed"  # whether items have no deadline of their own
        self._nothing_more = False
        self._told: set[int] = set()  # workers that the last messages came from
        self._round_at = 0.0  # when all workers are looked at again, where they are many
        self._wave = 0
        self.facts: WorkerFacts | None = None  # of the worker that was last ready; None: none was
        self.peak_memory = 0

    def run(self) -> Ending:
        """Work until everything is done, the time is up, or there is a reason to stop. No worker runs when it returns."""
        self._recall_shared()
        self._tidy_adapters(self._tasks)
        self._writer.outdate()  # so that the first write tells how slow the disk is
        self._flush()
        began = self._now()
        self._workers = [WorkerState("starting", began) for _ in range(self._executor.workers)]
        ending = self._ending()
        if ending is None:
            self._executor.start()
            self._programs.start(began)
        try:
            while ending is None:
                self._assign()  # before writing: a slow disk must not keep workers waiting
                self._flush()
                self._listen(self._patience())
                if any(self._workers[number].reported_all for number in self._told):
                    self._listen(SETTLE)
                if len(self._workers) <= MANY or self._now() >= self._round_at:
                    self._round_at = self._now() + ROUND
                    self._look_after_workers()
                    self._tell()
                if (line := self._clock_set()) is not None:
                    self._writer.event("clock", line)
                ending = self._ending()
            self._note_unfinished(ending)
        finally:
            self._programs.close()
            self._executor.close()
        self._writer.outdate()  # the file on disk may have been touched by others
        self._flush(last=True)
        return ending

    # -- deciding

    def _ending(self) -> Ending | None:
        signal = self._interrupted()
        if signal is not None:
            return Ending("interrupted", signal)
        refused = next((worker for worker in self._workers if worker.refused), None)
        if refused is not None:
            return Ending("bad input", refused.error)
        busy = any(worker.item is not None for worker in self._workers)
        searching = self._programs.active
        if not busy and not searching and not self._work_left():
            return Ending("finished", "all work is done")
        if self._nothing_more and not searching:
            return Ending("deadline", "the time left is too short for another pass")
        if self._end.last_call.expired() or (self._end.work.expired() and not busy):
            return Ending("deadline", "the time is up")
        return None if searching else self._deserted()

    def _deserted(self) -> Ending | None:
        """The end of a run without workers; those that are away are waited for."""
        if not self._workers or any(worker.counts for worker in self._workers):
            self._deserted_at = None
            return None
        away = [worker for worker in self._workers if worker.state == "away"]
        if not away:
            return Ending("no worker", f"no worker could be started: {self._workers[0].error}")
        now = self._now()
        self._deserted_at = now if self._deserted_at is None else self._deserted_at
        if (waited := now - self._deserted_at) < self._hopeful:
            return None
        return Ending("no worker", f"there was no worker for {waited:.0f} s, a tenth of the budget: {away[0].error}")

    def _pending(self, id_: str) -> bool:
        return self._policy.pending(self._run_state.state(id_))

    def _work_left(self) -> bool:
        return bool(self._workers) and self._policy.count_pending(self._run_state.states()) > 0

    def _assign(self) -> None:
        """Hand an item to every idle worker, as long as the policy has one for the time left."""
        if self._end.work.expired():
            return
        idle = False
        for number, worker in enumerate(self._workers):
            if worker.state != "idle" or worker.dying:
                continue
            if self._needs_shared_fit():
                if not any(other.item is not None and other.item.kind == "shared" for other in self._workers):
                    self._submit_shared(number)
                continue
            if (dealt := self._dealer.next(number, self._workers, self._end.work.remaining())) is not None:
                self._submit(number, dealt)
            else:
                idle = True
        # an item that does not fit the time left now will not fit later; one without a deadline may be for a worker that starts
        waits = idle and self._endless and any(worker.state == "starting" for worker in self._workers)
        self._nothing_more = idle and not waits and not any(worker.item is not None for worker in self._workers)

    def _submit(self, number: int, dealt: Dealt) -> None:
        assignment = dealt.assignment
        self._wave = assignment.wave
        item, forecast = self._items.make(dealt, number, self._end.work.remaining(), self._shared)
        self._run_state.mark(assignment.tasks, busy=True)
        self._hand_over(number, item, forecast, endless=math.isinf(assignment.seconds))

    def _hand_over(self, number: int, item: WorkItem, forecast: ItemForecast, endless: bool = False) -> None:
        now = self._now()
        # a worker that hangs on an item without a deadline of its own is killed before the end of the run
        due = min(item.deadline_at, now + forecast.longest) if endless else item.deadline_at
        self._workers[number].begin(item, forecast, due, now)
        self._executor.submit(number, item)

    # -- the shared adapter

    def _needs_shared_fit(self) -> bool:
        return self._settings.train.shared and self._shared is None and self._shared_losses < MAX_LOSSES

    def _recall_shared(self) -> None:
        fit = self._ledger.shared_fit()
        if fit is not None and fit.adapter is not None and fit.adapter.path.is_dir():
            self._shared = fit.adapter

    def _submit_shared(self, number: int) -> None:
        share = 1.0 if self._endless else SHARED_FIT_SHARE
        self._hand_over(number, self._items.shared(self._end.work.remaining() * share, self._shared_losses), ItemForecast())

    # -- taking in

    def _listen(self, patience: float) -> None:
        """Take in the messages of all processes, waiting at most `patience` seconds for the first."""
        began = self._now()
        self._told.clear()
        for result in self._executor.results(patience if self._workers else 0.0):
            self._take(result)
            self._told.add(result.worker)
        if (now := self._now()) - began > patience + ABSENCE:  # this process was stopped, so perhaps the others were too
            for worker in self._workers:
                worker.pardon(now)
            self._programs.pardon(now)
        self._programs.step(self._end.work, 0.0 if self._workers else patience)

    def _take(self, result: News) -> None:
        while result.worker >= len(self._workers):  # a node has joined the cluster
            self._workers.append(WorkerState("away", self._now()))
        worker = self._workers[result.worker]
        if isinstance(result, WorkerLost):
            self._take_loss(worker, result)
            return
        if isinstance(result, WorkerAway):
            self._take_leave(worker, result)
            return
        worker.heard = self._now()
        if worker.item is not None and result.item == worker.item.id:
            self._take_work(result.worker, worker, result.message)
        match result.message:
            case Heartbeat(activity, peak_memory):
                if worker.state == "away":
                    worker.state = "starting"
                    self._tidy_adapters(self._adapter_store.found())  # its node may have those of an earlier process of this run
                worker.activity = activity
                self.peak_memory = max(self.peak_memory, peak_memory)
            case ClusterChanged(detail):
                self._writer.event("cluster", detail)
                self._writer.note(f"cluster: {detail}")
            case Ready(parts, facts) if worker.state in ("starting", "given up"):  # a late start is welcome too
                worker.state, worker.failed_starts, worker.activity = "idle", 0, ""
                # of one machine all processors are alike, however many threads a worker has at the moment
                worker.kind = facts.kind if self._disk.node_of(result.worker) else facts.device
                self.facts = facts
                self._chunks.meet(facts.turns or Turns())
                costs = self._dealer.costs.of(worker.kind)
                if (doubt := costs.meet(facts.device)) is not None:
                    self._writer.event("profile", doubt)
                self._writer.started(costs.start_parts(), parts, self._start)
                costs.started(parts)
                self._writer.note(describe_ready(result.worker, sum(parts.values()), facts))
            case Changed(facts):
                self.facts = facts
            case Warned(kind, detail) if not result.item:  # the worker is still starting
                self._writer.event(kind, detail)
            case StartFailed(error, bad_input):
                self._writer.event("start failed", error)
                self._writer.note(f"worker {result.worker} cannot start: {error}")
                worker.error = error
                if bad_input and self.facts is None:  # once a worker was ready the input is good, and the machine is in trouble
                    worker.state, worker.refused = "given up", True

    def _take_work(self, number: int, worker: WorkerState, message: Message) -> None:
        assert worker.item is not None
        match message:
            case TaskOutcome() as outcome:
                if outcome.final:  # a worker that is lost while it scores is charged to the task
                    worker.reported |= {outcome.task_id}
                self._writer.worked(number, worker.item.id, outcome.task_id, outcome.wave)
                self._take_outcome(worker, outcome)
            case SharedFit(fit, events):
                self._writer.worked(number, worker.item.id)
                worker.reported |= {SHARED}
                self._shared = fit.adapter
                if fit.adapter is None:
                    self._shared_losses += 1
                    self._writer.event("shared fit failed", fit.reason)
                for kind, detail in events:
                    self._writer.event(kind, detail)
                self._writer.save(lambda: self._ledger.record_shared(fit))
                self._writer.note(f"shared adapter: {fit.steps} steps in {fit.seconds:.1f} s, stopped by {fit.reason}")
            case Warned(kind, detail):
                (task,) = [work.task.id for work in worker.item.tasks] if len(worker.item.tasks) == 1 else [SHARED]
                self._writer.event(kind, detail, task, worker.item.wave)
            case ItemDone():
                self._end_item(worker, "the worker ended the item without an outcome for this task")
            case ItemFailed(error):
                self._end_item(worker, error)

    def _take_outcome(self, worker: WorkerState, outcome: TaskOutcome) -> None:
        began = self._now()
        self._run_state.add(outcome)
        outcome = self._compared(worker, replace(outcome, seconds={**outcome.seconds, "select": self._now() - began}))
        self._writer.outdate()
        self._writer.save(lambda: self._ledger.record(outcome))
        self._writer.note(describe_outcome(outcome, self._run_state.state(outcome.task_id).agreement))
        for kind, detail in outcome.events:
            self._writer.note(f"{outcome.task_id}: {kind}: {detail}")

    def _take_programs(self, outcome: ProgramOutcome, process: int) -> None:
        self._writer.worked(process, "", outcome.task_id)
        self._run_state.add_programs(outcome)
        self._writer.outdate()
        self._writer.save(lambda: self._ledger.record_programs(outcome))
        self._writer.note(describe_programs(outcome))
        if self._workers:
            self._tidy_adapters([outcome.task_id])  # the network's answers may be confirmed

    def _compared(self, worker: WorkerState, outcome: TaskOutcome) -> TaskOutcome:
        """The outcome with its predicted seconds. The cost model learns from it, unless the item was backed off."""
        assert worker.item is not None
        place = next(place for place, work in enumerate(worker.item.tasks) if work.task.id == outcome.task_id)
        planned, costs = dict(worker.forecast.seconds[place]), self._dealer.costs.of(worker.kind)
        if outcome.final and not worker.item.halvings:
            work = worker.item.tasks[place]
            shape, plan = shortened(self._run_state.state(outcome.task_id).shape, work.max_tokens), work.plan
            if "score" in planned and (seconds := costs.score_seconds(shape, plan, outcome)) is not None:
                planned["score"] = seconds  # the number of answers to score was not known before
            self._dealer.costs.observe(worker.kind, shape, plan, outcome)
            if outcome.status == "complete":
                self._chunks.observe(sum(outcome.seconds.values()), len(worker.item.tasks))
        return replace(outcome, planned=planned)

    def _end_item(self, worker: WorkerState, error: str) -> None:
        """Free the worker, and charge the failure to the tasks of its item that have no final outcome."""
        item = worker.item
        assert item is not None
        worker.state, worker.item = "idle", None
        self._charge(item, worker.reported, error, killed=False)

    def _take_loss(self, worker: WorkerState, loss: WorkerLost) -> None:
        self._writer.event("worker lost", loss.reason)
        self._writer.note(f"worker {loss.worker} lost: {loss.reason}" + (f"\n{loss.output}" if loss.output else ""))
        item, worker.item, worker.dying = worker.item, None, False
        if worker.state == "given up":
            return
        if item is not None:
            self._charge(item, worker.reported, loss.reason, killed=True)
        elif worker.state == "starting":
            worker.failed_starts += 1
            worker.error = worker.error or loss.reason
        most = MAX_FAILED_STARTS if self.facts is None and self._hopeful_until.expired() else MAX_FAILED_RESTARTS
        worker.state = "given up" if worker.failed_starts >= most else "starting"
        worker.heard, worker.activity = self._now(), "starting"

    def _take_leave(self, worker: WorkerState, left: WorkerAway) -> None:
        """Take back what a worker had in hand, without blame. Tasks whose adapter is gone with its node begin anew."""
        item = worker.leave(left.reason)
        if item is not None:
            self._writer.event("worker away", left.reason)
            self._writer.note(f"worker {left.worker} is away: {left.reason}")
            if item.kind != "shared":
                ids = [work.task.id for work in item.tasks]
                self._run_state.mark(ids, busy=False)
                self._tidy_adapters(ids)
        if orphans := self._adapter_store.orphans():
            self._writer.event("adapters lost", f"{len(orphans)} tasks begin anew: {left.reason}")
            self._tidy_adapters(orphans)

    def _charge(self, item: WorkItem, reported: frozenset[str], reason: str, killed: bool) -> None:
        """Release an item's tasks. Those without a final outcome have failed: they are tried again, backed off, or set aside."""
        if item.kind == "shared":
            if SHARED not in reported:
                self._shared_losses += 1
                self._writer.event("shared fit lost", reason)
            return
        ids = [work.task.id for work in item.tasks]
        self._run_state.mark(ids, busy=False)
        for id_ in ids:
            if id_ not in reported and not self._end.work.expired():
                state = self._run_state.lose(id_, killed)
                if not state.set_aside:
                    self._writer.event("retry", f"{reason}; the next try halves: {describe(state.losses)}", id_, item.wave)
                else:
                    self._writer.event("skipped", reason, id_, item.wave)
                    self._writer.save(partial(self._ledger.set_status, id_, "skipped"))
        self._tidy_adapters(ids)

    def _note_unfinished(self, ending: Ending) -> None:
        """Record the work that the end of the run breaks off. It does not count as a failure of its tasks."""
        for number, worker in enumerate(self._workers):
            if worker.dying:
                self._writer.event("worker stays", f"worker {number} was killed, but its process has not ended")
            if worker.item is None:
                continue
            if worker.item.kind == "shared":
                self._writer.event("broken off", f"{ending.detail}: the shared fit was not finished")
            for work in worker.item.tasks if worker.item.kind != "shared" else ():
                if work.task.id not in worker.reported:
                    self._writer.event("broken off", ending.detail, work.task.id, worker.item.wave)

    def _tidy_adapters(self, ids: Iterable[str]) -> None:
        """Delete adapters that no later pass starts from, and others if the disk has no room for new ones."""
        for id_ in ids:
            self._adapter_store.sort(id_, self._run_state.adapters(id_), not self._pending(id_), self._shared)
            self._run_state.locate(id_, self._adapter_store.node(id_))
        coming = len(self._workers) * self._policy.chunk
        for id_ in self._adapter_store.make_room(coming, lambda id_: self._run_state.state(id_).busy):
            self._run_state.locate(id_, "")
            why = "the scratch disk has no room; the next pass of this task starts where its first one did"
            self._writer.event("adapter dropped", why, id_)

    # -- watching

    def _look_after_workers(self) -> None:
        now = self._now()
        for number, worker in enumerate(self._workers):
            if worker.watched:
                verdict = self._timeouts.verdict(now, worker.heard, *worker.limits)
                if verdict is not None:
                    worker.dying = True
                    self._executor.kill(number, verdict)

    def _patience(self) -> float:
        """Seconds to wait for messages: until the next moment at which a worker may be overdue or the time is up."""
        now = self._now()
        looks = [self._end.last_call.at]
        if not self._end.work.expired():
            looks.append(self._end.work.at)
        if len(self._workers) > MANY:
            looks.append(now + ROUND)
        for worker in self._workers if len(self._workers) <= MANY else ():
            if worker.watched:
                looks.append(self._timeouts.next_look(worker.heard, *worker.limits))
        looks.append(self._programs.next_look())
        return max(0.0, min(self._poll, min(looks) - now + 1e-3))

    # -- telling

    def _flush(self, last: bool = False) -> None:
        took = self._writer.flush(self._run_state.submission, last)
        if took is not None:
            self._end.wrote(took)

    def _tell(self) -> None:
        progress = progress_of(
            self._run_state,
            searched=not self._workers,
            wave=self._wave,
            seconds_left=max(0.0, self._end.work.remaining()),
            activity=", ".join(activities([worker.activity for worker in self._workers], self._programs.activity)),
        )
        with contextlib.suppress(OSError, ValueError):
            self._observer.progress(progress)
