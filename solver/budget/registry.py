"""Budget policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from solver.budget.adaptive import AdaptivePolicy
from solver.budget.costs import CostModel
from solver.budget.gains import Gains
from solver.budget.planner import FixedPolicy, Policy, UniformPolicy
from solver.config import Settings

POLICIES: dict[Literal["fixed", "uniform", "adaptive"], Callable[..., Policy]] = {
    "fixed": FixedPolicy,
    "uniform": UniformPolicy,
    "adaptive": AdaptivePolicy,
}


def make_policy(settings: Settings, costs: CostModel | None = None, gains: Gains | None = None) -> Policy:
    """The policy that the settings name. It plans with `costs`, which learn from the passes that the caller reports.

    Only "adaptive" uses `gains`; None: the gains of the shipped models.
    """
    costs = costs or CostModel(settings)
    if settings.budget.policy == "adaptive":
        return AdaptivePolicy(settings, costs, gains)
    return POLICIES[settings.budget.policy](settings, costs)
