"""What work costs on each kind of device: a cost model for each kind, where machines are unlike.

A policy plans with one cost model, that of the first kind that finishes a pass. For a worker of another kind it is asked as if
that worker were of the first kind and had the less time the slower it is. What it plans is then forecast by the worker's own
model. Where all devices are of one kind, there is one model and nothing is converted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from solver.budget.costs import CostModel, Prior
from solver.budget.regression import WRONG_BY_TEN, Spread
from solver.budget.workload import PHASES, TaskShape
from solver.config import Settings
from solver.types import TaskOutcome, TaskPlan

RECENT = 8  # passes that the slowness of a kind is computed from
# A device of another kind may be ten times slower, and the phases of its passes are in other proportions.
OF_ANOTHER_KIND = Spread(common=WRONG_BY_TEN, own=0.5)
SLOW = 1.5  # times as slow as the fastest kind: from then on a kind is left the short tasks


class DeviceCosts:
    """Cost models by kind of device."""

    def __init__(self, settings: Settings, costs: CostModel) -> None:
        """`costs` is the model that the policy plans with."""
        self._settings, self._planned_with = settings, costs
        self._first = ""  # the kind whose model the policy plans with
        self._models: dict[str, CostModel] = {}
        self._recent: deque[tuple[TaskShape, TaskPlan, int]] = deque(maxlen=RECENT)
        self._slowness: dict[str, tuple[object, float]] = {}

    def of(self, kind: str) -> CostModel:
        """The cost model of a kind. That of a new kind begins with the rates of the first, as a rough guess."""
        if not self._models:
            self._first, self._models[kind] = kind, self._planned_with
        if kind not in self._models:
            first = self._planned_with
            rates = {phase: tuple(rates) for phase, rates in first.rates().items()}
            prior = Prior(rates, dict.fromkeys(PHASES, OF_ANOTHER_KIND), first.prior.start)
            self._models[kind] = CostModel(self._settings, prior)
        return self._models[kind]

    def observe(self, kind: str, shape: TaskShape, plan: TaskPlan, outcome: TaskOutcome) -> None:
        """Learn from a pass on a device of this kind."""
        if self.of(kind) is not self._planned_with and not self._planned_with.tasks:
            self._models[self._first], self._models[kind] = self._models[kind], self._planned_with
            self._first = kind
        self.of(kind).observe(shape, plan, outcome)
        self._recent.append((shape, plan, outcome.wave))

    def slowness(self, kind: str) -> float:
        """Seconds that recent passes would take on this kind, for each second on the first kind."""
        costs = self.of(kind)
        if costs is self._planned_with or not costs.tasks or not self._recent:
            return 1.0
        now = (costs.tasks, self._planned_with.tasks)
        if kind not in self._slowness or self._slowness[kind][0] != now:
            here, there = (
                sum(model.seconds(shape, plan, wave) for shape, plan, wave in self._recent)
                for model in (costs, self._planned_with)
            )
            self._slowness[kind] = now, here / there if here > 0 and there > 0 else 1.0
        return self._slowness[kind][1]

    def slow(self, kind: str, kinds: Sequence[str]) -> bool:
        """Whether a kind is much slower than the fastest of `kinds`, or was never measured while another was."""
        if not self.of(kind).tasks and any(self.of(other).tasks for other in kinds):
            return True
        return self.slowness(kind) > SLOW * min(map(self.slowness, kinds), default=1.0)
