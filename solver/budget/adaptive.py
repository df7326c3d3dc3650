"""The policy that plans: steps, views and samples for every task so that the expected number of solved tasks is largest.

Every task has options (`budget.pass_options`): passes with so many steps, views and samples, each with predicted seconds and an
expected gain. Taking from every task the option that is worth most at a common price of a second, at the price at which the
time left is used up, is what a greedy choice by marginal gain per second ends at where gains are concave, and where they are
not it passes over what would not pay (Everett 1963, Generalized Lagrange Multiplier Method); it needs no sorting, and a table
of each task's choices by price makes planning a sum.
No task gets more than the least pass before all have been given that, if there is time for that at all.
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
from solver.budget.task_table import Rows, TaskTable
from solver.config import Settings
from solver.types import TaskPlan

STEP_SHARES = (0.0, 0.05, 0.1, 0.17, 0.25, 0.37, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of the steps of the settings
VIEW_SHARES = (0.125, 0.25, 0.5, 1.0)
SAMPLE_SHARES = (0.5, 1.0, 2.0)
MEASURED_FIRST = 2  # tasks: the shortest and the longest
MEASURING = 0.25  # of the steps of the settings, to see what they cost
LONGEST_SHARE = 0.05  # of the time left that measuring the longest task may take
SLACK = 1.1  # of the median, where the upper quantile is hardly more


class AdaptivePolicy:
    """Most expected solved tasks for the time left, planned anew before every item."""

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
        """Until its candidates agree; a task that cannot be worked on is left alone."""
        if task.set_aside or task.status == "failed":
            return False
        full = self._full
        return task.waves == 0 or trusted(task.agreement, task.views, task.steps, full.views, full.steps, self._unfitted) < 1

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:
        """One task: first passes before later ones; None if nothing fits the time left."""
        table, pass_options = self._task_table, self._pass_options
        pass_options.note(table, table.see(tasks))
        free = np.flatnonzero(table.free)
        if not len(free) or left <= 0:
            return None
        firsts = free[table.waves[free] == 0]
        if len(firsts) and not self.costs.measured:
            return self._unmeasured(firsts, left, workers)
        pass_options.refresh(table)
        price = pass_options.price(np.flatnonzero(table.pending), left * workers)
        if len(firsts):
            return self._first_pass(firsts, free[table.waves[free] > 0], price, left, workers)
        return self._later_pass(free, price, left)

    # -- what to do next

    def _unmeasured(self, firsts: Rows, left: float, workers: int) -> Assignment:
        """The shortest task, to see what work costs: the least pass under all views, within a share of the time."""
        task = self._task_table.tasks[firsts[self._task_table.place[firsts].argmin()]]
        share = left * workers / len(firsts)
        seconds = min(left, max(share, self._floor))
        return _assignment(task, self._measuring(), seconds, f"measure costs on the shortest of {len(firsts)} tasks")

    def _first_pass(self, firsts: Rows, others: Rows, price: int | None, left: float, workers: int) -> Assignment:
        """The shortest task without a pass; if that does not fit, the next one, or a later pass of one of the `others`."""
        table, pass_options = self._task_table, self._pass_options
        least = pass_options.least_seconds(firsts)
        if price is None:
            return self._too_little(firsts, least, left, workers)
        if self.costs.tasks < MEASURED_FIRST:
            by_length = firsts[np.argsort(-table.place[firsts])]
            whole = (table.tasks[row] for row in by_length if not table.losses[row])
            longest = next((one for one in whole if self._measuring_seconds(one) < LONGEST_SHARE * left), None)
            if longest is not None:
                seconds = self._measuring_seconds(longest)
                reason = f"measure costs on the longest task that takes less than {LONGEST_SHARE:.0%} of the time"
                return _assignment(longest, self._measuring(), seconds, reason)
        total = sum(least.tolist())
        for at in np.lexsort((table.place[firsts], table.losses[firsts])):
            row, own = int(firsts[at]), float(least[at])
            option = int(pass_options.choice[row, price])
            room = min(left, max(left - (total - own) / workers, own))
            reason = f"{self._worth(row, option, price)}; the least pass kept for {len(firsts) - 1} other tasks"
            found = self._fit(table.tasks[row], pass_options.plans[option], room, left, reason)
            if found is not None and table.pending.sum() == 1:
                return self._stretched(found, table.tasks[row], left)
            if found is not None:
                return self._joined(found, firsts[np.argsort(table.place[firsts])], price, left)
        later = self._later_pass(others, price, left)
        return self._tried(firsts, least, left, "nothing is predicted to fit") if later is None else later

    def _too_little(self, firsts: Rows, least: Numbers, left: float, workers: int) -> Assignment:
        """Where not even the least pass fits for all: those that promise most a second."""
        table, pass_options = self._task_table, self._pass_options
        options = pass_options.least[firsts]
        ranked = np.lexsort((table.place[firsts], -pass_options.rates(firsts, options), table.losses[firsts]))
        fitting = int((np.cumsum(least[ranked]) <= left * workers).sum())
        why = f"time for the least pass of {fitting} of {len(firsts)} tasks"
        for at in ranked:
            found = self._fit(table.tasks[firsts[at]], pass_options.plans[options[at]], left, left, why)
            if found is not None:
                return found
        return self._tried(firsts, least, left, why)

    def _tried(self, firsts: Rows, least: Numbers, left: float, why: str) -> Assignment:
        """The least pass of the task with the shortest: predictions may be wrong, and the time is of no other use."""
        tasks = self._task_table.tasks
        at = min(range(len(firsts)), key=lambda at: (least[at], tasks[firsts[at]].id))
        plan = self._pass_options.plans[self._pass_options.least[firsts[at]]]
        return _assignment(tasks[firsts[at]], plan, left, f"{why}; tried all the same")

    def _later_pass(self, free: Rows, price: int | None, left: float) -> Assignment | None:
        """The doubtful task with the largest gain a second; with time left over, whichever still fits."""
        table, pass_options, place = self._task_table, self._pass_options, price or 0
        chosen = pass_options.choice[free, place]
        options = np.where(chosen < 0, pass_options.least[free], chosen)
        ranked = np.lexsort((table.place[free], -pass_options.rates(free, options), table.losses[free]))
        for at in ranked:
            task, option = table.tasks[free[at]], int(options[at])
            doubt = f"agreement {task.agreement:.0%} of {task.views} views after {task.steps} steps"
            reason = f"{doubt}: {self._worth(free[at], option, place)}"
            found = self._fit(task, pass_options.plans[option], left, left, reason)
            if found is None:
                continue
            alike = free[ranked[table.waves[free[ranked]] == task.waves]]
            joined = self._joined(found, alike, place, left)
            if len(joined.tasks) > 1:
                return joined
            after = left - self.costs.seconds(task.shape, found.plan, task.waves)
            return found if after >= pass_options.least_seconds(free).min() else self._stretched(found, task, left)
        return None

    def _worth(self, row: int, option: int, price: int) -> str:
        plan, pass_options = self._pass_options.plans[option], self._pass_options
        what = f"{plan.steps} steps, {plan.views} views" + (f", {plan.samples} samples" if plan.samples > 1 else "")
        gain, seconds = pass_options.gain[row, option], pass_options.seconds[row, option]
        return f"{what} for +{gain:.3f} solved in {seconds:.1f} s, a second worth {PRICES[price]:.1g}"

    # -- joining, shrinking and stretching

    def _joined(self, found: Assignment, others: Rows, price: int, left: float) -> Assignment:
        """With up to `chunk` tasks in all, the first of the `others` that are to get the same pass."""
        if self.chunk == 1 or found.halvings:
            return found
        table, pass_options = self._task_table, self._pass_options
        ids, seconds = list(found.tasks), found.seconds
        for row in others:
            task, option = table.tasks[row], int(pass_options.choice[row, price])
            if len(ids) == self.chunk:
                break
            if task.id in ids or task.losses or option < 0 or pass_options.plans[option] != found.plan:
                continue
            most = self.costs.forecast(task.shape, found.plan, task.waves).most
            if seconds + most <= left:
                ids.append(task.id)
                seconds += most
        more = f"; {len(ids)} tasks together" if len(ids) > 1 else ""
        return replace(found, tasks=tuple(ids), seconds=seconds, reason=found.reason + more)

    def _fit(self, task: TaskState, plan: TaskPlan, room: float, left: float, reason: str) -> Assignment | None:
        """The plan within `room` seconds, or what of it fits; None if not even its answers would."""
        if self.costs.seconds(task.shape, plan, task.waves) > room:
            smaller = self._shrunk(task, plan, room)
            if smaller is None:
                return None
            plan = smaller
            reason += f"; shrunk to {plan.steps} steps and {plan.views} views in {room:.1f} s"
        forecast = self.costs.forecast(task.shape, plan, task.waves)
        fair = left / max(1, int(self._task_table.pending.sum()))  # where time is plenty, a pass that hiccups is not to be cut
        deadline = min(left, max(min(forecast.most, room), SLACK * forecast.seconds, fair))
        return _assignment(task, plan, deadline, reason)

    def _shrunk(self, task: TaskState, plan: TaskPlan, room: float) -> TaskPlan | None:
        """As many views as leave half of the room to the fit, and the steps that fit; with one view, whatever fits.

        A first pass without a fit: as many views as fit.
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
        """Steps that bring a pass to `room` seconds, by the medians."""
        most = self._steps[-1]
        few, many = (self.costs.seconds(task.shape, TaskPlan(steps, views, samples), task.waves) for steps in (1, most + 1))
        each = (many - few) / most if most else 0.0
        return max(0, min(most, int(1 + (room - few) / each))) if room >= few and each > 0 else 0

    def _stretched(self, found: Assignment, task: TaskState, left: float) -> Assignment:
        """With as many more steps as what would be left of the time is good for: nothing else could use it."""
        steps = self._affordable(task, found.plan.views, found.plan.samples, left)
        if steps <= found.plan.steps:
            return _assignment(task, found.plan, left, f"{found.reason}; the last item")
        plan = TaskPlan(steps, found.plan.views, found.plan.samples)
        return _assignment(task, plan, left, f"{found.reason}; stretched to {steps} steps: the last item")

    def _measuring(self) -> TaskPlan:
        return TaskPlan(math.ceil(MEASURING * self._full.steps), self._full.views, self._full.samples)

    def _measuring_seconds(self, task: TaskState) -> float:
        return self.costs.forecast(task.shape, self._measuring()).most


def _scaled(full: int, shares: Sequence[float]) -> list[int]:
    """Distinct shares of a number; a share that is not 0 gives at least 1."""
    return sorted({max(1, round(full * share)) if full and share else 0 for share in shares})


def _assignment(task: TaskState, plan: TaskPlan, seconds: float, reason: str) -> Assignment:
    return Assignment((task.id,), task.waves, plan, seconds, reason, halvings=task.losses)
