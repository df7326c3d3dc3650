"""The supervisor on a simulated clock, with simulated workers: no process, no waiting, no randomness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from run_helpers import grid, make_tasks, outcome
from simulated_processes import Clock, SimulatedProcesses

from solver.arc.datasets import TaskSet
from solver.arc.submission import Submission
from solver.arc.task import Pair, Task
from solver.budget.costs import START
from solver.budget.planner import MAX_LOSSES, MAX_TRIES
from solver.budget.registry import make_policy
from solver.config import Settings, load_settings
from solver.messages import Heartbeat, ItemDone, ItemFailed, Message, Ready, SharedFit, StartFailed, Turns, Warned, WorkerFacts
from solver.report.observer import Progress
from solver.run.executors.base import WorkerLost, WorkResult
from solver.run.identity import identity_of
from solver.run.ledger import BEFORE, SHARED, Ledger
from solver.run.program_search import ProgramResources
from solver.run.run_facts import Identity
from solver.run.state import RunState
from solver.run.supervisor import MAX_FAILED_RESTARTS, MAX_FAILED_STARTS, Supervisor
from solver.run.types import Ending
from solver.run.worker_state import WorkerTimeouts
from solver.types import Deadline, Fit, WorkItem

LOAD = 5.0  # seconds a simulated worker takes to start
BEAT = 1.0


@dataclass
class SimulatedExecutor(SimulatedProcesses):
    """Workers that take `seconds[task]` a task (default `cost`) and commit `faults[task]` ("hang", "crash", "fail")."""

    cost: float = 2.0
    agree: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    start_faults: list[str] = field(default_factory=list)
    silent: bool = False  # a hang that stops the heartbeat, too
    turns: Turns | None = None  # that workers report
    submitted: list[tuple[float, WorkItem]] = field(default_factory=list)
    _mute: set[int] = field(default_factory=set)

    def submit(self, worker: int, work: WorkItem) -> None:
        self.submitted.append((self.clock.now, work))
        at = self.clock.now
        if work.kind == "shared":
            failed = Fit(work.id, "failed", "not finite", None, 3, 30, 1.0, 2.0, 2.0)
            self._say(at + 1, worker, work.id, SharedFit(failed))
            self._say(at + 1, worker, work.id, ItemDone())
            return
        for one in work.tasks:
            fault = (self.faults.get(one.task.id) or [""]).pop(0) if self.faults.get(one.task.id) else ""
            if fault == "hang":
                if self.silent:
                    self._mute.add(worker)
                return
            if fault == "crash":
                self._later(at + 1, worker, WorkerLost(worker, "it was ended by SIGKILL"))
                return
            if fault == "fail":
                self._say(at + 1, worker, work.id, ItemFailed("MemoryError"))
                return
            if fault == "crash while scoring":
                early = replace(outcome(one.task.id, work.wave, "cut", (grid(1), grid(1))), final=False)
                self._say(at + 1, worker, work.id, early)
                self._later(at + 2, worker, WorkerLost(worker, "it was ended by SIGKILL"))
                return
            needed = self.seconds.get(one.task.id, self.cost)
            taken = min(needed, max(work.deadline_at - at, 0.0))
            at += taken
            grids = (grid(1), grid(1 if self.agree else 2))
            done = outcome(one.task.id, work.wave, "complete" if taken == needed else "cut", grids, (1.0, 2.0))
            self._say(at, worker, work.id, replace(done, seconds={"fit": taken}))
        self._say(at, worker, work.id, ItemDone())

    def close(self) -> None:
        self.closed = True

    def _sends(self, result: WorkResult, at: float) -> bool:
        if isinstance(result.message, Heartbeat):
            if result.worker in self._mute:
                return False
            self._say(at + BEAT, result.worker, "", result.message)
        return True

    def _spawn(self, worker: int, at: float) -> None:
        super()._spawn(worker, at)
        self._mute.discard(worker)
        fault = self.start_faults.pop(0) if self.start_faults else ""
        if fault == "hang":
            return
        if fault in ("raise", "refuse"):
            self._say(self.clock.now + LOAD, worker, "", StartFailed("no good", bad_input=fault == "refuse"))
            self._later(self.clock.now + LOAD + 0.1, worker, WorkerLost(worker, "exit code 0"))
            return
        if fault == "warn":
            self._say(self.clock.now + LOAD / 2, worker, "", Warned("trainer", "peft in place of another that did not start"))
        ready = Ready(dict.fromkeys(START, LOAD / len(START)), WorkerFacts("simulated", "simulated", turns=self.turns))
        self._say(self.clock.now + LOAD, worker, "", ready)
        self._say(self.clock.now + BEAT, worker, "", Heartbeat("", 1))

    def _say(self, at: float, worker: int, item: str, message: Message) -> None:
        self._later(at, worker, WorkResult(worker, item, message))


@dataclass
class Recorder:
    notes: list[str] = field(default_factory=list)
    last: Progress | None = None

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def note(self, line: str) -> None:
        self.notes.append(line)


@dataclass
class Run:
    ending: Ending
    executor: SimulatedExecutor
    ledger: Ledger
    clock: Clock
    published: list[Submission]
    recorder: Recorder

    def finished(self) -> dict[str, str]:
        return self.ledger.statuses()

    def times(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for _, item in self.executor.submitted:
            for work in item.tasks:
                found[work.task.id] = found.get(work.task.id, 0) + 1
        return found


def simulate(
    folder: Path,
    count: int,
    budget: float,
    *overrides: str,
    name: str = "run.db",
    clock_set: Callable[[], str | None] = lambda: None,
    tasks: TaskSet | None = None,
    programs: Callable[[Clock], ProgramResources | None] = lambda _: None,
    **executor: object,
) -> Run:
    clock = Clock(1000.0)
    tasks = tasks or make_tasks(count)
    settings: Settings = load_settings(
        overrides=[
            "budget.policy=uniform",
            "budget.reserve=4",
            "budget.heartbeat=20",
            "budget.grace=6",
            "budget.floor=1",
            *overrides,
        ]
    )
    ledger = Ledger.open(folder / name, Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    run_state = RunState(tasks, settings.select.rule, ledger.outcomes(), ledger.program_outcomes())
    workers = SimulatedExecutor(clock, **executor)  # type: ignore[arg-type]
    published: list[Submission] = []
    recorder = Recorder()
    supervisor = Supervisor(
        settings,
        list(tasks),
        run_state,
        ledger,
        workers,
        make_policy(settings),
        Deadline(clock.now + budget, clock),
        lambda submission: published.append(dict(submission)),
        recorder,
        clock_set=clock_set,
        programs=programs(clock),
        poll=float("inf"),
    )
    ending = supervisor.run()
    return Run(ending, workers, ledger, clock, published, recorder)


def test_a_task_of_many_demonstrations_is_shown_in_parts(tmp_path: Path) -> None:
    pairs = tuple(Pair(grid(2 * i, 5, 5), grid(2 * i + 1, 5, 5)) for i in range(400))
    tasks = TaskSet("made", (Task("many", pairs, (Pair(grid(999, 5, 5), None),)), *make_tasks(1)))
    run = simulate(tmp_path, 2, 60, tasks=tasks)
    limits = {work.task.id: work.max_tokens for _, item in run.executor.submitted for work in item.tasks}
    assert limits["task000"] is None
    assert 512 <= (limits["many"] or 0) <= 4096
    (event,) = [event for event in run.ledger.events() if event.kind == "shortened"]
    assert event.task == "many"
    assert f"of 400 demonstrations in at most {limits['many']} tokens" in event.detail
    fixed = simulate(tmp_path, 2, 60, "budget.policy=fixed", name="fixed.db", tasks=tasks)
    assert {work.max_tokens for _, item in fixed.executor.submitted for work in item.tasks} == {None}


def test_agreeing_tasks_are_done_once_and_the_run_ends_early(tmp_path: Path) -> None:
    run = simulate(tmp_path, 10, 600)
    assert run.ending.stop == "finished"
    assert set(run.times().values()) == {1}
    assert run.clock.now - 1000 < LOAD + 10 * 2 + 5
    assert run.executor.closed
    assert len(run.published) >= 10


def test_doubtful_tasks_are_refitted_until_the_time_is_used(tmp_path: Path) -> None:
    run = simulate(tmp_path, 5, 120, agree=False)
    assert run.ending.stop == "deadline"
    assert min(run.times().values()) > 5
    used = sum(min(item.deadline_at - at, 2.0) for at, item in run.executor.submitted)
    assert used > 0.95 * (120 - 4 - LOAD)
    assert run.clock.now - 1000 <= 120
    waves = [work.task.id for _, item in run.executor.submitted for work in item.tasks if item.wave == 1]
    assert sorted(waves) == [f"task{i:03}" for i in range(5)]
    later = next(item for _, item in run.executor.submitted if item.wave == 1)
    assert len(later.tasks[0].known[0]) == 2  # candidates of the first pass, to be scored with the new adapter


def test_too_many_tasks_all_get_an_even_share(tmp_path: Path) -> None:
    run = simulate(tmp_path, 20, 104, "budget.floor=0", cost=1e9)
    first = [(at, item) for at, item in run.executor.submitted if item.wave == 0]
    assert len(first) == 20
    shares = [item.deadline_at - at for at, item in first]
    assert all(4.5 < share < 5.0 for share in shares)  # (104 - 4 - 5) / 20, less what the messages take
    sizes = [item.tasks[0].task.grid_tokens() for _, item in first]
    assert sizes == sorted(sizes)


def test_savings_flow_on(tmp_path: Path) -> None:
    quick = {f"task{i:03}": 0.5 for i in range(20) if i != 17}  # task017 is the last of the longest
    run = simulate(tmp_path, 20, 104, seconds=quick, cost=1e9)
    share = {item.tasks[0].task.id: item.deadline_at - at for at, item in run.executor.submitted if item.wave == 0}
    assert share["task017"] > 4 * min(share.values())


def test_below_the_floor_the_longest_tasks_go_without(tmp_path: Path) -> None:
    run = simulate(tmp_path, 30, 100, "budget.floor=10", cost=1e9)
    shares = [item.deadline_at - at for at, item in run.executor.submitted]
    assert 8 <= len(shares) <= 9  # (100 - 4 - 5) / 10
    assert all(share <= 10.0 for share in shares[:-1])
    assert 10.0 <= shares[-1] < 20.0  # the rest would have been too little for anything
    assert run.clock.now - 1000 <= 100


def test_no_wave_is_begun_below_the_floor(tmp_path: Path) -> None:
    run = simulate(tmp_path, 2, 60, "budget.floor=15", agree=False, cost=8.0)
    assert run.ending.stop == "deadline"
    assert all(1000 + 60 - 4 - at >= 15 for at, item in run.executor.submitted if item.wave)
    assert run.clock.now < 1000 + 60 - 4  # and nobody waits for nothing


def test_a_pass_without_candidates_makes_nothing_less_certain() -> None:
    tasks = make_tasks(1)
    run_state = RunState(tasks, "flat_vote", [outcome("task000", 0, grids=(grid(1), grid(1)))])
    assert run_state.agreement() == run_state.state("task000").agreement == 1.0
    run_state.add(outcome("task000", 1, "cut"))
    assert run_state.agreement() == run_state.state("task000").agreement == 1.0
    assert run_state.state("task000").status == "cut"
    assert run_state.totals().steps == 10
    run_state.add(outcome("task000", 1, "complete", (grid(1), grid(2))))
    assert run_state.agreement() == 0.5
    assert run_state.totals().steps == 10


def test_views_that_found_nothing_disagree() -> None:
    run_state = RunState(make_tasks(1), "flat_vote", [outcome("task000", 0, grids=(grid(1), grid(1)), views=8)])
    assert run_state.agreement() == run_state.state("task000").agreement == 0.25


def test_fixed_gives_every_task_the_same_and_ignores_the_clock(tmp_path: Path) -> None:
    run = simulate(tmp_path, 6, 300, "budget.policy=fixed", agree=False)
    assert run.ending.stop == "finished"
    plans = {item.tasks[0].plan for _, item in run.executor.submitted}
    assert len(plans) == 1
    assert {item.deadline_at for _, item in run.executor.submitted} == {1000 + 300 - 4}


def test_fixed_redoes_what_was_cut_and_nothing_else(tmp_path: Path) -> None:
    first = simulate(tmp_path, 6, 20, "budget.policy=fixed", cost=4.0)
    assert first.ending.stop == "deadline"
    done = {id_ for id_, status in first.finished().items() if status == "complete"}
    assert 0 < len(done) < 6
    first.ledger.close()
    second = simulate(tmp_path, 6, 300, "budget.policy=fixed", cost=4.0)
    assert second.ending.stop == "finished"
    assert set(second.times()) == {f"task{i:03}" for i in range(6)} - done
    assert set(second.finished().values()) == {"complete"}


def test_a_fit_without_steps_keeps_the_folder_it_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "a0"
    adapter.mkdir()
    real, seen = outcome, []

    def stalled(id_: str, wave: int, *rest: object) -> object:
        seen.append((wave, adapter.is_dir()))
        return real(id_, wave, *rest, path=adapter)  # type: ignore[arg-type]

    monkeypatch.setattr("test_supervisor.outcome", stalled)
    simulate(tmp_path, 1, 60, agree=False)
    assert len(seen) > 2
    assert all(there for _, there in seen)


def test_several_workers_share_the_tasks(tmp_path: Path) -> None:
    run = simulate(tmp_path, 12, 600, workers=4, cost=10.0)
    assert set(run.times().values()) == {1}
    assert run.clock.now - 1000 < LOAD + 3 * 10 + 2


@pytest.mark.parametrize("silent", [True, False])
def test_a_hanging_worker_is_killed_and_the_task_tried_smaller(tmp_path: Path, silent: bool) -> None:
    run = simulate(tmp_path, 4, 400, faults={"task001": ["hang"]}, silent=silent)
    assert run.ending.stop == "finished"
    assert set(run.finished().values()) == {"complete"}
    tries = [item.halvings for _, item in run.executor.submitted if item.tasks[0].task.id == "task001"]
    assert tries == [0, 1]
    kinds = [event.kind for event in run.ledger.events()]
    assert kinds.count("worker lost") == 1
    assert kinds.count("retry") == 1
    lost = next(event.detail for event in run.ledger.events() if event.kind == "worker lost")
    assert ("silent" in lost) == silent


@pytest.mark.parametrize(("fault", "tries"), [("hang", MAX_LOSSES), ("crash", MAX_LOSSES), ("fail", MAX_TRIES)])
def test_a_task_that_costs_two_workers_is_set_aside(tmp_path: Path, fault: str, tries: int) -> None:
    run = simulate(tmp_path, 4, 2000, faults={"task002": [fault] * 9}, silent=True)
    assert run.times() == {"task000": 1, "task001": 1, "task002": tries, "task003": 1}
    assert run.finished()["task002"] == "skipped"
    assert run.ending.stop == "finished"


def test_in_a_chunk_only_the_unreported_are_charged_and_then_tried_alone(tmp_path: Path) -> None:
    run = simulate(tmp_path, 6, 900, "budget.chunk=3", faults={"task001": ["crash", "crash"]})
    assert run.ending.stop == "finished"
    assert run.finished() == {f"task{i:03}": "skipped" if i == 1 else "complete" for i in range(6)}
    retries = [item for _, item in run.executor.submitted if item.halvings]
    assert retries
    assert all(len(item.tasks) == 1 for item in retries)


def test_a_device_that_changes_hands_gets_chunks_once_a_task_is_measured(tmp_path: Path) -> None:
    run = simulate(tmp_path, 40, 9000, cost=30.0, turns=Turns(8.0))
    assert run.ending.stop == "finished"
    sizes = [len(item.tasks) for _, item in run.executor.submitted]
    assert sizes[:2] == [1, 9]  # 8 s are four percent of all of 8 + 9 x 22 s
    assert sizes == [1, *sorted(sizes[1:], reverse=True)]  # the end of the tasks is not left to one worker
    events = [event.detail for event in run.ledger.events() if event.kind == "chunk"]
    assert events[0].startswith("9 tasks per item: switching the device takes 8.0 s, a task 22.0 s")


def test_a_short_budget_has_small_chunks(tmp_path: Path) -> None:
    run = simulate(tmp_path, 40, 900, cost=30.0, turns=Turns(8.0))
    assert max(len(item.tasks) for _, item in run.executor.submitted) <= 3


@pytest.mark.parametrize("overrides", [[], ["budget.chunk=1"]])
def test_workers_that_share_one_base_get_one_task_at_a_time(tmp_path: Path, overrides: list[str]) -> None:
    run = simulate(tmp_path, 12, 2000, *overrides, turns=Turns(8.0) if overrides else None)
    assert {len(item.tasks) for _, item in run.executor.submitted} == {1}
    assert not [event for event in run.ledger.events() if event.kind == "chunk"]


def test_a_worker_lost_while_it_scores_is_lost_over_the_task(tmp_path: Path) -> None:
    run = simulate(tmp_path, 6, 900, "budget.chunk=3", faults={"task001": ["crash while scoring"] * 9})
    assert run.ending.stop == "finished"
    assert run.times()["task001"] == 2
    assert run.finished()["task001"] == "skipped"


def test_the_ledger_tells_which_worker_made_each_pass_in_which_item(tmp_path: Path) -> None:
    run = simulate(tmp_path, 6, 300, workers=2)
    items = {work.task.id: item.id for _, item in run.executor.submitted for work in item.tasks}
    done = {one.task: one for one in run.ledger.work_log()}
    assert {id_: one.item for id_, one in done.items()} == items
    assert {one.process for one in done.values()} == {0, 1}
    assert {(one.task, one.wave) for one in run.ledger.work_log()} == set(run.ledger.order())


def test_a_failed_shared_fit_counts_once(tmp_path: Path) -> None:
    run = simulate(tmp_path, 2, 300, "train.shared=true")
    assert [(one.task, one.wave) for one in run.ledger.work_log() if one.task == SHARED] == [(SHARED, BEFORE)]
    assert sum(item.kind == "shared" for _, item in run.executor.submitted) == MAX_LOSSES
    assert [event.kind for event in run.ledger.events()].count("shared fit failed") == MAX_LOSSES
    assert run.ending.stop == "finished"


def test_a_worker_that_never_starts(tmp_path: Path) -> None:
    run = simulate(tmp_path, 3, 90, start_faults=["raise"] * 99)
    assert run.ending.stop == "no worker"
    assert "no good" in run.ending.detail
    assert [event.detail for event in run.ledger.events() if event.kind == "start failed"] == ["no good"] * MAX_FAILED_STARTS
    hung = simulate(tmp_path, 3, 900, start_faults=["hang"] * 99, name="hung.db")
    assert hung.ending.stop == "no worker"
    assert hung.clock.now - 1000 < 200
    once = simulate(tmp_path, 3, 900, start_faults=["hang"], name="once.db")
    assert once.ending.stop == "finished"


def test_a_worker_is_tried_for_a_tenth_of_the_time_or_twenty_times(tmp_path: Path) -> None:
    """What may be free in a minute is waited for where there are hours; what never works does not cost them."""
    late = simulate(tmp_path, 3, 900, start_faults=["raise"] * 9)
    assert late.ending.stop == "finished"
    assert set(late.finished().values()) == {"complete"}
    never = simulate(tmp_path, 3, 40000, start_faults=["raise"] * 99, name="never.db")
    assert never.ending.stop == "no worker"
    assert never.clock.now - 1000 < MAX_FAILED_RESTARTS * (LOAD + 1)


def test_what_a_worker_warns_of_as_it_starts_is_in_the_ledger(tmp_path: Path) -> None:
    run = simulate(tmp_path, 3, 900, start_faults=["warn"])
    (event,) = (event for event in run.ledger.events() if event.kind == "trainer")
    assert event.detail == "peft in place of another that did not start"
    assert run.ending.stop == "finished"


def test_a_worker_that_refuses_its_model(tmp_path: Path) -> None:
    run = simulate(tmp_path, 3, 900, start_faults=["refuse"])
    assert run.ending == Ending("bad input", "no good")


def test_a_model_that_was_read_before_is_no_bad_input_later(tmp_path: Path) -> None:
    """Memory that a killed process has not given back yet looks like a model that cannot be loaded."""
    run = simulate(tmp_path, 3, 900, faults={"task001": ["crash"]}, start_faults=["", "refuse", "refuse"])
    assert run.ending.stop == "finished"
    assert set(run.finished().values()) == {"complete"}
    assert [event.detail for event in run.ledger.events() if event.kind == "start failed"] == ["no good", "no good"]


def test_a_pause_of_everything_is_nobodys_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after Ctrl-Z and fg: what workers said meanwhile comes a little later than the first look at them."""
    listen, calls = SimulatedExecutor.results, iter(range(10**6))

    def paused(executor: SimulatedExecutor, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        if next(calls) in (8, 20):
            executor.clock.now += 500.0
            return iter(())
        return listen(executor, timeout)

    monkeypatch.setattr(SimulatedExecutor, "results", paused)
    run = simulate(tmp_path, 12, 4000, cost=30.0)
    assert run.ending.stop == "finished"
    assert "worker lost" not in {event.kind for event in run.ledger.events()}


def test_a_worker_that_stops_answering_at_the_very_end(tmp_path: Path) -> None:
    run = simulate(tmp_path, 3, 30, "budget.policy=fixed", faults={"task002": ["hang"]})
    assert run.ending.stop == "deadline"
    assert run.clock.now - 1000 <= 30 - 4 / 2 + 0.1
    assert run.finished()["task002"] == "waiting"  # being stopped by the deadline is not held against it
    (event,) = (event for event in run.ledger.events() if event.kind == "broken off")
    assert (event.task, event.wave, event.detail) == ("task002", 0, "the time is up")


def test_a_worker_that_does_not_vanish_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedExecutor, "kill", lambda executor, worker, reason: None)
    run = simulate(tmp_path, 3, 100, faults={"task001": ["hang"]}, silent=True, workers=2)
    kinds = [event.kind for event in run.ledger.events()]
    assert kinds.count("worker stays") == kinds.count("broken off") == 1
    assert [run.finished()[id_] for id_ in ("task000", "task001", "task002")] == ["complete", "waiting", "complete"]


