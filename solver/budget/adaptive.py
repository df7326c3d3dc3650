"""The policy that plans: it chooses steps, views and samples so that the expected number of solved tasks is largest.

Every task has options (`budget.pass_options`): passes with so many steps, views and samples, each with predicted seconds and an
expected gain. The policy puts one price on a second, the same for all tasks, and takes from every task the option that is worth
most at that price: its gain less the price of its seconds. The price is the lowest at which these options fit into the time left.
This is Everett's method (1963, Generalized Lagrange Multiplier Method). Where gains are concave it ends where a greedy choice by
marginal gain per second ends; where they are not, it skips options that would not pay. A table of each task's choice at every
price makes planning a sum over tasks.

A pass that is not worth its price is left out, also the first one of a task: with little time for many tasks, some get fits and
others nothing if that solves more.

Predictions are only a guess before anything is measured, whatever profile they come from. So the first item measures: it is a
pass over the shortest task, with a fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from solver.budget.costs import CostModel
from solver.budget.gains import Gains, shipped_gains, trusted
from solver.budget.pass_options import PRICES, Numbers, PassOptions
from solver.budget.planner import Assignment, TaskState, full_plan
from solver.budget.task_table import ANYONE, Receiver, Rows, TaskTable
from solver.config import Settings
from solver.types import TaskPlan

STEP_SHARES = (0.0, 0.05, 0.1, 0.17, 0.25, 0.37, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of the steps of the settings
VIEW_SHARES = (0.125, 0.25, 0.5, 1.0)
SAMPLE_SHARES = (0.5, 1.0, 2.0)
MEASURED_FIRST = 2  # tasks whose first pass measures costs: the shortest, and the longest that is short enough
MAX_MEASURING = 4  # passes after which plans are made even if a phase was never measured, because no pass has come so far
MEASURING = 0.25  # of the steps of the settings, in a pass that measures costs
LONGEST_SHARE = 0.05  # of the time left that measuring costs on a long task may take
MANY, FEW = 4096, 16  # tasks: of more than MANY, a plan looks at the best FEW
SLACK = 1.1  # times the median: the shortest deadline of a pass, where its upper quantile is hardly above its median


class AdaptivePolicy:
    """Plans anew before every item for the most expected solved tasks in the time left."""

    def __init__(self, settings: Settings, costs: CostModel | None = None, gains: Gains | None = None) -> None:
        self.costs = costs or CostModel(settings)
        self._floor = settings.budget.floor
        self.chunk = settings.budget.chunk or 1
        full = full_plan(settings)
        self._full = full
        self._steps = _scaled(full.steps, STEP_SHARES)
        self._views = _scaled(full.views, VIEW_SHARES)
        samples = _scaled(full.samples, SAMPLE_SHARES) if settings.infer.mode == "sample" else [full.samples]
        gains = (gains or shipped_gains()).with_batch(settings.train.batch_sequences)
        self._unfitted = gains.unfitted
        self._task_table = TaskTable(self.pending)
        self._pass_options = PassOptions(self.costs, gains, full, self._steps, self._views, samples)

    def pending(self, task: TaskState) -> bool:
        """Whether it has no answer yet, its candidates disagree, or they agree without a fit or a program that confirms them.

        A task that failed or was set aside is never pending.
        """
        if task.set_aside or task.status == "failed" or (task.waves > 0 and task.confirmed):
            return False
        full = self._full
        agreed = trusted(task.agreement, task.views, task.steps, full.views, full.steps, self._unfitted)
        return task.waves == 0 or agreed < 1 or (task.steps == 0 and full.steps > 0)

    def count_pending(self, tasks: Sequence[TaskState], free: bool = False) -> int:
        """How many tasks are pending, or pending and not busy."""
        self._pass_options.note(self._task_table, self._task_table.see(tasks))
        return self._task_table.count(free)

    def next(self, tasks: Sequence[TaskState], left: float, workers: float, receiver: Receiver = ANYONE) -> Assignment | None:
        """The next item; first passes come before later ones. None if nothing fits the time left."""
        table, pass_options = self._task_table, self._pass_options
        pass_options.note(table, table.see(tasks))
        table.receiver = receiver
        free = table.free
        if not free.any() or left <= 0:
            return None
        if self._measures() and len(firsts := np.flatnonzero(free & table.first)):
            return self._unmeasured(firsts, left, workers)
        pass_options.refresh(table)
        firsts, later = (np.flatnonzero(pass_options.priced(free & some)) for some in (table.first, ~table.first))
        price = pass_options.price(table.pending, left * workers)
        if price is None:
            return self._too_little(firsts, left, workers) if len(firsts) else self._later_pass(later, 0, left)
        if len(worthwhile := firsts[pass_options.choice[firsts, price] >= 0]):
            return self._first_pass(worthwhile, later, price, left, workers)
        if len(firsts) and pass_options.best_rate(firsts) > self._later_rate(later, price):
            return self._too_little(firsts, left, workers)
        return self._later_pass(later, price, left) or (self._too_little(firsts, left, workers) if len(firsts) else None)

    # -- what to do next

    def _measures(self) -> bool:
        """Whether the next item has to measure before plans are made."""
        return self.costs.guesses or (not self.costs.measured and self.costs.tasks < MAX_MEASURING)

    def _unmeasured(self, firsts: Rows, left: float, workers: float) -> Assignment:
        """A first pass over the shortest task, to measure costs: some steps, all views, within its share of the time."""
        task = self._task_table.tasks[firsts[self._task_table.place[firsts].argmin()]]
        share = left * workers / len(firsts)
        seconds = min(left, max(share, self._floor))
        return _assignment(task, self._measuring(), seconds, f"measure costs on the shortest of {len(firsts)} tasks")

    def _first_pass(self, firsts: Rows, others: Rows, price: int, left: float, workers: float) -> Assignment:
        """A first pass over the first task that fits, by length; if none fits, a later pass over one of the `others`."""
        table, pass_options = self._task_table, self._pass_options
        if len(firsts) > MANY and (fits := pass_options.least_seconds(firsts) <= left).any():
            firsts = firsts[fits]  # because only some are looked at
        least = pass_options.least_seconds(firsts)
        if self.costs.tasks < MEASURED_FIRST:
            by_length = firsts[np.argsort(-table.place[firsts])]
            whole = (table.tasks[row] for row in by_length if not table.losses[row])
            longest = next((one for one in whole if self._measuring_seconds(one) < LONGEST_SHARE * left), None)
            if longest is not None:
                seconds = self._measuring_seconds(longest)
                reason = f"measure costs on the longest task that takes less than {LONGEST_SHARE:.0%} of the time left"
                return _assignment(longest, self._measuring(), seconds, reason)
        total = sum(least.tolist()) * self._pass_options.scale
        for at in in_order(table.ranks(firsts), table.losses[firsts]):
            row, own = int(firsts[at]), float(least[at])
            option = int(pass_options.choice[row, price])
            room = min(left, max(left - (total - own) / workers, own))
            others_left = len(firsts) - 1
            reason = self._worth(row, option, price)
            if others_left:
                reason += f"; time is kept for the shortest pass of {others_left} other task{'s' * (others_left > 1)}"
            assignment = self._fit(table.tasks[row], pass_options.plans[option], room, left, reason)
            if assignment is not None and table.count(free=False) == 1:
                return self._stretched(assignment, table.tasks[row], left)
            if assignment is not None:
                return self._joined(assignment, firsts[in_order(table.ranks(firsts))], price, left)
        later = self._later_pass(others, price, left)
        return self._tried(firsts, least, left, "nothing is predicted to fit") if later is None else later

    def _too_little(self, firsts: Rows, left: float, workers: float) -> Assignment:
        """For too little time for the shortest pass of every task: the task with the largest gain per second that fits."""
        table, pass_options = self._task_table, self._pass_options
        least, options = pass_options.least_seconds(firsts), pass_options.least[firsts]
        ranked = in_order(table.place[firsts], -pass_options.rates(firsts, options), table.losses[firsts])
        in_turn = least[ranked] if len(ranked) == len(firsts) else np.sort(least)
        fitting = int((np.cumsum(in_turn) <= left * workers).sum() * self._pass_options.scale)
        why = f"there is time for the shortest pass of {fitting} of {len(firsts)} tasks"
        for at in ranked:
            assignment = self._fit(table.tasks[firsts[at]], pass_options.plans[options[at]], left, left, why)
            if assignment is not None:
                return assignment
        return self._tried(firsts, least, left, why)

    def _tried(self, firsts: Rows, least: Numbers, left: float, why: str) -> Assignment:
        """The shortest pass, although none is predicted to fit: predictions may be wrong, and the time has no other use."""
        tasks = self._task_table.tasks
        at = min(range(len(firsts)), key=lambda at: (least[at], tasks[firsts[at]].id))
        plan = self._pass_options.plans[self._pass_options.least[firsts[at]]]
        return _assignment(tasks[firsts[at]], plan, left, f"{why}; this one is tried nevertheless")

    def _later_options(self, free: Rows, price: int) -> Rows:
        """The option of each task in doubt at this price, the shortest if none is worth it."""
        chosen = self._pass_options.choice[free, price]
        return np.where(chosen < 0, self._pass_options.least[free], chosen)

    def _later_rate(self, free: Rows, price: int) -> float:
        """The largest gain per second of further passes."""
        return float(self._pass_options.rates(free, self._later_options(free, price)).max(initial=0.0))

    def _later_pass(self, free: Rows, place: int, left: float) -> Assignment | None:
        """A further pass over the task in doubt with the largest gain per second that fits; None if none fits."""
        table, pass_options = self._task_table, self._pass_options
        options = self._later_options(free, place)
        ranked = in_order(table.place[free], -pass_options.rates(free, options), table.losses[free])
        for at in ranked:
            task, option = table.tasks[free[at]], int(options[at])
            doubt = f"agreement {task.agreement:.0%} of {task.views} views after {task.steps} steps"
            reason = f"{doubt}: {self._worth(free[at], option, place)}"
            assignment = self._fit(task, pass_options.plans[option], left, left, reason)
            if assignment is None:
                continue
            alike = free[ranked[table.waves[free[ranked]] == task.waves]]
            joined = self._joined(assignment, alike, place, left)
            if len(joined.tasks) > 1:
                return joined
            after = left - self.costs.seconds(task.shape, assignment.plan, task.waves)
            last = after < pass_options.least_seconds(free).min()  # no other pass fits after this one
            return self._stretched(assignment, task, left) if last else assignment
        return None

    def _worth(self, row: int, option: int, price: int) -> str:
        """An option in words, with what it is expected to gain and to cost."""
        plan, pass_options = self._pass_options.plans[option], self._pass_options
        what = f"{plan.steps} steps, {plan.views} views" + (f", {plan.samples} samples" if plan.samples > 1 else "")
        gain, seconds = pass_options.gain[row, option], pass_options.seconds[row, option]
        return f"{what}: +{gain:.3f} expected solved tasks in {seconds:.1f} s, at a price of {PRICES[price]:.1g} a second"

    # -- joining, shrinking and stretching

    def _joined(self, assignment: Assignment, others: Rows, price: int, left: float) -> Assignment:
        """The assignment with more tasks, `chunk` in all at most: the first of the `others` for which the same plan is chosen."""
        if self.chunk == 1 or assignment.halvings:
            return assignment
        table, pass_options = self._task_table, self._pass_options
        ids, seconds = list(assignment.tasks), assignment.seconds
        for row in others:
            task, option = table.tasks[row], int(pass_options.choice[row, price])
            if len(ids) == self.chunk:
                break
            if task.id in ids or task.losses or option < 0 or pass_options.plans[option] != assignment.plan:
                continue
            most = self.costs.forecast(task.shape, assignment.plan, task.waves).most
            if seconds + most <= left:
                ids.append(task.id)
                seconds += most
        more = f"; {len(ids)} tasks together" if len(ids) > 1 else ""
        return replace(assignment, tasks=tuple(ids), seconds=seconds, reason=assignment.reason + more)

    def _fit(self, task: TaskState, plan: TaskPlan, room: float, left: float, reason: str) -> Assignment | None:
        """A pass by `plan`, or by a smaller plan if it is predicted to take more than `room` seconds; None if none fits."""
        if self.costs.seconds(task.shape, plan, task.waves) > room:
            smaller = self._shrunk(task, plan, room)
            if smaller is None:
                return None
            plan = smaller
            reason += f"; shrunk to {plan.steps} steps and {plan.views} views in {room:.1f} s"
        forecast = self.costs.forecast(task.shape, plan, task.waves)
        # with much time left, a pass that takes unusually long is not cut
        fair = left / max(1, self._task_table.count(free=False))
        deadline = min(left, max(min(forecast.most, room), SLACK * forecast.seconds, fair))
        return _assignment(task, plan, deadline, reason)

    def _shrunk(self, task: TaskState, plan: TaskPlan, room: float) -> TaskPlan | None:
        """The largest part of `plan` that is predicted to take `room` seconds; None if there is none.

        It has as many views as leave half of the room to the fit, and then as many steps as fit. A first pass that is planned
        without a fit, or has no room for one, has as many views as fit. A later pass has at least one step.
        """
        if task.waves and self.costs.seconds(task.shape, TaskPlan(1, self._views[0], plan.samples), task.waves) > room:
            return None
        for views in reversed([views for views in self._views if views <= plan.views]):
            bare = self.costs.seconds(task.shape, TaskPlan(0, views, plan.samples), task.waves)
            if not plan.steps and task.waves == 0 and bare <= room:
                return TaskPlan(0, views, plan.samples)
            steps = min(plan.steps, self._affordable(task, views, plan.samples, room))
            if steps >= 1 and (bare <= room / 2 or views == self._views[0]):
                return TaskPlan(steps, views, plan.samples)
        if task.waves == 0 and bare <= room:
            return TaskPlan(0, views, plan.samples)
        return None

    def _affordable(self, task: TaskState, views: int, samples: int, room: float) -> int:
        """With how many steps a pass takes `room` seconds, by the medians."""
        most = self._steps[-1]
        few, many = (self.costs.seconds(task.shape, TaskPlan(steps, views, samples), task.waves) for steps in (1, most + 1))
        each = (many - few) / most if most else 0.0
        return max(0, min(most, int(1 + (room - few) / each))) if room >= few and each > 0 else 0

    def _stretched(self, assignment: Assignment, task: TaskState, left: float) -> Assignment:
        """The assignment with all the time that is left, and as many steps as fit into it: nothing else could use that time."""
        plan = assignment.plan
        steps = self._affordable(task, plan.views, plan.samples, left)
        if steps <= plan.steps:
            return _assignment(task, plan, left, f"{assignment.reason}; the last item")
        plan = replace(plan, steps=steps)
        return _assignment(task, plan, left, f"{assignment.reason}; the last item, so it gets {steps} steps")

    def _measuring(self) -> TaskPlan:
        return TaskPlan(math.ceil(MEASURING * self._full.steps), self._full.views, self._full.samples)

    def _measuring_seconds(self, task: TaskState) -> float:
        return self.costs.forecast(task.shape, self._measuring()).most


def in_order(*keys: Numbers | Rows) -> Rows:
    """The places of rows sorted by the last key, then by the one before it, and so on.

    Of thousands of rows only the first `FEW` or a few more are given: sorting all would take longer than the rest of a plan.
    """
    if len(keys[-1]) <= MANY:
        return np.lexsort(keys)
    few = np.arange(len(keys[-1]))
    for key in reversed(keys):  # those that are not worse in this key than the FEW best
        few = few[key[few] <= np.partition(key[few], FEW)[FEW]] if len(few) > FEW else few
    return few[np.lexsort([key[few] for key in keys])]


def _scaled(full: int, shares: Sequence[float]) -> list[int]:
    """The shares of a number, rounded and without repetition. Only the share 0 gives 0."""
    return sorted({max(1, round(full * share)) if full and share else 0 for share in shares})


def _assignment(task: TaskState, plan: TaskPlan, seconds: float, reason: str) -> Assignment:
    return Assignment((task.id,), task.waves, plan, seconds, reason, halvings=task.losses)
