"""What a task gives up when it is tried again: batch, then views, then context, and never below what can work at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from run_helpers import make_task

from solver.budget.backoff import MIN_BATCH, MIN_CONTEXT, describe, shares, smaller_item, smaller_settings
from solver.config import load_settings
from solver.types import TaskPlan, TaskWork, WorkItem


def item(halvings: int, views: int = 8) -> WorkItem:
    return WorkItem("i", 0, (TaskWork(make_task("a"), TaskPlan(60, views, 2)),), 100.0, halvings=halvings)


def test_nothing_is_given_up_at_first() -> None:
    settings = load_settings()
    assert smaller_settings(settings, 0) == settings
    assert smaller_item(item(0)).tasks[0].plan == TaskPlan(60, 8, 2)
    assert describe(0) == "nothing halved"


def test_batch_then_views_then_context_then_batch_again() -> None:
    settings = load_settings()
    found = []
    for halvings in range(5):
        smaller = smaller_settings(settings, halvings)
        views = smaller_item(item(halvings)).tasks[0].plan.views
        found.append((smaller.train.batch_tokens, smaller.infer.batch_tokens, views, smaller.model.context))
    assert found == [
        (16384, 32768, 8, 8192),
        (8192, 16384, 8, 8192),
        (8192, 16384, 4, 8192),
        (8192, 16384, 4, 4096),
        (4096, 8192, 4, 4096),
    ]
    assert describe(3) == "batch / 2, views / 2, context / 2"


def test_steps_and_samples_stay() -> None:
    plan = smaller_item(item(9)).tasks[0].plan
    assert (plan.steps, plan.samples, plan.views) == (60, 2, 1)


@given(st.integers(0, 200), st.integers(1, 64))
def test_nothing_falls_below_what_can_work(halvings: int, views: int) -> None:
    assert sum(shares(halvings)) == halvings
    smaller = smaller_settings(load_settings(), halvings)
    assert smaller.train.batch_tokens >= MIN_BATCH
    assert smaller.model.context >= MIN_CONTEXT
    assert smaller_item(item(halvings, views)).tasks[0].plan.views >= 1


def test_what_is_small_already_is_left_alone() -> None:
    assert smaller_settings(load_settings(overrides=["model.context=100"]), 9).model.context == 100