def test_a_clock_that_is_set_is_told_once(tmp_path: Path) -> None:
    told = iter(["set back", None])
    run = simulate(tmp_path, 3, 300, clock_set=lambda: next(told, None))
    assert [event.detail for event in run.ledger.events() if event.kind == "clock"] == ["set back"]


def test_resuming_repeats_nothing(tmp_path: Path) -> None:
    first = simulate(tmp_path, 8, 20, "budget.floor=3")
    done = {id_ for id_, status in first.finished().items() if status == "complete"}
    assert 0 < len(done) < 8
    first.ledger.close()
    second = simulate(tmp_path, 8, 400)
    assert not done & set(second.times())
    assert set(second.finished().values()) == {"complete"}


def test_a_score_that_is_no_number_costs_its_own_record_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = outcome

    def poisoned(id_: str, *rest: object) -> object:
        made = real(id_, *rest)  # type: ignore[arg-type]
        if id_ != "task001":
            return made
        (query,) = made.queries
        scores = tuple(replace(score, nll=float("nan")) for score in query.scores)
        return replace(made, queries=(replace(query, scores=scores),))

    monkeypatch.setattr("test_supervisor.outcome", poisoned)
    run = simulate(tmp_path, 4, 300)
    assert run.ending.stop == "finished"
    assert {one.task_id for one in run.ledger.outcomes()} == {"task000", "task002", "task003"}
    assert [event.kind for event in run.ledger.events()].count("not recorded") == 1


