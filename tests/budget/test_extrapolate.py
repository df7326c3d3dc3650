"""Playing a run out on paper: time adds up, policies get what they would get, and ratios move costs to other machines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_cases import TINY, profile, row, variant

from solver.budget import extrapolate
from solver.budget.costs import CostModel
from solver.budget.extrapolate import Extrapolation, nearest_agreement, play, rescaled
from solver.budget.planner import TaskState, full_plan
from solver.budget.prior import PRESETS, estimate
from solver.budget.registry import POLICIES, make_policy
from solver.budget.workload import TaskShape
from solver.config import load_settings
from solver.types import TaskPlan

SHAPE = TaskShape(demonstrations=(100.0, 100.0, 100.0), prompts=(350.0,), answers=(50.0,))


def states(count: int, scale: float = 1.0) -> list[TaskState]:
    def shape(place: int) -> TaskShape:
        grown = scale * (1 + place / 4)
        return TaskShape((100 * grown, 120 * grown), (300 * grown,), (60 * grown,))

    return [TaskState(f"task{place}", 300 + 75 * place, shape(place)) for place in range(count)]


def played(
    seconds: float, tasks: int = 6, workers: int = 1, policy: str = "uniform", agreement: float = 1.0, *wishes: str
) -> Extrapolation:
    chosen = load_settings(overrides=[f"budget.policy={policy}", *wishes])
    return play(states(tasks), make_policy(chosen, CostModel(chosen)), seconds, workers, lambda _: agreement, lambda *_: None)


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.floats(1.0, 300.0),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_no_run_lasts_longer_than_its_time_or_works_more_than_its_workers(
    policy: str, seconds: float, tasks: int, workers: int, agreement: float
) -> None:
    found = played(seconds, tasks, workers, policy, agreement)
    if policy != "fixed":  # it ignores the clock, and is cut by the end of the run
        assert found.seconds <= seconds + 1e-3
    assert found.busy <= 1 + 1e-6
    assert sum(found.phases.values()) <= workers * seconds * (1 + 1e-6) + 1e-3
    assert len(found.passes) == tasks
    assert all(
        0 <= one.steps <= one.plan.steps and 0 <= one.views <= one.plan.views for some in found.passes.values() for one in some
    )


def test_with_time_for_everything_nothing_is_cut() -> None:
    found = played(1e5)
    plan = full_plan(load_settings())
    assert not found.work_left
    assert found.untouched == []
    assert found.below(plan) == []
    assert (found.steps, found.passes_a_task) == (plan.steps, 1.0)
    assert found.seconds < 1e5


def test_too_little_time_leaves_tasks_without_a_pass_and_others_short() -> None:
    found = played(25.0, 6)
    assert found.work_left
    assert found.untouched
    assert found.below(full_plan(load_settings()))
    assert found.seconds == pytest.approx(25.0)


def test_doubtful_tasks_get_further_passes_and_certain_ones_do_not() -> None:
    assert played(2000.0, agreement=0.5).passes_a_task > 1
    assert played(2000.0, agreement=1.0).passes_a_task == 1


def test_tasks_whose_views_agree_are_done_under_the_policy_that_plans() -> None:
    found = played(3000.0, 3, 1, "adaptive", 1.0)
    assert not found.work_left
    assert found.seconds < 2000.0
    assert found.passes_a_task <= 2  # the tasks that costs are measured on get a short first pass
    assert played(3000.0, 3, 1, "adaptive", 0.0).work_left


def test_twice_the_workers_get_twice_as_much_done() -> None:
    one, two = (played(300.0, 6, workers, agreement=0.5) for workers in (1, 2))
    assert sum(two.phases.values()) == pytest.approx(2 * sum(one.phases.values()), rel=0.1)


def test_what_is_cut_keeps_its_answers_before_its_steps() -> None:
    chosen = load_settings(overrides=["budget.policy=uniform", "budget.floor=0.1"])
    costs = CostModel(chosen)
    (state,) = states(1)
    whole = costs.forecast(state.shape, full_plan(chosen))
    seconds = whole.seconds - whole.median["fit"] / 2
    found = play([state], make_policy(chosen, costs), seconds, 1, lambda _: 1.0, lambda *_: None)
    first = found.passes["task0"][0]
    assert first.cut
    assert first.steps == pytest.approx(first.plan.steps / 2, abs=1)
    assert first.views == first.plan.views


def test_progress_is_told_of_long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extrapolate, "TELL_EVERY", 5)
    chosen = load_settings()
    heard: list[tuple[int, float]] = []
    play(states(3), make_policy(chosen), 500.0, 1, lambda _: 0.5, lambda passes, at: heard.append((passes, at)))
    assert [passes for passes, _ in heard] == sorted(passes for passes, _ in heard)
    assert heard


def test_agreement_is_that_of_the_nearest_size() -> None:
    sample = [
        TaskState("a", 100, SHAPE, 1, agreement=0.25),
        TaskState("b", 1000, SHAPE, 1, agreement=0.75),
        TaskState("c", 150, SHAPE),
    ]
    agreement = nearest_agreement(sample)
    assert [agreement(TaskState("x", size, SHAPE)) for size in (1, 150, 900, 10**6)] == [0.25, 0.25, 0.75, 0.75]
    assert nearest_agreement([])(TaskState("x", 100, SHAPE)) == 0.0


def test_costs_move_to_another_machine_by_the_ratio_of_profiles() -> None:
    chosen = load_settings()
    here = profile(variant(row(256), row(512), row(2048)))
    twice = here.machine.model_copy(update={"device": "twice", "peak_flops": 2e11, "bandwidth": 4e10})
    there = estimate(here, twice, TINY)
    costs = CostModel(chosen)
    moved, ratios = rescaled(costs, chosen, here, there, [SHAPE])
    assert ratios["fit"] == pytest.approx(0.5, rel=0.05)
    plan = TaskPlan(60, 8, 1)
    before, after = costs.forecast(SHAPE, plan).median, moved.forecast(SHAPE, plan).median
    for phase, ratio in ratios.items():
        assert after[phase] == pytest.approx(before[phase] * ratio)
    assert after["prepare"] == pytest.approx(before["prepare"])  # the host does that
    assert moved.measured


def test_a_gpu_is_expected_to_do_more_in_the_same_time() -> None:
    chosen = load_settings()
    here = profile(variant(row(256), row(512), row(2048)))
    hardware, devices = PRESETS["kaggle-l4x4"]
    there = estimate(here, hardware.machine("kaggle-l4x4", devices), TINY)
    costs = CostModel(chosen)
    moved, _ = rescaled(costs, chosen, here, there, [state.shape for state in states(6)])
    slow, fast = (play(states(6), make_policy(chosen, c), 60.0, 1, lambda _: 0.5, lambda *_: None) for c in (costs, moved))
    assert fast.steps > slow.steps
