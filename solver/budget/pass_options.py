"""The options for the next pass of every task, as tables: seconds, gains, and the best option at every price of a second.

An option is a pass with so many steps, views and samples. Its worth is its gain less the price of its seconds. A first pass is
priced together with the second one that may follow: the cost of that counts by the chance that candidates disagree. Gains are
computed again when a task has changed, seconds when the predictions of the cost model have changed.

Of more than `AT_ONCE` tasks without a pass, only so many are priced: a sample, drawn in a random order that is always the same.
The others join it as these are worked on, and their price of a second is estimated from it. Where predictions change, some rows
are priced anew with every plan. So a plan takes milliseconds for 100,000 tasks, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from solver.budget.costs import CostModel
from solver.budget.gains import Gains, Last, trusted
from solver.budget.planner import TaskState
from solver.budget.task_table import Mask, Rows, TaskTable
from solver.types import TaskPlan

Numbers = NDArray[np.float64]

LATER_STEPS = 0.25  # of the steps of the settings, at least, in a later pass, because its learning rate warms up again
LATER_VIEWS = 0.5  # of the views of the settings, at least, in a later pass
LATER_SHARES = np.array([0.0, 0.5, 1.0, 2.0, 4.0])  # of the settings' steps, in the second pass that a first one is priced with
PRICES = np.geomspace(1e-8, 10.0, 96)  # of a second, in expected solved tasks
AT_ONCE = 1024  # tasks without a pass that are priced
BATCH = 4  # rows that are priced anew with a plan, where there are more


class PassOptions:
    """Arrays with a row for each row of a task table; only rows of pending tasks are kept up to date."""

    def __init__(
        self, costs: CostModel, gains: Gains, full: TaskPlan, steps: Sequence[int], views: Sequence[int], samples: Sequence[int]
    ) -> None:
        """Options are all combinations of `steps`, `views` and `samples`; `full` is the plan of the settings."""
        self._costs, self._gains, self._full, self._samples = costs, gains, full, samples
        one_steps, one_views = (part.ravel() for part in np.meshgrid(np.array(steps, float), np.array(views, float)))
        self._steps, self._views = one_steps, one_views  # of the options with one number of samples
        self.plans = [
            TaskPlan(int(step), int(view), count) for count in samples for step, view in zip(one_steps, one_views, strict=True)
        ]
        again = (one_steps >= LATER_STEPS * full.steps) & (one_views >= LATER_VIEWS * full.views)
        self._again = np.tile(again, len(samples))  # options of a pass after the first
        # Where agreement without a fit is believed, a quick answer comes first for every task, and fits where views disagree.
        self._first = np.tile(one_steps == 0, len(samples)) if gains.unfitted >= 1 else np.full(len(self.plans), True)
        settling = [trusted(1.0, plan.views, plan.steps, full.views, full.steps, gains.unfitted) >= 1 for plan in self.plans]
        self._settling = np.array(settling)  # options after which views that agree are believed
        self._resize(0)

    def note(self, table: TaskTable, changed: Sequence[int]) -> None:
        """Take in which rows of the task table have changed."""
        if table.renewed:
            self._resize(len(table.tasks))
        for row in changed:
            task = table.tasks[row]
            basis = task.waves, task.steps, task.agreement, task.views, task.by_programs
            if self._basis[row] != basis:
                self._basis[row], self._version[row], self._gained[row] = basis, -1, False
                self._is_priced[row] = False
                self._changed.append(row)

    def refresh(self, table: TaskTable) -> None:
        """Bring the rows of pending tasks up to date, or a part of them if there are many."""
        stale = self._due(table.pending & (self._version != self._costs.version), table)
        for row in np.flatnonzero(stale & ~self._gained):
            self._gain(row, table.tasks[row])
        if len(rows := np.flatnonzero(stale & table.first)):
            self._price_first(rows, table)
        if len(rows := np.flatnonzero(stale & ~table.first)):
            self._price_later(rows, table)
        self._version[stale] = self._costs.version
        if self._many:
            self._sum_up(table)

    def price(self, pending: Mask, seconds: float) -> int | None:
        """Index of the lowest price at which the choices of all pending tasks take at most `seconds`; None if there is none."""
        costs = self._totals[0] * self.scale + self._totals[1] if self._many else self.cost[pending].sum(axis=0)
        fitting = np.flatnonzero(costs <= seconds)
        return int(fitting[0]) if len(fitting) else None

    def priced(self, rows: Mask) -> Mask:
        """Those of the rows that have been priced."""
        return rows & self._is_priced if self._many else rows

    def least_seconds(self, rows: Rows) -> Numbers:
        """Seconds of the shortest option of each task."""
        return self._least_seconds[rows]

    def rates(self, rows: Rows, options: Rows) -> Numbers:
        """Gain a second of an option of each task."""
        return np.asarray(self.gain[rows, options] / np.maximum(self.seconds[rows, options], 1e-9))

    def best_rate(self, rows: Rows) -> float:
        """The largest gain a second of the shortest options of these tasks; 0 if there are none."""
        return float(self.rates(rows, self.least[rows]).max(initial=0.0))

    # -- inside

    def _resize(self, count: int) -> None:
        options, prices = len(self.plans), len(PRICES)
        self._many = count > AT_ONCE
        self._is_priced = np.zeros(count, bool)
        self.scale = 1.0  # how many tasks without a pass there are for each one that is priced
        self._totals = np.zeros((2, prices))  # of `cost`, over the rows `_summed`: without a pass, and with some
        self._summed = np.zeros(count, bool)
        self._group = np.zeros(count, np.int8)  # which of the two totals a row was added to
        self._sums = 0  # how often the totals were brought up to date
        self._queue = np.random.default_rng(0).permutation(count)  # in which order rows join the sample
        self._at = 0  # the place in the queue
        self._changed: list[int] = []  # rows whose task has changed
        self.seconds = np.full((count, options), np.inf)  # of the pass itself; inf: no option
        self.gain = np.zeros((count, options))  # of the pass itself
        # by columns, because one price is looked up for all tasks
        self.choice = np.full(
            (count, prices), -1, np.int16, order="F"
        )  # the option that is worth most; -1: none is worth its price
        self.cost = np.zeros((count, prices))  # seconds of that option, including those expected for a second pass
        self.least = np.zeros(count, np.int64)  # the option with the fewest seconds
        self._least_seconds = np.full(count, np.inf)  # of that option
        self._value = np.zeros((count, options, len(LATER_SHARES)))  # gain of a first pass, with a second one of each share
        self._doubtful = np.zeros((count, options))  # the chance that a first pass is followed by a second one
        self._basis: list[object] = [None] * count  # the state of the task that its gains depend on
        self._gained = np.zeros(count, bool)  # whether its gains are up to date
        self._version = np.full(count, -1)  # of the cost model the seconds come from

    def _gain(self, row: int, task: TaskState) -> None:
        self._gained[row] = True
        open_ = 1 - task.by_programs  # where a program's answer is right, a pass adds nothing
        if task.waves:
            full, unfitted = self._full, self._gains.unfitted
            agreed = trusted(task.agreement, task.views, task.steps, full.views, full.steps, unfitted)
            last = Last(agreed, task.steps, task.waves)
            parts = [self._gains.again(task.shape, last, self._steps, self._views, count) for count in self._samples]
            self.gain[row] = np.where(self._again, open_ * np.concatenate(parts), 0.0)
            return
        chance = np.concatenate([self._gains.chance(task.shape, self._steps, self._views, count) for count in self._samples])
        steps = np.tile(self._steps, len(self._samples))[:, None] + LATER_SHARES * self._full.steps
        after = self._gains.chance(task.shape, steps, np.full_like(steps, float(self._full.views)), 1)
        hope = self._gains.hope(Last(0.0, 0.0))
        more = np.where(LATER_SHARES > 0, hope * np.maximum(after - chance[:, None], 0.0), 0.0)
        self.gain[row], self._value[row] = open_ * chance, open_ * (chance[:, None] + more)
        self._doubtful[row] = 1 - np.where(self._settling, self._gains.certain(chance), 0.0)

    def _seconds(self, rows: Rows, table: TaskTable) -> Numbers:
        """(rows, options) of the passes themselves."""
        shapes, waves = [table.tasks[row].shape for row in rows], table.waves[rows].tolist()
        parts = [self._costs.medians(shapes, self._steps, self._views, count, waves) for count in self._samples]
        return np.concatenate(parts, axis=1)

    def _store(self, rows: Rows, seconds: Numbers) -> None:
        if self._many:
            self._add(rows[self._summed[rows]], -1)
            self._summed[rows] = False
        self.seconds[rows] = seconds
        self.least[rows] = seconds.argmin(axis=1)
        self._least_seconds[rows] = seconds.min(axis=1)
        self._is_priced[rows] = True

    def _due(self, stale: Mask, table: TaskTable) -> Mask:
        """Which of the stale rows are priced now: all; or those of changed tasks, what the sample lacks, and some of it anew."""
        if not self._many:
            return stale
        due = np.zeros(len(stale), bool)
        if len(self._changed) < len(stale):  # else all tasks are new
            changed = [row for row in self._changed if table.waves[row]]
            due[changed] = stale[changed]
        self._changed.clear()
        due[np.flatnonzero(stale & self._is_priced)[:BATCH]] = True
        first = table.pending & ~table.busy & table.first
        outside = first & ~self._is_priced
        left = int(np.count_nonzero(outside))
        lacking = min(left, AT_ONCE - int(np.count_nonzero(first)) + left)
        while lacking > 0:
            part = self._queue[self._at : self._at + lacking]
            self._at = self._at + lacking if self._at + lacking < len(self._queue) else 0
            part = part[outside[part] & ~due[part]]
            due[part] = True
            lacking -= len(part)
        return due

    def _sum_up(self, table: TaskTable) -> None:
        """Bring the totals up to date; now and then anew, because rounding errors add up."""
        self._sums += 1
        wanted = table.pending & self._is_priced
        if self._sums % AT_ONCE == 1:
            self._totals[:], self._summed[:] = 0.0, False
        self._add(np.flatnonzero(self._summed & ~wanted), -1)
        new = np.flatnonzero(wanted & ~self._summed)
        self._group[new] = ~table.first[new]
        self._add(new, 1)
        self._summed = wanted
        first = table.pending & table.first
        self.scale = int(np.count_nonzero(first)) / max(1, int(np.count_nonzero(first & wanted)))

    def _add(self, rows: Rows, sign: int) -> None:
        for group in (0, 1):
            self._totals[group] += sign * self.cost[rows[self._group[rows] == group]].sum(axis=0)

    def _price_first(self, rows: Rows, table: TaskTable) -> None:
        self._store(rows, np.where(self._first, self._seconds(rows, table), np.inf))
        steps, views = LATER_SHARES * self._full.steps, np.full(len(LATER_SHARES), float(self._full.views))
        shapes = [table.tasks[row].shape for row in rows]
        second = self._costs.medians(shapes, steps, views, self._full.samples, 1) * (LATER_SHARES > 0)
        for row, follows in zip(rows, second, strict=True):
            costs = (self.seconds[row][:, None] + self._doubtful[row][:, None] * follows).ravel()
            value = self._value[row].ravel()
            best = _worth_most(value, costs)
            nothing = value[best] - PRICES * costs[best] <= 0
            self.choice[row] = np.where(nothing, -1, best // len(LATER_SHARES))
            self.cost[row] = np.where(nothing, 0.0, costs[best])

    def _price_later(self, rows: Rows, table: TaskTable) -> None:
        self._store(rows, np.where(self._again, self._seconds(rows, table), np.inf))
        for row in rows:
            gain, seconds = self.gain[row], self.seconds[row]
            best = _worth_most(gain, seconds)
            nothing = gain[best] - PRICES * seconds[best] <= 0
            self.choice[row], self.cost[row] = np.where(nothing, -1, best), np.where(nothing, 0.0, seconds[best])


def _worth_most(value: Numbers, cost: Numbers) -> Rows:
    """(prices,) the option with the largest value less cost times price. Ones that cost more for no more value are left out."""
    order = cost.argsort(kind="stable")
    rising = value[order]
    kept = order[np.append(True, rising[1:] > np.maximum.accumulate(rising)[:-1])]
    return np.asarray(kept[(value[kept] - PRICES[:, None] * cost[kept]).argmax(axis=1)])