def test_an_observer_that_cannot_write_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(recorder: Recorder, _: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Recorder, "note", broken)
    monkeypatch.setattr(Recorder, "progress", broken)
    run = simulate(tmp_path, 3, 300)
    assert run.ending.stop == "finished"
    assert set(run.finished().values()) == {"complete"}


def test_a_disk_that_refuses_costs_nothing_but_the_file(tmp_path: Path) -> None:
    clock = Clock(0.0)
    tasks = make_tasks(4)
    settings = load_settings(overrides=["budget.policy=uniform", "budget.reserve=4"])
    ledger = Ledger.open(tmp_path / "run.db", identity_of_made(), tasks)
    recorder = Recorder()
    attempts: list[Submission] = []

    def publish(submission: Submission) -> None:
        attempts.append(submission)
        if len(attempts) < 4:
            raise OSError(28, "No space left on device")

    supervisor = Supervisor(
        settings, list(tasks), RunState(tasks, "flat_vote"), ledger, SimulatedExecutor(clock), make_policy(settings),
        Deadline(300.0, clock), publish, recorder, poll=1.0,
    )  # fmt: skip
    assert supervisor.run().stop == "finished"
    assert sum("cannot write the submission" in note for note in recorder.notes) == 1
    assert [event.kind for event in ledger.events()].count("disk") == 1
    assert len(attempts) >= 4


