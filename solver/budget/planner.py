"""Budget policies decide which tasks are worked on next, with what plan, and for how long: the contract and two simple ones.

A policy decides by the states of the tasks and the time left; it reads no clock. The policy that plans is in `budget.adaptive`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from solver.budget.costs import CostModel
from solver.budget.task_table import ANYONE, Receiver, TaskTable
from solver.budget.workload import TaskShape
from solver.config import Settings
from solver.types import Status, TaskPlan

MAX_LOSSES = 2  # workers a task may cost before it is set aside
MAX_TRIES = 4  # passes of a task that may fail before it is set aside; each is backed off further than the one before


@dataclass(frozen=True)
class TaskState:
    """What a policy knows of one task. `waves` counts recorded passes; `status` is that of the last."""

    id: str
    size: int  # grid tokens
    shape: TaskShape
    waves: int = 0
    steps: int = 0  # optimizer steps of all passes
    status: Status | None = None
    agreement: float = 0.0  # of its least agreed query, 0..1
    views: int = 0  # that the agreement comes from
    losses: int = 0  # failed passes, whether a worker was lost with them or not
    killed: int = 0  # workers lost while on it
    busy: bool = False
    node: str = ""  # of the adapter that its next pass starts from, where that lies on one node of a cluster
    by_programs: float = 0.0  # the chance that an answer of a program solves its least likely query
    confirmed: bool = False  # whether programs and the network put the same answers first, so that no further pass is needed

    @property
    def set_aside(self) -> bool:
        """Whether it has failed or cost workers so often that it is not tried again."""
        return self.killed >= MAX_LOSSES or self.losses >= MAX_TRIES


@dataclass(frozen=True)
class Assignment:
    """The next work item. Its deadline is `seconds` from now (inf: the end of the run)."""

    tasks: tuple[str, ...]
    wave: int
    plan: TaskPlan
    seconds: float
    reason: str  # one line for people
    halvings: int = 0  # how often batch, views and context are halved in all: see `budget.backoff`


class Policy(Protocol):
    """Chooses the next work item. Asked whenever a worker is idle."""

    @property
    def costs(self) -> CostModel:
        """The cost model that it plans with. The caller of `next` lets it observe the passes that are done."""
        ...

    chunk: int  # the most tasks of an item; the caller may change it between two items

    def next(self, tasks: Sequence[TaskState], left: float, workers: float, receiver: Receiver = ANYONE) -> Assignment | None:
        """The next item, given `left` seconds and `workers` workers; None if nothing is worth starting.

        `workers` is not a whole number where some are slower than the receiver, or faster.
        """
        ...

    def count_pending(self, tasks: Sequence[TaskState], free: bool = False) -> int:
        """How many tasks are `pending`, or with `free` those of them that are not busy. It is fast, also for many tasks."""
        ...

    def pending(self, task: TaskState) -> bool:
        """Whether a later call of `next` may name this task, so that its adapter is still needed."""
        ...


def full_plan(settings: Settings) -> TaskPlan:
    """The plan the settings ask for. Under `train.epochs` the steps are an upper bound: the worker knows the sequences."""
    train, infer = settings.train, settings.infer
    steps = train.steps or 0
    if train.epochs is not None:
        steps = math.ceil(train.epochs * settings.data.max_sequences / train.batch_sequences)
    views = len(infer.views.transforms) * infer.permutations
    return TaskPlan(
        steps=0 if train.shared else steps,
        views=min(views, infer.views.count or views),
        samples=infer.samples if infer.mode == "sample" else 1,
    )


class FixedPolicy:
    """Every task gets the same passes, however long they take: one by the settings, or those of `budget.fixed_waves`.

    A task gets all of its passes before the next task gets its first, so that few adapters are kept at a time.
    """

    def __init__(self, settings: Settings, costs: CostModel | None = None) -> None:
        self.costs = costs or CostModel(settings)
        self.chunk = settings.budget.chunk or 1
        plan = full_plan(settings)
        self._plans = tuple(replace(plan, steps=steps) for steps in settings.budget.fixed_waves) or (plan,)
        self._task_table = TaskTable(self.pending)

    def next(
        self,
        tasks: Sequence[TaskState],
        left: float,
        workers: float,  # noqa: ARG002
        receiver: Receiver = ANYONE,
    ) -> Assignment | None:
        """The next tasks, in the order of the receiver: usually the shortest first. A pass that was cut is done again."""
        table = self._task_table
        table.see(tasks)
        table.receiver = receiver
        due = table.waves - table.cut  # the pass that is due: the last one again if it was cut
        waiting = table.free
        begun = waiting & (due > 0)
        chosen = table.chunk(begun if begun.any() else waiting, self.chunk)
        if not len(chosen) or left <= 0:
            return None
        wave = int(due[chosen[0]])
        which = f", pass {wave + 1} of {len(self._plans)}" if len(self._plans) > 1 else ""
        return Assignment(
            tasks=table.ids(chosen[due[chosen] == wave]),
            wave=wave,
            plan=self._plans[wave],
            seconds=math.inf,
            reason=f"fixed plan{which}",
            halvings=int(table.losses[chosen[0]]),
        )

    def count_pending(self, tasks: Sequence[TaskState], free: bool = False) -> int:
        """How many tasks are pending, or pending and not busy."""
        self._task_table.see(tasks)
        return self._task_table.count(free)

    def pending(self, task: TaskState) -> bool:
        """Whether it lacks one of its passes, or its last one was cut."""
        due = task.waves - (task.status == "cut")
        return not task.set_aside and task.status != "failed" and due < len(self._plans)


class UniformPolicy:
    """The time left is split evenly over the tasks that are due, the shortest first; tasks in doubt then get further waves.

    What a task leaves unused goes to those after it. A share below `budget.floor` seconds is raised to the floor, so the longest
    tasks may get nothing. If less than the floor would be left after an item, that item gets it too. With less than the floor
    left, a further pass is started only if one step and its answers are predicted to fit.
    """

    def __init__(self, settings: Settings, costs: CostModel | None = None) -> None:
        self.costs = costs or CostModel(settings)
        self.chunk = settings.budget.chunk or 1
        self._floor = settings.budget.floor
        self._plan = full_plan(settings)
        self._task_table = TaskTable(self.pending)

    def next(self, tasks: Sequence[TaskState], left: float, workers: float, receiver: Receiver = ANYONE) -> Assignment | None:
        """The first of the tasks with the fewest passes, usually the shortest, with an even share of the time left."""
        if left <= 0:
            return None
        table = self._task_table
        table.see(tasks)
        table.receiver = receiver
        if not table.pending.any():
            return None
        wave = int(table.waves[table.pending].min())
        due = table.pending & (table.waves == wave)
        chosen = table.chunk(due & table.free, self.chunk)
        if not len(chosen):  # workers are busy with the rest of this wave: go on with the next one
            due = table.pending
            chosen = table.chunk(table.free, self.chunk)
            if not len(chosen):
                return None
            wave = int(table.waves[chosen[0]])
        if wave > 0 and left < self._floor and not self._fits(table.tasks[chosen[0]], left):
            return None
        items = math.ceil(int(due.sum()) / len(chosen))  # of this size, for all tasks that are due
        share = min(left, left * workers / items)
        if share < self._floor:
            share = self._floor if left >= 2 * self._floor else left
        return Assignment(
            tasks=table.ids(chosen),
            wave=wave,
            plan=self._plan,
            seconds=share,
            reason=f"even share of {left:.1f} s over {due.sum()} tasks in wave {wave}",
            halvings=int(table.losses[chosen[0]]),
        )

    def count_pending(self, tasks: Sequence[TaskState], free: bool = False) -> int:
        """How many tasks are pending, or pending and not busy."""
        self._task_table.see(tasks)
        return self._task_table.count(free)

    def pending(self, task: TaskState) -> bool:
        """Whether its candidates disagree and programs do not confirm them, or its last pass was cut.

        A task that failed or was set aside is never pending.
        """
        if task.set_aside or task.status == "failed":
            return False
        return task.status in (None, "cut") or (task.agreement < 1 and not task.confirmed)

    def _fits(self, task: TaskState, left: float) -> bool:
        """Whether a pass with one optimizer step (none if the plan has none) is predicted to finish its answers."""
        plan = replace(self._plan, steps=min(1, self._plan.steps))
        return self.costs.measured and self.costs.seconds(task.shape, plan, task.waves) <= left
