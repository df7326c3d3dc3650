"""Passes over tasks of many demonstrations: how many are shown at once, so that steps and answers fit the time."""

import numpy as np
import pytest

from solver.arc.task import Pair, Task
from solver.budget.costs import CostModel
from solver.budget.shorten import MIN_STEPS, shortened, token_limit
from solver.budget.workload import TaskShape, shape_of
from solver.config import load_settings
from solver.types import TaskPlan

PLAN = TaskPlan(15, 8, 1)
CONTEXT = load_settings().model.context


def of_pairs(count: int, side: int = 5) -> TaskShape:
    grid = np.ones((side, side), np.uint8)
    return shape_of(Task("t", (Pair(grid, grid),) * count, (Pair(grid, None),)))


def costs() -> CostModel:
    return CostModel(load_settings())


def test_a_pass_that_has_the_time_for_a_step_and_its_answers_is_left_alone() -> None:
    assert token_limit(costs(), of_pairs(4), PLAN, 31.0, CONTEXT) is None
    assert token_limit(costs(), of_pairs(400), PLAN, 3600.0, CONTEXT) is None


@pytest.mark.parametrize("count", [150, 400, 4000])
def test_a_pass_without_the_time_for_a_step_shows_as_many_demonstrations_as_leave_it_some(count: int) -> None:
    model, form = costs(), of_pairs(count)
    limit = token_limit(model, form, PLAN, 31.0, CONTEXT)
    assert limit is not None
    cut = shortened(form, limit)
    assert 2 <= len(cut.demonstrations) < count
    assert max(cut.prompts) <= limit
    assert model.seconds(cut, TaskPlan(MIN_STEPS, 8, 1)) <= 31.0 < model.seconds(form, TaskPlan(1, 8, 1))


def test_more_time_shows_more_and_a_plan_without_steps_needs_less() -> None:
    limits = [token_limit(costs(), of_pairs(400), PLAN, seconds, CONTEXT) for seconds in (10.0, 40.0, 80.0)]
    assert limits == sorted(limit for limit in limits if limit is not None)
    assert limits[0] < limits[-1]
    unfitted = token_limit(costs(), of_pairs(400), TaskPlan(0, 8, 1), 10.0, CONTEXT)
    assert unfitted is not None
    assert unfitted > limits[0]


def test_two_demonstrations_are_always_shown() -> None:
    assert token_limit(costs(), of_pairs(3, side=30), PLAN, 1.0, CONTEXT) is None  # half of it would not hold two
    limit = token_limit(costs(), of_pairs(20, side=20), PLAN, 1.0, CONTEXT)
    assert limit is not None
    assert len(shortened(of_pairs(20, side=20), limit).demonstrations) >= 2


def test_the_last_demonstrations_are_kept() -> None:
    form = TaskShape((500.0, 40.0, 30.0), (590.0, 600.0), (10.0, 10.0))
    assert shortened(form, None) is form
    cut = shortened(form, 200)
    assert cut.demonstrations == (40.0, 30.0)
    assert cut.prompts == (90.0, 100.0)
