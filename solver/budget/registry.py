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
    """The policy of the settings; `costs` is what it plans with and whoever runs the work corrects.

    `gains` say what work is worth, to a policy that asks; none: those of the models that ship.
    """
    costs = costs or CostModel(settings)
    if settings.budget.policy == "adaptive":
        return AdaptivePolicy(settings, costs, gains)
    return POLICIES[settings.budget.policy](settings, costs)
