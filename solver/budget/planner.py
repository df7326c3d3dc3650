"""Budget policies: which tasks are worked on next, with what plan, and for how long; and the simple ones of them.

A policy decides from the state and the time left alone; nothing here reads a clock. `budget.adaptive` has the one that plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from solver.budget.costs import CostModel
from solver.budget.task_table import TaskTable
from solver.budget.workload import TaskShape
from solver.config import Settings
from solver.types import Status, TaskPlan

MAX_LOSSES = 2  # workers a task may cost before it is set aside
MAX_TRIES = 4  # passes of a task that may fail, each backed off further, before it is set aside


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
    views: int = 0  # that were asked for that
    losses: int = 0  # passes that failed, whether the worker was lost with them or not
    killed: int = 0  # workers lost while on it
    busy: bool = False

    @property
    def set_aside(self) -> bool:
        """Whether it has cost so much that it is not tried again."""
        return self.killed >= MAX_LOSSES or self.losses >= MAX_TRIES


@dataclass(frozen=True)
class Assignment:
    """The next work item: `seconds` from now until its deadline (inf: only the run's own)."""

    tasks: tuple[str, ...]
    wave: int
    plan: TaskPlan
    seconds: float
    reason: str  # one line for people
    halvings: int = 0  # how often batch, views or context are halved: see `budget.backoff`


class Policy(Protocol):
    """Chooses the next work item. Asked whenever a worker is idle."""

    @property
    def costs(self) -> CostModel:
        """What it thinks work costs; whoever runs the work tells it the durations."""
        ...

    chunk: int  # tasks in an item at most; whoever runs the work may change it between two items

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:
        """The next item given `left` seconds and `workers` workers; None if nothing is worth starting now."""
        ...

    def pending(self, task: TaskState) -> bool:
        """Whether a later `next` may still name this task, so that its adapter is needed."""
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
    """Every task gets the same passes, whatever the clock says: one by the settings, or those of `budget.fixed_waves`.

    With several passes a task gets all of its own before the next task, so that few adapters are kept.
    """

    def __init__(self, settings: Settings, costs: CostModel | None = None) -> None:
        self.costs = costs or CostModel(settings)
        self.chunk = settings.budget.chunk or 1
        plan = full_plan(settings)
        self._plans = tuple(replace(plan, steps=steps) for steps in settings.budget.fixed_waves) or (plan,)
        self._task_table = TaskTable(self.pending)

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:  # noqa: ARG002
        """The next tasks in order of size; an unfinished one starts its pass again."""
        table = self._task_table
        table.see(tasks)
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

    def pending(self, task: TaskState) -> bool:
        """Until it has been done in full."""
        due = task.waves - (task.status == "cut")
        return not task.set_aside and task.status != "failed" and due < len(self._plans)


class UniformPolicy:
    """An even split of the time left over the tasks left, shortest first; then further waves for tasks in doubt.

    What a task leaves unused flows on to those after it. With less than `budget.floor` seconds for an item the share
    is raised to the floor, and the longest tasks go without; what would be left of the time below the floor goes to the
    item before it. A further pass is not begun with less than the floor left, unless its answers are predicted to fit.
    """

    def __init__(self, settings: Settings, costs: CostModel | None = None) -> None:
        self.costs = costs or CostModel(settings)
        self.chunk = settings.budget.chunk or 1
        self._floor = settings.budget.floor
        self._plan = full_plan(settings)
        self._task_table = TaskTable(self.pending)

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:
        """A chunk of the tasks with the fewest passes."""
        if left <= 0:
            return None
        table = self._task_table
        table.see(tasks)
        if not table.pending.any():
            return None
        wave = int(table.waves[table.pending].min())
        due = table.pending & (table.waves == wave)
        chosen = table.chunk(due & ~table.busy, self.chunk)
        if not len(chosen):  # the rest of this wave is being worked on: do not leave the worker idle
            due = table.pending
            chosen = table.chunk(table.free, self.chunk)
            if not len(chosen):
                return None
            wave = int(table.waves[chosen[0]])
        if wave > 0 and left < self._floor and not self._fits(table.tasks[chosen[0]], left):
            return None
        items = math.ceil(int(due.sum()) / len(chosen))  # that the tasks which are due make, at this size
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

    def pending(self, task: TaskState) -> bool:
        """Until its candidates agree under a full pass; a task that cannot be worked on is left alone."""
        if task.set_aside or task.status == "failed":
            return False
        return task.status in (None, "cut") or task.agreement < 1

    def _fits(self, task: TaskState, left: float) -> bool:
        """Whether another pass would come to answers, after one optimizer step if there are to be any."""
        plan = replace(self._plan, steps=min(1, self._plan.steps))
        return self.costs.measured and self.costs.seconds(task.shape, plan, task.waves) <= left
