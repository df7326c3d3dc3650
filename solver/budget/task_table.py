"""The states of all tasks as columns: a policy looks at hundreds of them before every item, of which few have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import is_not
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from solver.budget.planner import TaskState

Mask = NDArray[np.bool_]  # (tasks,)
Rows = NDArray[np.int64]  # indices of rows, or a whole number for each row

_DIGITS = 20  # bits for each of the three parts of a task's place in the order


@dataclass(frozen=True)
class Receiver:
    """Who a work item is for."""

    node: str = ""  # the node of the worker: tasks whose adapter is on another one are not for it; empty: all tasks are
    longest_first: bool = False  # whether long tasks come before short ones of the same wave


ANYONE = Receiver()


class TaskStates(list["TaskState"]):
    """The states of all tasks by row, in a list that remembers which rows were replaced. Its length never changes."""

    def __init__(self, states: Iterable[TaskState]) -> None:
        super().__init__(states)
        self.replaced: list[int] = []  # rows, in the order of their replacement

    def __setitem__(self, row: Any, state: Any) -> None:
        super().__setitem__(row, state)
        self.replaced.append(row)


class TaskTable:
    """One row for each task, in the order of the states given. Unchanged states cost almost nothing."""

    def __init__(self, pending: Callable[[TaskState], bool]) -> None:
        """`pending` says whether the policy may still work on a task in that state."""
        self._is_pending = pending
        self.tasks: list[TaskState] = []
        self.receiver = ANYONE
        self._read = 0  # of `TaskStates.replaced`
        self._nodes = {"": 0}  # numbers of nodes
        self.renewed = True  # whether the last call of `see` brought other tasks than the one before
        self._reset([])

    def see(self, tasks: Sequence[TaskState]) -> list[int]:
        """Take in the states and give the rows that have changed; all rows if these are other tasks than before."""
        if isinstance(tasks, TaskStates):
            self.renewed = tasks is not self.tasks
            changed = sorted(set(tasks.replaced[self._read :]))
            self._read = len(tasks.replaced)
        else:
            changed = list(compress(range(len(tasks)), map(is_not, tasks, self.tasks)))
            self.renewed = len(tasks) != len(self.tasks) or any(tasks[row].id != self.tasks[row].id for row in changed)
        if self.renewed:
            self._reset(tasks)
            changed = list(range(len(tasks)))
        self.tasks = tasks if isinstance(tasks, TaskStates) else list(tasks)
        for row in changed:
            task = tasks[row]
            self.pending[row], self.busy[row] = self._is_pending(task), task.busy
            self.waves[row], self.losses[row], self.cut[row] = task.waves, task.losses, task.status == "cut"
            self.first[row] = not task.waves
            self.node[row] = self._nodes.setdefault(task.node, len(self._nodes))
            self._order[row] = ((task.waves << _DIGITS) + task.losses) << _DIGITS
        return changed

    @property
    def free(self) -> Mask:
        """Which tasks are pending while no worker works on them, and are for the receiver."""
        free = self.pending & ~self.busy
        if not self.receiver.node:
            return free
        return free & ((self.node == 0) | (self.node == self._nodes.get(self.receiver.node, -1)))

    def count(self, free: bool) -> int:
        """How many tasks are pending, or with `free` pending while no worker works on them."""
        return int(np.count_nonzero(self.pending & ~self.busy if free else self.pending))

    def ranks(self, rows: Rows) -> Rows:
        """The places of rows by length, in the order of the receiver: the lowest comes first."""
        return -self.place[rows] if self.receiver.longest_first else self.place[rows]

    def chunk(self, mask: Mask, size: int) -> Rows:
        """Up to `size` tasks of `mask`, all of one wave, in the order of the receiver.

        Tasks with failed passes come last and alone.
        """
        rows = np.flatnonzero(mask)
        if not len(rows):
            return rows
        order = self._order[rows] + self.ranks(rows)
        if size == 1:
            return rows[[order.argmin()]]
        rows = rows[order.argsort()][:size]
        if self.losses[rows[0]]:
            return rows[:1]
        return rows[(self.waves[rows] == self.waves[rows[0]]) & (self.losses[rows] == 0)]

    def ids(self, rows: Rows) -> tuple[str, ...]:
        """The ids of the tasks in these rows."""
        return tuple(self.tasks[row].id for row in rows)

    def _reset(self, tasks: Sequence[TaskState]) -> None:
        count = len(tasks)
        self.pending: Mask = np.zeros(count, bool)
        self.busy: Mask = np.zeros(count, bool)
        self.first: Mask = np.zeros(count, bool)  # whether it has had no pass
        self.cut: Mask = np.zeros(count, bool)  # whether the last pass was cut
        self.waves: Rows = np.zeros(count, np.int64)
        self.losses: Rows = np.zeros(count, np.int64)
        self.node: Rows = np.zeros(count, np.int64)  # of the adapter of its next pass; 0: none, or any
        self.place: Rows = np.zeros(count, np.int64)  # rank by length, 0 for the shortest task
        self.place[sorted(range(count), key=lambda row: (tasks[row].size, tasks[row].id))] = np.arange(count)
        self._order: Rows = np.zeros(count, np.int64)  # by waves and losses
