"""Budget policies by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from solver.budget.adaptive import AdaptivePolicy
from solver.budget.costs import CostModel
from solver.budget.planner import FixedPolicy, Policy, ProportionalPolicy, UniformPolicy
from solver.config import Settings

POLICIES: dict[Literal["fixed", "uniform", "proportional", "adaptive"], Callable[[Settings, CostModel], Policy]] = {
    "fixed": FixedPolicy,
    "uniform": UniformPolicy,
    "proportional": ProportionalPolicy,
    "adaptive": AdaptivePolicy,
}


def make_policy(settings: Settings, costs: CostModel | None = None) -> Policy:
    """The policy of the settings; `costs` is what it plans with and whoever runs the work corrects."""
    return POLICIES[settings.budget.policy](settings, costs or CostModel(settings))