def identity_of_made() -> Identity:
    return Identity("t", "m", 0, "r", {})


@given(
    count=st.integers(1, 25),
    budget=st.floats(1.0, 60.0),
    workers=st.integers(1, 4),
    chunk=st.integers(1, 5),
    policy=st.sampled_from(["fixed", "uniform", "adaptive"]),
    agree=st.booleans(),
    silent=st.booleans(),
    faults=st.dictionaries(st.integers(0, 24), st.lists(st.sampled_from(["hang", "crash", "fail", ""]), max_size=3), max_size=6),
    costs=st.lists(st.floats(1.0, 40.0), min_size=25, max_size=25),
)
@hypothesis_settings(max_examples=30, deadline=None)
def test_never_late_never_incomplete(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    budget: float,
    workers: int,
    chunk: int,
    policy: str,
    agree: bool,
    silent: bool,
    faults: dict[int, list[str]],
    costs: list[float],
) -> None:
    """Whatever happens: the supervisor stops before the end, the submission is complete, and no task is lost for good."""
    run = simulate(
        tmp_path_factory.mktemp("simulated"),
        count,
        budget,
        f"budget.policy={policy}",
        f"budget.chunk={chunk}",
        workers=workers,
        agree=agree,
        silent=silent,
        faults={f"task{i:03}": list(kinds) for i, kinds in faults.items()},
        seconds={f"task{i:03}": cost for i, cost in enumerate(costs)},
    )
    assert run.clock.now - 1000 <= max(budget - 2, 0) + 0.1
    assert len(run.published[-1]) == count
    assert run.executor.closed
    if run.ending.stop == "finished":
        assert set(run.finished().values()) <= {"complete", "skipped", "failed", "cut"}


