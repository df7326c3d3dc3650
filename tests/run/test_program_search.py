"""Program search in the supervisor, on a simulated clock: order, failures, shares of the time, and what it saves the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from run_helpers import grid, make_tasks
from simulated_processes import Clock, SimulatedProcesses
from test_supervisor import LOAD, simulate

from solver.arc import selection
from solver.arc.ensemble import PRIOR, Ensemble
from solver.budget.program_share import ProgramTime
from solver.run.executors.base import WorkerLost, WorkResult
from solver.run.ledger import BEFORE, Ledger
from solver.run.program_search import GRACE, MAX_FAILED_STARTS, START_SECONDS, ProgramResources
from solver.types import Candidate, Program, ProgramOutcome, ProgramReady, ProgramWork


@pytest.fixture(autouse=True)
def assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ensemble of the prior: what is fitted may change."""
    monkeypatch.setattr(selection, "shipped_ensemble", lambda: Ensemble(PRIOR))


@dataclass
class Programs(SimulatedProcesses):
    """Processes that answer every task with grid(1) after `seconds[task]` (default `cost`), or commit `faults[task]`."""

    cost: float = 0.2
    seconds: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)  # "crash" or "hang"
    start_faults: list[str] = field(default_factory=list)
    submitted: list[tuple[float, ProgramWork]] = field(default_factory=list)
    killed: list[tuple[float, str]] = field(default_factory=list)
    _free_at: dict[int, float] = field(default_factory=dict)

    def submit(self, worker: int, work: ProgramWork) -> None:
        self.submitted.append((self.clock.now, work))
        began = max(self.clock.now, self._free_at[worker])
        fault = self.faults.get(work.task.id)
        taken = min(self.seconds.get(work.task.id, self.cost), work.seconds)
        self._free_at[worker] = at = began + (taken if fault != "hang" else float("inf"))
        if fault == "crash":
            self._later(at, worker, WorkerLost(worker, "it was ended by SIGSEGV"))
        elif fault != "hang":
            answer = Candidate.of_program(grid(1), Program("one", 2.0, True, 1.0))
            self._later(at, worker, WorkResult(worker, work.id, ProgramOutcome(work.task.id, "complete", ((answer,),), taken)))

    def kill(self, worker: int, reason: str) -> None:
        self.killed.append((self.clock.now, reason))
        super().kill(worker, reason)

    def close(self, patience: float) -> None:
        self.closed = True

    def _spawn(self, worker: int, at: float) -> None:
        super()._spawn(worker, at)
        self._free_at[worker] = at
        fault = self.start_faults.pop(0) if self.start_faults else ""
        if fault == "crash":
            self._later(at + 0.1, worker, WorkerLost(worker, "it ended with exit code 1", "ImportError: no"))
        elif fault != "hang":
            self._later(at + 0.3, worker, WorkResult(worker, "", ProgramReady(0.3)))


@dataclass
class Made:
    """Makes the processes once the clock is known."""

    options: dict[str, object]
    most: float = 5.0
    beside: bool = False
    programs: Programs | None = None

    def __call__(self, clock: Clock) -> ProgramResources:
        self.programs = Programs(clock, **self.options)  # type: ignore[arg-type]
        return ProgramResources(self.programs, ProgramTime(self.most, self.programs.workers, self.beside))

    @property
    def made(self) -> Programs:
        assert self.programs is not None
        return self.programs


def made(most: float = 5.0, beside: bool = False, **options: object) -> Made:
    return Made(options, most, beside)


def kinds(ledger: Ledger) -> list[str]:
    return [event.kind for event in ledger.events()]


def test_agreement_of_both_engines_saves_further_waves(tmp_path: Path) -> None:
    """Views that disagree are asked again until the time is used; where a program gives their first answer, they are not."""
    alone = simulate(tmp_path, 5, 120, agree=False, name="alone.db")
    assert min(alone.times().values()) > 5
    both = simulate(tmp_path, 5, 120, agree=False, programs=made())
    assert both.ending.stop == "finished"
    assert set(both.times().values()) == {1}
    assert both.clock.now - 1000 < LOAD + 5 * 2 + 5


def test_the_shortest_tasks_are_searched_first_and_each_once(tmp_path: Path) -> None:
    search = made(workers=2)
    run = simulate(tmp_path, 9, 60, programs=search)
    sizes = [work.task.grid_tokens() for _, work in search.made.submitted]
    assert sizes == sorted(sizes)
    assert len({work.task.id for _, work in search.made.submitted}) == len(sizes) == 9
    assert all(pair.output is None for _, work in search.made.submitted for pair in work.task.test)
    assert len(run.ledger.program_outcomes()) == 9
    searched = {done.task: done for done in run.ledger.work_log() if done.wave == BEFORE}
    assert len(searched) == 9
    assert {(done.process, done.item) for done in searched.values()} == {(0, ""), (1, "")}
    again = made()
    run.ledger.close()
    simulate(tmp_path, 9, 60, programs=again)
    assert again.made.submitted == []


