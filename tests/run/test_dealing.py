"""Work on several nodes, on a simulated clock: unlike machines, adapters that stay where they are, nodes that leave and join."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import grid, make_tasks, outcome
from simulated_processes import Clock, SimulatedProcesses

from solver.budget import adaptive, pass_options
from solver.budget.costs import START
from solver.budget.registry import make_policy
from solver.budget.task_table import TaskTable
from solver.config import load_settings
from solver.messages import ClusterChanged, Heartbeat, ItemDone, Message, Ready, WorkerFacts
from solver.report.observer import SilentObserver
from solver.run.executors.base import News, WorkerAway, WorkResult
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity
from solver.run.state import RunState
from solver.run.supervisor import Supervisor
from solver.run.types import Ending
from solver.types import Deadline, WorkItem

LOAD = 2.0  # seconds that a worker takes to start


@dataclass
class Nodes(SimulatedProcesses):
    """One worker on each node. A pass over a task takes as many seconds as its grids have rows, times the node's slowness.

    It is the AdapterDisk of the nodes as well.
    """

    slowness: list[float] = field(default_factory=list)
    agree: bool = True
    submitted: list[tuple[float, int, WorkItem]] = field(default_factory=list)
    left: dict[int, str] = field(default_factory=dict)  # by worker: its node has left, and why
    held: dict[Path, str] = field(default_factory=dict)
    silent: bool = False  # nothing starts

    def submit(self, worker: int, work: WorkItem) -> None:
        at = self.clock.now
        self.submitted.append((at, worker, work))
        for one in work.tasks:
            rows = len(one.task.train[0].input)
            at = min(at + rows * self.slowness[worker], work.deadline_at)
            path = Path(f"/{self.node_of(worker)}/{work.id}")
            grids = (grid(1), grid(1 if self.agree else 2))
            done = outcome(one.task.id, work.wave, "complete", grids, (1.0, 2.0), path)
            self._later(at, worker, WorkResult(worker, work.id, replace(done, seconds={"fit": at - self.clock.now})))
        self._later(at, worker, WorkResult(worker, work.id, ItemDone()))

    def results(self, timeout: float) -> Any:
        for one in super().results(timeout):
            if isinstance(one, WorkResult) and getattr(one.message, "fit", None) is not None:
                self.held[one.message.fit.adapter.path] = self.node_of(one.worker)  # type: ignore[union-attr]
            yield one

    def close(self) -> None:
        self.closed = True

    def join(self, at: float, slowness: float) -> None:
        """A node joins, with a new worker."""
        self.slowness.append(slowness)
        self.workers += 1
        self._spawn(self.workers - 1, at)

    def leave(self, at: float, worker: int) -> None:
        """A node leaves: nothing comes from it any more, and its adapters are gone."""
        self._life[worker] += 1
        self.left[worker] = "its node has left"
        self._tell(at, worker, WorkerAway(worker, "its node has left"))
        for path in [path for path, node in self.held.items() if node == f"node{worker}"]:
            del self.held[path]

    def _tell(self, at: float, worker: int, news: News | Message) -> None:
        result = news if isinstance(news, WorkerAway) else WorkResult(worker, "", news)  # type: ignore[arg-type]
        self._later(at, worker, result)  # type: ignore[arg-type]

    def _spawn(self, worker: int, at: float) -> None:
        super()._spawn(worker, at)
        self._tell(at, worker, WorkerAway(worker, "no node has a place for it"))
        if not self.silent:
            facts = WorkerFacts("simulated", "simulated", device=f"GPU x{self.slowness[worker]}")
            self._tell(at + LOAD / 2, worker, Heartbeat("starting", 0))
            self._tell(at + LOAD, worker, Ready(dict.fromkeys(START, LOAD / len(START)), facts))

    # the AdapterDisk

    def node(self, path: Path) -> str | None:
        return self.held.get(path)

    def node_of(self, worker: int) -> str:
        return f"node{worker}"

    def size(self, path: Path) -> int:
        return 1

    def free(self, path: Path) -> int | None:
        return None

    def delete(self, path: Path) -> None:
        self.held.pop(path, None)


@dataclass
class Run:
    ending: Ending
    nodes: Nodes
    ledger: Ledger
    seconds: float

    def of(self, worker: int) -> list[str]:
        """The tasks that a worker was given, in order."""
        return [work.task.id for _, number, item in self.nodes.submitted if number == worker for work in item.tasks]


def simulate(
    folder: Path,
    slowness: list[float],
    *overrides: str,
    count: int = 12,
    budget: float = 600.0,
    poll: Callable[[Nodes], None] = lambda _: None,
    **nodes: Any,
) -> Run:
    clock, tasks = Clock(1000.0), make_tasks(count)
    settings = load_settings(overrides=["budget.reserve=4", "budget.heartbeat=20", "budget.floor=1", *overrides])
    there = Nodes(clock, len(slowness), slowness=list(slowness), **nodes)
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)

    def watch() -> None:
        poll(there)

    supervisor = Supervisor(
        settings, list(tasks), RunState(tasks, settings.select.rule), ledger, there, make_policy(settings),
        Deadline(clock.now + budget, clock), lambda _: None, SilentObserver(), disk=there, clock_set=watch,
    )  # fmt: skip
    ending = supervisor.run()
    return Run(ending, there, ledger, clock.now - 1000.0)


def rows(id_: str) -> int:
    """Rows of the grids of a task of `make_tasks`: the seconds that it takes on the fastest node."""
    return 2 + int(id_.removeprefix("task")) % 3


def test_long_tasks_come_first_and_a_slow_node_takes_short_ones_and_is_not_waited_for(tmp_path: Path) -> None:
    run = simulate(tmp_path, [1.0, 1.0, 8.0], "budget.policy=fixed", count=24)
    assert run.ending.stop == "finished"
    assert set(run.ledger.statuses().values()) == {"complete"}
    fast = [rows(id_) for id_ in run.of(0) + run.of(1)]
    assert rows(run.of(0)[0]) == 4
    later = [rows(id_) for id_ in run.of(2)[1:]]  # the first one has measured it
    assert set(later) <= {2}
    assert sum(fast) > 0.8 * sum(rows(f"task{number:03}") for number in range(24))
    # all of them would take 36 s on the two fast nodes alone; a long task begun last by the slow one would take 32 s more
    assert run.seconds < LOAD + 45


def test_a_pass_is_planned_in_the_seconds_of_its_own_device(tmp_path: Path) -> None:
    run = simulate(tmp_path, [1.0, 6.0], "budget.policy=uniform", count=20, budget=200.0, agree=False)
    assert run.seconds <= 200.0
    measured = [(worker, item.deadline_at - at) for at, worker, item in run.nodes.submitted[8:]]
    assert measured
    assert all(at <= 1196.1 for at, _, _ in run.nodes.submitted)
    assert {worker for worker, _ in measured} == {0, 1}


def test_later_passes_go_where_the_adapter_is(tmp_path: Path) -> None:
    run = simulate(tmp_path, [1.0, 1.0, 1.0], "budget.policy=fixed", "budget.fixed_waves=[3,2]")
    assert set(run.ledger.statuses().values()) == {"complete"}
    where: dict[str, set[int]] = {}
    for _, worker, item in run.nodes.submitted:
        for work in item.tasks:
            where.setdefault(work.task.id, set()).add(worker)
            assert (work.start is not None) == (item.wave == 1)
    assert all(len(workers) == 1 for workers in where.values())


def test_a_node_that_leaves_costs_what_it_had_in_hand_and_its_adapters(tmp_path: Path) -> None:
    gone: list[float] = []

    def leave(nodes: Nodes) -> None:
        if not gone and len(nodes.submitted) >= 5:
            gone.append(nodes.clock.now)
            nodes.leave(nodes.clock.now + 0.1, 1)

    run = simulate(tmp_path, [1.0, 1.0], "budget.policy=fixed", "budget.fixed_waves=[3,2]", poll=leave)
    assert run.ending.stop == "finished"
    assert set(run.ledger.statuses().values()) == {"complete"}
    after = [(item, work) for at, _, item in run.nodes.submitted if at > gone[0] + 0.1 for work in item.tasks]
    assert after
    assert all(not item.halvings for item, _ in after)  # no task is to blame
    lost = [work.task.id for item, work in after if item.wave == 1 and work.start is None]
    before = {work.task.id for at, worker, item in run.nodes.submitted if at <= gone[0] and worker == 1 for work in item.tasks}
    assert set(lost) <= before
    kinds = [event.kind for event in run.ledger.events()]
    assert kinds.count("worker away") == 1
    assert "retry" not in kinds


def test_a_node_that_joins_gets_work(tmp_path: Path) -> None:
    def join(nodes: Nodes) -> None:
        if nodes.workers == 1 and len(nodes.submitted) >= 3:
            nodes.join(nodes.clock.now + 0.1, 1.0)
            nodes._tell(nodes.clock.now + 0.1, 0, ClusterChanged("joined: node1"))

    run = simulate(tmp_path, [1.0], "budget.policy=fixed", poll=join)
    assert set(run.ledger.statuses().values()) == {"complete"}
    assert len(run.of(1)) >= 3
    assert [event.detail for event in run.ledger.events() if event.kind == "cluster"] == ["joined: node1"]


def test_a_cluster_without_a_place_is_waited_for_a_tenth_of_the_budget(tmp_path: Path) -> None:
    run = simulate(tmp_path, [1.0], budget=300.0, silent=True)
    assert run.ending.stop == "no worker"
    assert run.ending.detail == "there was no worker for 30 s, a tenth of the budget: no node has a place for it"
    assert 30.0 <= run.seconds < 32.0


def test_of_many_tasks_a_sample_is_priced_and_all_get_their_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[int] = []
    refresh = pass_options.PassOptions.refresh

    def counted(options: pass_options.PassOptions, table: TaskTable) -> None:
        refresh(options, table)
        sampled.append(int(options._is_priced[table.pending & ~table.busy & table.first].sum()))
        both = table.pending & options._is_priced
        expected = [options.cost[both & some].sum(axis=0) for some in (table.first, ~table.first)]
        np.testing.assert_allclose(options._totals, expected, rtol=1e-6, atol=1e-6)

    monkeypatch.setattr(pass_options, "AT_ONCE", 16)
    monkeypatch.setattr(adaptive, "MANY", 16)
    monkeypatch.setattr(pass_options.PassOptions, "refresh", counted)
    run = simulate(tmp_path, [1.0, 1.0, 2.0], "budget.policy=adaptive", count=80, budget=300.0, agree=False)
    assert set(run.ledger.statuses().values()) == {"complete"}
    assert {work.task.id for _, _, item in run.nodes.submitted for work in item.tasks} == set(run.ledger.statuses())
    assert max(sampled) == 16
    assert run.ending.stop == "deadline"