def test_worker_timeouts() -> None:
    timeouts = WorkerTimeouts(heartbeat=10, grace=5)
    assert timeouts.verdict(now=9, heard=0, deadline_at=None) is None
    assert "silent" in str(timeouts.verdict(now=11, heard=0, deadline_at=None))
    assert timeouts.verdict(now=104, heard=100, deadline_at=100) is None
    assert "past" in str(timeouts.verdict(now=106, heard=100, deadline_at=100))
    assert timeouts.next_look(heard=0, deadline_at=None) == 10
    assert timeouts.next_look(heard=0, deadline_at=2) == 7
    assert timeouts.verdict(now=4, heard=0, deadline_at=None, silence=3) is not None  # little work was expected
    assert timeouts.verdict(now=11, heard=0, deadline_at=None, silence=99) is not None
    assert timeouts.next_look(heard=0, deadline_at=None, silence=3) == 3


def test_identity_ignores_the_machine_and_the_budget(tiny_base: Path) -> None:
    tasks = make_tasks(2)
    one = identity_of(tasks, load_settings("cpu"), tiny_base, None)
    same = load_settings("kaggle-t4x2", None, ["budget.policy=fixed", "select.rule=flat_vote", "train.batch_tokens=99"])
    assert one == identity_of(tasks, same, tiny_base, "default")
    assert one != identity_of(tasks, load_settings("cpu", None, ["infer.mode=search"]), tiny_base, None)
    assert "data.augment" not in one.settings  # as in ledgers from before the setting was there
    assert one != identity_of(tasks, load_settings("cpu", None, ["data.augment=false"]), tiny_base, None)
