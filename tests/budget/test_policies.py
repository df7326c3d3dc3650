"""Policies on their own: who gets what, why, and what is left of the time."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_record import made_record, made_task, shape
from test_costs import passed

from solver.budget.adaptive import MAX_MEASURING, AdaptivePolicy
from solver.budget.costs import CostModel, prior_of
from solver.budget.extrapolate import play
from solver.budget.gains import Gains, shipped_gains
from solver.budget.pass_options import LATER_STEPS, LATER_VIEWS
from solver.budget.planner import TaskState, full_plan
from solver.budget.prior import stored
from solver.budget.registry import POLICIES, make_policy
from solver.budget.replay import replay
from solver.config import Settings, load_settings
from solver.errors import InputError
from solver.types import TaskPlan

SETTINGS = load_settings(overrides=["budget.policy=adaptive"])


def adaptive(settings: Settings, costs: CostModel) -> AdaptivePolicy:
    """With gains that do not change when those of the shipped models are fitted anew."""
    return AdaptivePolicy(settings, costs, shipped_gains(by_path=True))


def state(number: int, tokens: float = 500.0, **more: object) -> TaskState:
    return TaskState(f"t{number:02}", int(tokens), shape(tokens), **more)  # type: ignore[arg-type]


@cache
def taught(settings: Settings = SETTINGS, tasks: int = 6) -> CostModel:
    """A cost model that has seen what `test_costs.TRUE` costs."""
    costs, rng = CostModel(settings), np.random.default_rng(0)
    for number in range(tasks):
        form, plan = shape(300.0 * (number + 1)), TaskPlan(20 + 5 * number, 8 - number % 4, 1)
        costs.observe(form, plan, passed(form, plan, rng))
    return costs


def test_every_policy_is_made_by_its_name() -> None:
    for name in POLICIES:
        policy = make_policy(load_settings(overrides=[f"budget.policy={name}"]))
        given = policy.next([state(1)], 100.0, 1)
        assert given is not None
        assert given.reason
        assert "\n" not in given.reason
        assert policy.next([], 100.0, 1) is None
        assert policy.next([state(1)], 0.0, 1) is None


def test_fixed_waves_are_done_task_by_task_with_these_steps() -> None:
    settings = load_settings(overrides=["budget.policy=fixed", "budget.fixed_waves=[0,4,8]"])
    policy = make_policy(settings)
    book = {1: state(1, 100), 2: state(2, 200)}
    seen = []
    while (given := policy.next(list(book.values()), 100.0, 1)) is not None:
        number = int(given.tasks[0][1:])
        seen.append((number, given.wave, given.plan.steps))
        cut = len(seen) == 2  # the second pass is cut: it is done again
        book[number] = replace(book[number], waves=given.wave + 1, status="cut" if cut else "complete")
    assert seen == [(1, 0, 0), (1, 1, 4), (1, 1, 4), (1, 2, 8), (2, 0, 0), (2, 1, 4), (2, 2, 8)]
    assert not any(policy.pending(task) for task in book.values())


def test_a_policy_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(InputError, match=r"budget\.policy.*'fixed', 'uniform' or 'adaptive'"):
        load_settings(overrides=["budget.policy=proportional"])


def test_costs_are_measured_on_the_shortest_and_then_on_the_longest() -> None:
    tasks = [state(number, 200.0 + 100 * number) for number in range(8)]
    costs = CostModel(SETTINGS)
    policy = adaptive(SETTINGS, costs)
    first = policy.next(tasks, 2000.0, 1)
    assert first is not None
    assert first.tasks == ("t00",)
    assert first.seconds == pytest.approx(2000.0 / 8)
    costs.observe(tasks[0].shape, first.plan, passed(tasks[0].shape, first.plan))
    tasks[0] = replace(tasks[0], waves=1, steps=60, status="complete", agreement=1.0, views=8)
    second = policy.next(tasks, 2000.0, 1)
    assert second is not None
    assert second.tasks == ("t07",)
    assert "longest" in second.reason
    costs.observe(tasks[7].shape, second.plan, passed(tasks[7].shape, second.plan))
    tasks[7] = replace(tasks[7], waves=1, steps=60, status="complete", agreement=1.0, views=8)
    third = policy.next(tasks, 2000.0, 1)
    assert third is not None
    assert third.tasks == ("t01",)


def test_tasks_that_get_the_same_pass_are_worked_on_together() -> None:
    settings = load_settings(overrides=["budget.policy=adaptive", "budget.chunk=3"])
    tasks = [state(number, 400.0) for number in range(5)]
    given = adaptive(settings, taught()).next(tasks, 5000.0, 1)
    assert given is not None
    assert given.tasks == ("t00", "t01", "t02")
    assert "3 tasks together" in given.reason
    alone = adaptive(settings, taught()).next([*tasks[:1], state(1, 3000.0)], 60.0, 1)
    assert alone is not None
    assert alone.tasks == ("t00",)


def test_more_time_buys_more_steps() -> None:
    tasks = [state(number) for number in range(20)]
    plans = [adaptive(SETTINGS, taught()).next(tasks, left, 1) for left in (30.0, 200.0, 1000.0, 10000.0)]
    steps = [given.plan.steps for given in plans if given is not None]
    assert len(steps) == 4
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    four = adaptive(SETTINGS, taught()).next(tasks, 200.0, 4)
    assert four is not None
    assert four.plan.steps > steps[1]


@pytest.mark.parametrize("unfitted", [0.25, 1.0])
@pytest.mark.parametrize(("base", "fits"), [(-8.0, True), (8.0, False)])
def test_a_short_budget_buys_fits_for_some_or_a_view_for_all_as_the_gains_say(base: float, fits: bool, unfitted: float) -> None:
    """`base` says how much of what can be solved is solved without a fit. There is just time for one view of every task."""
    gains = Gains({**shipped_gains(by_path=True).parameters, "base": base}, unfitted=unfitted)
    costs, tasks = taught(), [state(number) for number in range(60)]
    left = 1.1 * len(tasks) * costs.seconds(tasks[0].shape, TaskPlan(0, 1, 1))
    played = play(tasks, AdaptivePolicy(SETTINGS, costs, gains), left, 1, lambda _: 0.0, lambda *_: None)
    steps = [sum(one.steps for one in passes) for passes in played.passes.values()]
    assert (max(steps) >= 10) == fits
    assert (len(played.untouched) > len(tasks) / 2) == fits
    assert (len(played.untouched) < len(tasks) / 10) == (not fits)


def test_a_phase_that_no_pass_came_to_does_not_keep_from_planning() -> None:
    costs, tasks = CostModel(SETTINGS), [state(number, 100.0 * (number + 1)) for number in range(9)]
    policy = adaptive(SETTINGS, costs)
    for number in range(MAX_MEASURING):
        given = policy.next(tasks, 100.0, 1)
        assert given is not None
        assert given.tasks == (f"t{number:02}",)
        assert (given.plan.steps, given.plan.views) == (15, 8)
        assert "measure costs" in given.reason
        seconds = {"prepare": 0.1, "infer": 1.0}  # its fit was cut before the first step
        costs.observe(tasks[number].shape, given.plan, replace(passed(tasks[number].shape, TaskPlan(0, 8, 1)), seconds=seconds))
        tasks[number] = replace(tasks[number], waves=1, status="cut", agreement=0.5, views=8)
    assert not costs.measured
    given = policy.next(tasks, 100.0, 1)
    assert given is not None
    assert "measure costs" not in given.reason


@pytest.mark.parametrize("doubts", [(), ("another machine",)])
def test_the_first_item_measures_with_a_fit_whatever_the_profile(doubts: tuple[str, ...]) -> None:
    costs = CostModel(SETTINGS, prior_of(stored(), "none", doubts))
    assert costs.guesses
    tasks = [state(number, 100.0 * (number + 1)) for number in range(9)]
    for gains in (shipped_gains(), shipped_gains(by_path=True)):
        given = AdaptivePolicy(SETTINGS, costs, gains).next(tasks, 100.0, 1)
        assert given is not None
        assert given.tasks == ("t00",)
        assert (given.plan.steps, given.plan.views) == (15, 8)


def test_a_second_wave_goes_to_those_in_doubt_with_a_chance() -> None:
    policy = adaptive(SETTINGS, taught())
    done = {"waves": 1, "steps": 30, "status": "complete", "views": 8}
    tasks = [
        state(0, agreement=1.0, **done),
        state(1, agreement=0.5, **done),
        state(2, agreement=0.0, **done),
        state(3, agreement=0.5, **{**done, "waves": 5}),
        state(4, agreement=1.0, **{**done, "views": 1}),  # one view agrees with itself
    ]
    assert [policy.pending(task) for task in tasks] == [False, True, True, True, True]
    given = policy.next(tasks[:4], 40.0, 1)
    assert given is not None
    assert given.tasks == ("t02",)  # that half of the views agree says that it may be solved already
    assert given.wave == 1
    assert given.plan.steps >= LATER_STEPS * full_plan(SETTINGS).steps
    assert given.plan.views >= LATER_VIEWS * full_plan(SETTINGS).views
    assert "agreement 0% of 8 views after 30 steps" in given.reason


def test_tasks_in_doubt_share_an_item_where_items_take_several() -> None:
    settings = load_settings(overrides=["budget.policy=adaptive", "budget.chunk=3"])
    policy = adaptive(settings, taught())
    done: dict[str, Any] = {"waves": 1, "steps": 30, "status": "complete", "views": 8, "agreement": 0.25}
    tasks = [state(number, **done) for number in range(4)]
    tasks += [state(4, **{**done, "waves": 2}), state(5, **{**done, "agreement": 1.0}), state(6, **{**done, "losses": 1})]
    given = policy.next(tasks, 2000.0, 1)
    assert given is not None
    assert given.wave == 1
    assert set(given.tasks) < {"t00", "t01", "t02", "t03"}
    assert len(given.tasks) == 3
    assert "3 tasks together" in given.reason
    each = policy.costs.forecast(tasks[0].shape, given.plan, 1).most
    assert 3 * each <= given.seconds <= 2000.0
    shorter = policy.next(tasks, 1.5 * each, 1)
    assert shorter is not None
    assert shorter.seconds <= 1.5 * each
    assert shorter.plan.steps < given.plan.steps


def test_the_last_item_shrinks_to_fit_and_takes_all_that_is_left() -> None:
    costs = taught()
    policy = adaptive(SETTINGS, costs)
    task = state(1, 1500.0)
    whole = costs.forecast(task.shape, full_plan(SETTINGS)).seconds
    given = policy.next([task], whole / 3, 1)
    assert given is not None
    assert 0 < given.plan.steps < full_plan(SETTINGS).steps
    assert costs.forecast(task.shape, given.plan).seconds <= whole / 3
    doubtful = state(1, 1500.0, waves=1, steps=30, status="complete", agreement=0.4, views=8)
    last = policy.next([doubtful], whole, 1)
    assert last is not None
    assert last.seconds == pytest.approx(whole)
    assert costs.forecast(task.shape, last.plan).seconds > 0.9 * whole
    assert "last item" in last.reason


def test_a_quick_answer_comes_first_where_agreement_without_a_fit_is_believed() -> None:
    """Once costs are known. Then the task whose views disagree is fitted, and last the one whose views agree, to confirm them."""
    costs, gains = taught(), shipped_gains(by_path=True)
    believing = Gains(gains.parameters, unfitted=1.0)
    policy = AdaptivePolicy(SETTINGS, costs, believing)
    for left in (50.0, 5000.0):
        first = policy.next([state(1), state(2, 500.0)], left, 1)
        assert first is not None
        assert first.plan.steps == 0
        assert first.plan.views == full_plan(SETTINGS).views
    agreed, doubtful = (
        state(number, waves=1, steps=0, status="complete", agreement=agreement, views=8)
        for number, agreement in ((1, 1.0), (2, 0.5))
    )
    later = policy.next([agreed, doubtful], 5000.0, 1)
    assert later is not None
    assert later.tasks == (doubtful.id,)
    assert later.plan.steps >= LATER_STEPS * full_plan(SETTINGS).steps
    confirmed = replace(doubtful, waves=2, steps=60, agreement=1.0)
    confirming = policy.next([agreed, confirmed], 5000.0, 1)
    assert confirming is not None
    assert confirming.tasks == (agreed.id,)
    assert confirming.plan.steps > 0
    assert policy.next([replace(agreed, waves=2, steps=60), confirmed], 5000.0, 1) is None


def test_agreement_is_enough_where_no_fit_is_planned() -> None:
    agreed = state(1, waves=1, steps=0, status="complete", agreement=1.0, views=8)
    believing = Gains(shipped_gains().parameters, unfitted=1.0)
    for overrides, pending in ((["train.steps=0"], False), ([], True)):
        settings = load_settings(overrides=overrides)
        assert AdaptivePolicy(settings, CostModel(settings), believing).pending(agreed) is pending


def test_a_first_pass_without_a_fit_shrinks_to_the_views_that_fit() -> None:
    costs = taught()
    policy, task = adaptive(SETTINGS, costs), state(1, 2000.0)
    views = full_plan(SETTINGS).views
    few, most = (costs.forecast(task.shape, TaskPlan(0, count, 1)).seconds for count in (views // 2, views))
    shrunk = policy._shrunk(task, TaskPlan(0, views, 1), (few + most) / 2)
    assert shrunk == TaskPlan(0, views // 2, 1)


def test_a_first_pass_that_does_not_fit_does_not_keep_others_from_work() -> None:
    """A long task without a pass, and less time than even its least pass takes, on each of many workers."""
    costs = taught()
    long = state(1, 4000.0)
    least = costs.forecast(long.shape, TaskPlan(0, 1, 1)).seconds
    doubtful = state(2, 200.0, waves=1, steps=30, status="complete", agreement=0.4, views=8)
    given = adaptive(SETTINGS, costs).next([long, doubtful], 0.9 * least, 8)
    assert given is not None
    assert given.tasks == ("t02",)
    alone = adaptive(SETTINGS, costs).next([long], 0.9 * least, 8)
    assert alone is not None
    assert "tried nevertheless" in alone.reason


def test_what_was_lost_comes_back_last_and_smaller() -> None:
    policy = adaptive(SETTINGS, taught())
    tasks = [state(1, 100.0, losses=1), state(2, 900.0)]
    given = policy.next(tasks, 500.0, 1)
    assert given is not None
    assert given.tasks == ("t02",)
    again = policy.next(tasks[:1], 500.0, 1)
    assert again is not None
    assert again.halvings == 1
    assert not policy.pending(replace(tasks[0], killed=2))
    assert not policy.pending(replace(tasks[1], status="failed", waves=1))


@pytest.mark.parametrize("overrides", [["train.shared=true"], ["infer.mode=sample", "infer.samples=4"], ["train.epochs=2"]])
def test_other_recipes_are_planned_too(overrides: list[str]) -> None:
    settings = load_settings(overrides=["budget.policy=adaptive", *overrides])
    given = adaptive(settings, taught(settings)).next([state(1), state(2)], 60.0, 1)
    assert given is not None
    assert (given.plan.steps == 0) == settings.train.shared
    assert given.plan.samples >= (2 if settings.infer.mode == "sample" else 1)


@given(
    tokens=st.lists(st.floats(100, 4000), min_size=1, max_size=12),
    left=st.floats(0.5, 5000),
    workers=st.integers(1, 4),
    waves=st.integers(0, 3),
    agreement=st.floats(0, 1),
    learnt=st.integers(0, 6),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_plan_keeps_to_the_time_and_to_the_tasks(
    tokens: list[float], left: float, workers: int, waves: int, agreement: float, learnt: int
) -> None:
    costs = taught(tasks=learnt)
    done = {"waves": waves, "steps": 20 * waves, "status": "complete" if waves else None, "agreement": agreement, "views": 8}
    tasks = [state(number, size, **done) for number, size in enumerate(tokens)]
    policy = adaptive(SETTINGS, costs)
    given = policy.next(tasks, left, workers)
    if given is None:
        assert waves  # a first pass is never refused, however small
        return
    assert len(given.tasks) == 1
    assert policy.pending(tasks[int(given.tasks[0][1:])])
    assert 0 < given.seconds <= left
    assert given.wave == waves
    assert 0 <= given.plan.steps <= 8 * full_plan(SETTINGS).steps
    assert 1 <= given.plan.views <= full_plan(SETTINGS).views
    assert math.isfinite(given.seconds)


@pytest.mark.parametrize("name", ["uniform", "adaptive"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_replay_uses_the_time_and_repeats_itself(name: str, workers: int) -> None:
    settings = load_settings(overrides=[f"budget.policy={name}"])
    tasks = made_record(12)
    once, again = (replay(make_policy(settings), tasks, 300.0, 1, workers) for _ in range(2))
    assert once == again
    assert once.used > 0.97
    assert 0 <= once.solved <= 12
    assert replay(make_policy(settings), tasks, 3000.0, 1, workers).solved >= once.solved


def test_short_of_time_adaptive_solves_more() -> None:
    """On a made-up record whose gains are as planned with; what real tasks do is for the benchmark to say."""
    tasks, solved = made_record(24, seed=5), {}
    for name in ("uniform", "adaptive"):
        settings = load_settings(overrides=[f"budget.policy={name}"])
        policies = (make_policy(settings, None, shipped_gains(by_path=True)) for _ in range(2))
        played = [replay(policy, tasks, budget, 0) for policy, budget in zip(policies, (60.0, 1000.0), strict=True)]
        solved[name] = sum(one.solved for one in played)
    assert solved["adaptive"] > solved["uniform"]


def test_made_tasks_are_solved_in_the_end() -> None:
    task = made_task(0, np.random.default_rng(3))
    found = [task.found(((rung, 8),)).solved for rung in range(len(task.rungs))]
    assert found == sorted(found)
