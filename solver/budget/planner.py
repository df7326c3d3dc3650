"""Simple budget policies: which tasks are worked on next, with what plan, and for how long.

Pure functions of the state and the time left; nothing here reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from solver.config import Settings
from solver.types import Status, TaskPlan

MAX_LOSSES = 2  # workers a task may cost before it is set aside
MAX_TRIES = 4  # passes of a task that may fail, each with a smaller footprint, before it is set aside


@dataclass(frozen=True)
class TaskState:
    """What a policy knows of one task. `waves` counts recorded passes; `status` is that of the last."""

    id: str
    size: int  # grid tokens
    waves: int = 0
    status: Status | None = None
    agreement: float = 0.0  # of its least agreed query, 0..1
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
    planned: float  # seconds a task is expected to use, for the record
    reason: str
    halvings: int = 0  # how often the footprint is halved: see `run.footprint`


class Policy(Protocol):
    """Chooses the next work item. Asked whenever a worker is idle."""

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
    """Every task gets the same plan once, whatever the clock says: for paired comparisons."""

    def __init__(self, settings: Settings) -> None:
        self._chunk = settings.budget.chunk
        self._plan = full_plan(settings)

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:  # noqa: ARG002
        """The next tasks in order of size; an unfinished one starts again from the base."""
        chosen = _chunk([task for task in tasks if self.pending(task) and not task.busy], self._chunk)
        if not chosen or left <= 0:
            return None
        return Assignment(
            tasks=tuple(task.id for task in chosen),
            wave=0,
            plan=self._plan,
            seconds=math.inf,
            planned=0.0,
            reason="fixed plan",
            halvings=chosen[0].losses,
        )

    def pending(self, task: TaskState) -> bool:
        """Until it has been done in full."""
        return task.status in (None, "cut") and not task.set_aside


class UniformPolicy:
    """An even split of the time left over the tasks left, shortest first; then further waves for tasks in doubt.

    What a task leaves unused flows on to those after it. With less than `budget.floor` seconds for an item the share
    is raised to the floor, and the longest tasks go without; what would be left of the time below the floor goes to the
    item before it. A further wave is not begun with less than the floor left.
    """

    def __init__(self, settings: Settings) -> None:
        self._chunk = settings.budget.chunk
        self._floor = settings.budget.floor
        self._plan = full_plan(settings)

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:
        """A chunk of the tasks with the fewest passes."""
        if left <= 0:
            return None
        pending = [task for task in tasks if self.pending(task)]
        wave = min((task.waves for task in pending), default=0)
        due = [task for task in pending if task.waves == wave]
        chosen = _chunk([task for task in due if not task.busy], self._chunk)
        if not chosen:  # the rest of this wave is being worked on: do not leave the worker idle
            due = pending
            chosen = _chunk([task for task in pending if not task.busy], self._chunk)
            if not chosen:
                return None
            wave = chosen[0].waves
        if wave > 0 and left < self._floor:
            return None
        items = math.ceil(len(due) / len(chosen))
        share = min(left, left * workers / items)
        if share < self._floor:
            share = self._floor if left >= 2 * self._floor else left
        return Assignment(
            tasks=tuple(task.id for task in chosen),
            wave=wave,
            plan=self._plan,
            seconds=share,
            planned=share / len(chosen),
            reason=f"even share of {left:.1f} s over {len(due)} tasks in wave {wave}",
            halvings=chosen[0].losses,
        )

    def pending(self, task: TaskState) -> bool:
        """Until its candidates agree under a full pass; a task that cannot be worked on is left alone."""
        if task.set_aside or task.status == "failed":
            return False
        return task.status in (None, "cut") or task.agreement < 1


POLICIES: dict[Literal["fixed", "uniform"], Callable[[Settings], Policy]] = {"fixed": FixedPolicy, "uniform": UniformPolicy}


def _chunk(tasks: Sequence[TaskState], size: int) -> list[TaskState]:
    """The next tasks, shortest first, of equal wave; one that cost a worker comes last and alone."""
    ordered = sorted(tasks, key=lambda task: (task.waves, task.losses, task.size, task.id))
    if not ordered:
        return []
    first = ordered[0]
    if first.losses:
        return [first]
    return [task for task in ordered[:size] if task.waves == first.waves and not task.losses]