def test_a_run_without_a_network_ends_when_all_is_searched(tmp_path: Path) -> None:
    search = made(workers=2, cost=1.0)
    run = simulate(tmp_path, 8, 60, programs=search, workers=0)
    assert run.ending.stop == "finished"
    assert run.clock.now - 1000 == pytest.approx(0.3 + 8 * 1.0 / 2, abs=0.5)
    assert all((run.published[-1][f"task{i:03}"][0][0] == grid(1)).all() for i in range(8))
    assert run.recorder.last is not None
    assert run.recorder.last.done == 8
    assert search.made.closed


def test_a_run_without_a_network_stops_in_time(tmp_path: Path) -> None:
    search = made(most=1000.0, cost=1000.0)
    run = simulate(tmp_path, 8, 60, programs=search, workers=0)
    assert run.clock.now - 1000 <= 60
    assert all(at + work.seconds <= 1060 - 4 for at, work in search.made.submitted)
    assert len(run.ledger.program_outcomes()) >= 6  # the even share of each was used


def test_a_crash_costs_one_task_and_the_others_wait_again(tmp_path: Path) -> None:
    search = made(faults={"task001": "crash"})
    run = simulate(tmp_path, 5, 60, programs=search)
    found = {outcome.task_id: outcome.status for outcome in run.ledger.program_outcomes()}
    assert found == {f"task00{i}": "failed" if i == 1 else "complete" for i in range(5)}
    assert kinds(run.ledger).count("program search failed") == 1
    assert set(run.finished().values()) == {"complete"}


def test_a_hang_is_killed_when_its_search_is_overdue(tmp_path: Path) -> None:
    search = made(most=3.0, faults={"task000": "hang"})
    run = simulate(tmp_path, 3, 60, "budget.floor=0", programs=search, cost=10.0)
    ((at, reason),) = search.made.killed
    began, work = search.made.submitted[0]
    assert work.task.id == "task000"
    assert began + 3.0 + GRACE < at < began + 3.0 + GRACE + 2.0
    assert "past the end of its search" in reason
    assert {outcome.task_id: outcome.status for outcome in run.ledger.program_outcomes()}["task000"] == "failed"
    assert len(run.ledger.program_outcomes()) == 3


def test_a_process_that_never_starts_is_given_up(tmp_path: Path) -> None:
    search = made(start_faults=["crash"] * MAX_FAILED_STARTS)
    run = simulate(tmp_path, 3, 60, programs=search)
    assert search.made.submitted == []
    assert kinds(run.ledger).count("program search") == MAX_FAILED_STARTS + 1
    assert run.ending.stop == "finished"
    assert set(run.finished().values()) == {"complete"}


def test_a_process_that_hangs_at_its_start_is_replaced(tmp_path: Path) -> None:
    search = made(start_faults=["hang"])
    run = simulate(tmp_path, 3, 200, programs=search)
    ((at, reason),) = search.made.killed
    assert START_SECONDS < at - 1000 < START_SECONDS + 2
    assert "start" in reason
    assert len(run.ledger.program_outcomes()) == 3


def test_programs_beside_the_network_get_a_share_of_its_time(tmp_path: Path) -> None:
    search = made(most=50.0, beside=True, cost=50.0)
    simulate(tmp_path, 30, 104, "budget.floor=0", programs=search, cost=1e9)
    assert 0.3 * 100 < sum(work.seconds for _, work in search.made.submitted) < 0.45 * 100


def test_a_failed_network_waits_for_programs(tmp_path: Path) -> None:
    run = simulate(tmp_path, 4, 60, programs=made(cost=8.0, most=9.0), start_faults=["raise"] * 50)
    assert run.ending.stop == "no worker"
    assert len(run.ledger.program_outcomes()) == 4
    assert (run.published[-1]["task000"][0][0] == grid(1)).all()


def test_grids_of_programs_are_never_read_as_candidates_of_the_network(tmp_path: Path) -> None:
    run = simulate(tmp_path, 2, 60, programs=made())
    for outcome in run.ledger.outcomes():
        assert {candidate.origin for query in outcome.queries for candidate in query.candidates} == {"greedy"}
    assert all(np.isneginf(one.logprob) for o in run.ledger.program_outcomes() for answers in o.answers for one in answers)
    assert make_tasks(2).ids == tuple(outcome.task_id for outcome in run.ledger.program_outcomes())
