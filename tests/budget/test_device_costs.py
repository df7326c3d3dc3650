"""Costs by kind of device: each learns from its own passes, and the policy's model belongs to the first that finished one."""

from __future__ import annotations

import pytest

from solver.budget.costs import CostModel
from solver.budget.device_costs import DeviceCosts
from solver.budget.workload import TaskShape
from solver.config import load_settings
from solver.types import Fit, QueryOutcome, TaskOutcome, TaskPlan

SETTINGS = load_settings()
SHAPE = TaskShape((200.0, 200.0, 200.0), (700.0,), (100.0,))
PLAN = TaskPlan(40, 8, 1)


def passed(factor: float) -> TaskOutcome:
    """A pass that takes 20 seconds times a factor."""
    fit = Fit("a", "complete", "steps", None, PLAN.steps, 1000, 10 * factor, 2.0, 1.0)
    seconds = {"prepare": 1 * factor, "fit": 10 * factor, "infer": 6 * factor, "score": 3 * factor}
    return TaskOutcome("t", 0, "complete", fit, (QueryOutcome(0, (), (), PLAN.views),), seconds)


def test_one_kind_has_the_model_of_the_policy() -> None:
    planned_with = CostModel(SETTINGS)
    costs = DeviceCosts(SETTINGS, planned_with)
    assert costs.of("cpu") is planned_with
    costs.observe("cpu", SHAPE, PLAN, passed(1.0))
    assert planned_with.tasks == 1
    assert costs.slowness("cpu") == 1.0
    assert not costs.slow("cpu", ["cpu"])


def test_a_slow_kind_is_forecast_by_its_own_passes() -> None:
    costs = DeviceCosts(SETTINGS, CostModel(SETTINGS))
    costs.of("fast")
    for _ in range(4):
        costs.observe("fast", SHAPE, PLAN, passed(1.0))
    assert costs.slow("slow", ["fast", "slow"])  # not measured yet: it begins with a short task
    assert costs.slowness("slow") == 1.0
    for _ in range(4):
        costs.observe("slow", SHAPE, PLAN, passed(4.0))
    assert costs.of("fast").seconds(SHAPE, PLAN) == pytest.approx(20.0, rel=0.2)
    assert costs.of("slow").seconds(SHAPE, PLAN) == pytest.approx(80.0, rel=0.2)
    assert costs.slowness("slow") == pytest.approx(4.0, rel=0.2)
    assert costs.slow("slow", ["fast", "slow"])
    assert not costs.slow("fast", ["fast", "slow"])
    assert not costs.slow("slow", ["slow"])


def test_the_policy_plans_with_what_was_measured_first() -> None:
    planned_with = CostModel(SETTINGS)
    costs = DeviceCosts(SETTINGS, planned_with)
    assert costs.of("never finishes") is planned_with
    costs.observe("other", SHAPE, PLAN, passed(1.0))
    assert costs.of("other") is planned_with
    assert costs.of("never finishes") is not planned_with
