"""The policy that plans: steps, views and samples for every task so that the expected number of solved tasks is largest.

Every task has options: passes with so many steps, views and samples, each with predicted seconds and an expected gain. Taking
from every task the option that is worth most at a common price of a second, at the price at which the time left is used up,
is what a greedy choice by marginal gain per second ends at where gains are concave (Everett 1963, Generalized Lagrange
Multiplier Method); it needs no sorting, and a table of each task's choices by price makes planning a sum. A first pass is
priced together with the second one that is likely to follow if its candidates disagree, which only doubtful tasks will
cost. No task gets more than the least pass before all have been given that, if there is time for that at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from solver.budget.costs import CostModel
from solver.budget.gains import Gains, Last, shipped_gains, trusted
from solver.budget.planner import Assignment, TaskState, full_plan
from solver.config import Settings
from solver.types import TaskPlan

Numbers = NDArray[np.float64]

STEP_SHARES = (0.0, 0.05, 0.1, 0.17, 0.25, 0.37, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # of the steps of the settings
LATER_STEPS = 0.25  # of the steps of the settings, at least, in a pass after the first: it has to warm up again
LATER_VIEWS = 0.5  # of the views
LATER_SHARES = (0.0, 0.5, 1.0, 2.0, 4.0)  # of the second pass that a first one is priced with
VIEW_SHARES = (0.125, 0.25, 0.5, 1.0)
SAMPLE_SHARES = (0.5, 1.0, 2.0)
PRICES = np.geomspace(1e-8, 10.0, 96)  # solved tasks a second
MEASURED_FIRST = 2  # tasks: the shortest and the longest
MEASURING = 0.25  # of the steps of the settings, to see what they cost
LONGEST_SHARE = 0.05  # of the time left that measuring the longest task may take
SLACK = 1.1  # of the median, where the upper quantile is hardly more


@dataclass(frozen=True, eq=False)
class _Offer:
    """What can be done for a task next, and what is chosen at every price; -1: nothing."""

    steps: Numbers  # (options,)
    views: Numbers
    samples: tuple[int, ...]
    seconds: Numbers  # of the pass itself
    gain: Numbers  # of the pass itself
    choice: NDArray[np.int64]  # (prices,) option
    cost: Numbers  # (prices,) seconds, of a likely second pass included
    least: int  # the option with the fewest seconds

    def plan(self, option: int) -> TaskPlan:
        return TaskPlan(int(self.steps[option]), int(self.views[option]), self.samples[option])


class AdaptivePolicy:
    """Most expected solved tasks for the time left, planned anew before every item."""

    def __init__(self, settings: Settings, costs: CostModel | None = None, gains: Gains | None = None) -> None:
        self.costs = costs or CostModel(settings)
        self._gains = (gains or shipped_gains()).with_batch(settings.train.batch_sequences)
        self._floor = settings.budget.floor
        self._chunk = settings.budget.chunk
        full = full_plan(settings)
        self._full = full
        self._steps = _scaled(full.steps, STEP_SHARES)
        self._views = _scaled(full.views, VIEW_SHARES)
        self._samples = _scaled(full.samples, SAMPLE_SHARES) if settings.infer.mode == "sample" else [full.samples]
        self._offers: dict[str, tuple[object, _Offer]] = {}

    def pending(self, task: TaskState) -> bool:
        """Until its candidates agree; a task that cannot be worked on is left alone."""
        if task.set_aside or task.status == "failed":
            return False
        return task.waves == 0 or self._agreement(task) < 1

    def next(self, tasks: Sequence[TaskState], left: float, workers: int) -> Assignment | None:
        """One task: first passes before later ones; None if nothing fits the time left."""
        pending = [task for task in tasks if self.pending(task)]
        free = [task for task in pending if not task.busy]
        if not free or left <= 0:
            return None
        firsts = [task for task in free if task.waves == 0]
        if firsts and not self.costs.measured:
            return self._unmeasured(firsts, left, workers)
        offers = {task.id: self._offer(task) for task in pending}
        price = self._price(pending, offers, left * workers)
        if firsts:
            return self._first_pass(firsts, offers, price, left, workers)
        return self._later_pass(free, offers, price, left)

    # -- what to do next

    def _unmeasured(self, firsts: Sequence[TaskState], left: float, workers: int) -> Assignment:
        """The shortest task, to see what work costs: the least pass under all views, within a share of the time."""
        task = min(firsts, key=_shortest)
        share = left * workers / len(firsts)
        seconds = min(left, max(share, self._floor))
        return _assignment(task, self._measuring(), seconds, f"measure costs on the shortest of {len(firsts)} tasks")

    def _first_pass(
        self, firsts: Sequence[TaskState], offers: dict[str, _Offer], price: int | None, left: float, workers: int
    ) -> Assignment | None:
        least = {task.id: float(offers[task.id].seconds[offers[task.id].least]) for task in firsts}
        if price is None:  # not even the least pass for all: those that promise most a second
            ranked = sorted(firsts, key=lambda task: (task.losses, -_rate(offers[task.id]), *_shortest(task)))
            fitting = _fitting(ranked, least, left * workers)
            why = f"time for the least pass of {fitting} of {len(firsts)} tasks"
            for task in ranked:
                if (found := self._fit(task, offers[task.id], offers[task.id].least, left, left, why)) is not None:
                    return found
            # predictions may be wrong, and the time is of no other use
            task = min(firsts, key=lambda task: (least[task.id], task.id))
            return _assignment(task, offers[task.id].plan(offers[task.id].least), left, f"{why}; tried all the same")
        if self.costs.tasks < MEASURED_FIRST:
            by_length = sorted((one for one in firsts if not one.losses), key=_shortest, reverse=True)
            longest = next((one for one in by_length if self._measuring_seconds(one) < LONGEST_SHARE * left), None)
            if longest is not None:
                seconds = self._measuring_seconds(longest)
                reason = f"measure costs on the longest task that takes less than {LONGEST_SHARE:.0%} of the time"
                return _assignment(longest, self._measuring(), seconds, reason)
        task = min(firsts, key=lambda task: (task.losses, *_shortest(task)))
        offer = offers[task.id]
        option = int(offer.choice[price])
        room = left - (sum(least.values()) - least[task.id]) / workers
        reason = f"{_worth(offer, option, PRICES[price])}; the least pass kept for {len(firsts) - 1} other tasks"
        found = self._fit(task, offer, option, max(room, least[task.id]), left, reason)
        return None if found is None else self._joined(found, firsts, offers, price, left)

    def _later_pass(
        self, free: Sequence[TaskState], offers: dict[str, _Offer], price: int | None, left: float
    ) -> Assignment | None:
        """The doubtful task with the largest gain a second; with time left over, whichever still fits."""
        place = 0 if price is None else price

        def urge(task: TaskState) -> float:
            offer = offers[task.id]
            option = int(offer.choice[place])
            option = offer.least if option < 0 else option
            return float(offer.gain[option] / max(offer.seconds[option], 1e-9))

        for task in sorted(free, key=lambda task: (task.losses, -urge(task), *_shortest(task))):
            offer = offers[task.id]
            chosen = int(offer.choice[place])
            option = offer.least if chosen < 0 else chosen
            doubt = f"agreement {task.agreement:.0%} of {task.views} views after {task.steps} steps"
            found = self._fit(task, offer, option, left, left, f"{doubt}: {_worth(offer, option, PRICES[place])}")
            if found is not None:
                return self._stretched(found, task, offers, free, left)
        return None

    # -- joining, shrinking and stretching

    def _joined(
        self, found: Assignment, firsts: Sequence[TaskState], offers: dict[str, _Offer], price: int, left: float
    ) -> Assignment:
        """With up to `budget.chunk` tasks in all, the shortest of those that are to get the same pass."""
        if self._chunk == 1 or found.halvings:
            return found
        tasks, seconds = list(found.tasks), found.seconds
        for task in sorted(firsts, key=_shortest):
            offer = offers[task.id]
            alike = not task.losses and offer.plan(int(offer.choice[price])) == found.plan
            most = self.costs.forecast(task.shape, found.plan).most if alike else left
            if task.id not in tasks and len(tasks) < self._chunk and seconds + most <= left:
                tasks.append(task.id)
                seconds += most
        more = f"; {len(tasks)} tasks together" if len(tasks) > 1 else ""
        return replace(found, tasks=tuple(tasks), seconds=seconds, reason=found.reason + more)

    def _fit(self, task: TaskState, offer: _Offer, option: int, room: float, left: float, reason: str) -> Assignment | None:
        """The option within `room` seconds, or what of it fits; None if not even its answers would."""
        plan = offer.plan(option)
        forecast = self.costs.forecast(task.shape, plan, task.waves)
        if forecast.seconds > room:
            smaller = self._shrunk(task, plan, room)
            if smaller is None:
                return None
            plan, forecast = smaller, self.costs.forecast(task.shape, smaller, task.waves)
            reason += f"; shrunk to {plan.steps} steps and {plan.views} views in {room:.1f} s"
        deadline = min(left, max(min(forecast.most, room), SLACK * forecast.seconds))
        return _assignment(task, plan, deadline, reason)

    def _shrunk(self, task: TaskState, plan: TaskPlan, room: float) -> TaskPlan | None:
        """As many views as leave half of the room to the fit, and the steps that fit; with one view, whatever fits."""
        for views in reversed([views for views in self._views if views <= plan.views]):
            bare = self.costs.forecast(task.shape, TaskPlan(0, views, plan.samples), task.waves).seconds
            steps = min(plan.steps, self._affordable(task, views, plan.samples, room))
            if steps >= 1 and (bare <= room / 2 or views == self._views[0]):
                return TaskPlan(steps, views, plan.samples)
        if task.waves == 0 and bare <= room:
            return TaskPlan(0, views, plan.samples)
        return None

    def _affordable(self, task: TaskState, views: int, samples: int, room: float) -> int:
        """Steps that bring a pass to `room` seconds, by the medians."""
        counts = np.array([1.0, self._steps[-1] + 1.0])
        few, many = self.costs.medians([task.shape], counts, np.full(2, float(views)), samples, task.waves)[0]
        each = (many - few) / (counts[1] - counts[0])
        return max(0, min(self._steps[-1], int(1 + (room - few) / each))) if room >= few and each > 0 else 0

    def _stretched(
        self, found: Assignment, task: TaskState, offers: dict[str, _Offer], free: Sequence[TaskState], left: float
    ) -> Assignment:
        """With more steps, if what the item leaves of the time is too little for another."""
        seconds = self.costs.forecast(task.shape, found.plan, task.waves).seconds
        next_least = min(float(offers[other.id].seconds[offers[other.id].least]) for other in free)
        if left - seconds >= next_least:
            return found
        steps = self._affordable(task, found.plan.views, found.plan.samples, left)
        if steps <= found.plan.steps:
            return _assignment(task, found.plan, left, f"{found.reason}; the last item")
        plan = TaskPlan(steps, found.plan.views, found.plan.samples)
        return _assignment(task, plan, left, f"{found.reason}; stretched to {steps} steps: the last item")

    # -- gains and prices

    def _agreement(self, task: TaskState) -> float:
        return trusted(task.agreement, task.views, task.steps, self._full.views, self._full.steps)

    def _measuring(self) -> TaskPlan:
        return TaskPlan(math.ceil(MEASURING * self._full.steps), self._full.views, self._full.samples)

    def _measuring_seconds(self, task: TaskState) -> float:
        return self.costs.forecast(task.shape, self._measuring()).most

    def _price(self, pending: Sequence[TaskState], offers: dict[str, _Offer], seconds: float) -> int | None:
        """The lowest price at which the choices of all tasks fit the seconds; None if they do not at any."""
        total = np.zeros(len(PRICES))
        for task in pending:
            total += offers[task.id].cost
        fitting = np.flatnonzero(total <= seconds)
        return int(fitting[0]) if len(fitting) else None

    def _offer(self, task: TaskState) -> _Offer:
        key = (self.costs.version, task.waves, task.steps, task.agreement, task.views)
        known = self._offers.get(task.id)
        if known is None or known[0] != key:
            known = key, self._first_offer(task) if task.waves == 0 else self._later_offer(task)
            self._offers[task.id] = known
        return known[1]

    def _options(self, task: TaskState) -> tuple[Numbers, Numbers, tuple[int, ...], Numbers]:
        """Steps, views, samples and seconds of every pass on the grid."""
        steps, views = np.array(self._steps, float), np.array(self._views, float)
        if task.waves:
            steps, views = steps[steps >= LATER_STEPS * self._full.steps], views[views >= LATER_VIEWS * self._full.views]
        steps, views = (part.ravel() for part in np.meshgrid(steps, views))
        seconds = [self.costs.medians([task.shape], steps, views, samples, task.waves)[0] for samples in self._samples]
        samples = tuple(count for count in self._samples for _ in steps)
        times = len(self._samples)
        return np.tile(steps, times), np.tile(views, times), samples, np.concatenate(seconds)

    def _chances(self, task: TaskState, steps: Numbers, views: Numbers, samples: tuple[int, ...]) -> Numbers:
        per = len(steps) // len(self._samples)
        parts = [
            self._gains.chance(task.shape, steps[at : at + per], views[at : at + per], samples[at])
            for at in range(0, len(steps), per)
        ]
        return np.concatenate(parts)

    def _first_offer(self, task: TaskState) -> _Offer:
        steps, views, samples, seconds = self._options(task)
        chance = self._chances(task, steps, views, samples)
        later = np.array([share * self._full.steps for share in LATER_SHARES])
        fulls = np.full_like(later, float(self._full.views))
        doubtful = 1 - self._gains.certain(chance)
        after = self._gains.chance(task.shape, steps[:, None] + later, np.broadcast_to(fulls, (len(steps), len(later))), 1)
        second = self.costs.medians([task.shape], later, fulls, self._full.samples, 1)[0] * (later > 0)
        costs = seconds[:, None] + doubtful[:, None] * second
        values = chance[:, None] + np.where(later > 0, np.maximum(after - chance[:, None], 0.0), 0.0)
        least = int(np.argmin(seconds))
        worth = values.ravel() - PRICES[:, None] * costs.ravel()
        best = worth.argmax(axis=1)
        return _Offer(steps, views, samples, seconds, chance, best // len(later), costs.ravel()[best], least)

    def _later_offer(self, task: TaskState) -> _Offer:
        steps, views, samples, seconds = self._options(task)
        per = len(steps) // len(self._samples)
        last = Last(self._agreement(task), task.steps, task.waves)
        gain = np.concatenate(
            [
                self._gains.again(task.shape, last, steps[at : at + per], views[at : at + per], samples[at])
                for at in range(0, len(steps), per)
            ]
        )
        worth = gain - PRICES[:, None] * seconds
        best = worth.argmax(axis=1)
        nothing = worth.max(axis=1) <= 0
        cost = np.where(nothing, 0.0, seconds[best])
        return _Offer(steps, views, samples, seconds, gain, np.where(nothing, -1, best), cost, int(np.argmin(seconds)))


def _scaled(full: int, shares: Sequence[float]) -> list[int]:
    """Distinct shares of a number; a share that is not 0 gives at least 1."""
    return sorted({max(1, round(full * share)) if full and share else 0 for share in shares})


def _shortest(task: TaskState) -> tuple[int, str]:
    return task.size, task.id


def _rate(offer: _Offer) -> float:
    return float(offer.gain[offer.least] / max(offer.seconds[offer.least], 1e-9))


def _fitting(ranked: Sequence[TaskState], least: dict[str, float], seconds: float) -> int:
    """How many of the first tasks fit."""
    return int((np.cumsum([least[task.id] for task in ranked]) <= seconds).sum())


def _worth(offer: _Offer, option: int, price: float) -> str:
    plan = offer.plan(option)
    what = f"{plan.steps} steps, {plan.views} views" + (f", {plan.samples} samples" if plan.samples > 1 else "")
    return f"{what} for +{offer.gain[option]:.3f} solved in {offer.seconds[option]:.1f} s, a second worth {price:.1g}"


def _assignment(task: TaskState, plan: TaskPlan, seconds: float, reason: str) -> Assignment:
    return Assignment((task.id,), task.waves, plan, seconds, reason, halvings=task.losses)
