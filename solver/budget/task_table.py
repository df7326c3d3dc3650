"""The states of all tasks as columns: a policy looks at hundreds of them before every item, of which few have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from operator import is_not
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from solver.budget.planner import TaskState

Mask = NDArray[np.bool_]  # (tasks,)
Rows = NDArray[np.int64]  # indices of rows, or a whole number for each row

_DIGITS = 20  # bits for each of the three parts of a task's place in the order


class TaskTable:
    """One row for each task, in the order of the states given. Unchanged states cost almost nothing."""

    def __init__(self, pending: Callable[[TaskState], bool]) -> None:
        """`pending` says whether the policy may still work on a task in that state."""
        self._is_pending = pending
        self.tasks: list[TaskState] = []
        self.renewed = True  # whether the last call of `see` brought other tasks than the one before
        self._reset([])

    def see(self, tasks: Sequence[TaskState]) -> list[int]:
        """Take in the states and give the rows that have changed; all rows if these are other tasks than before."""
        changed = list(compress(range(len(tasks)), map(is_not, tasks, self.tasks)))
        self.renewed = len(tasks) != len(self.tasks) or any(tasks[row].id != self.tasks[row].id for row in changed)
        if self.renewed:
            self._reset(tasks)
            changed = list(range(len(tasks)))
        self.tasks = list(tasks)
        for row in changed:
            task = tasks[row]
            self.pending[row], self.busy[row] = self._is_pending(task), task.busy
            self.waves[row], self.losses[row], self.cut[row] = task.waves, task.losses, task.status == "cut"
            self._order[row] = (((task.waves << _DIGITS) + task.losses) << _DIGITS) + self.place[row]
        return changed

    @property
    def free(self) -> Mask:
        """Which tasks are pending while no worker works on them."""
        return self.pending & ~self.busy

    def chunk(self, mask: Mask, size: int) -> Rows:
        """Up to `size` tasks of `mask`, all of one wave, the shortest first. Tasks with failed passes come last and alone."""
        rows = np.flatnonzero(mask)
        if not len(rows):
            return rows
        if size == 1:
            return rows[[self._order[rows].argmin()]]
        rows = rows[self._order[rows].argsort()][:size]
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
        self.cut: Mask = np.zeros(count, bool)  # whether the last pass was cut
        self.waves: Rows = np.zeros(count, np.int64)
        self.losses: Rows = np.zeros(count, np.int64)
        self.place: Rows = np.zeros(count, np.int64)  # rank by length, 0 for the shortest task
        self.place[sorted(range(count), key=lambda row: (tasks[row].size, tasks[row].id))] = np.arange(count)
        self._order: Rows = np.zeros(count, np.int64)
