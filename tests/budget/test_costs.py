"""Costs of passes: what work there is, what a profile says of it, and what finished passes teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_record import shape
from profile_cases import CPU, profile, row, variant

from solver.arc.task import Pair, Task
from solver.budget.costs import LEARNING, CostModel, Timing, non_negative, prediction_errors, prior_of
from solver.budget.forecast import AFTER_FIT_SHARE, MIN_SILENCE, SILENCE, forecast_item
from solver.budget.planner import full_plan
from solver.budget.workload import FEATURES, TaskShape, amounts, shape_of, sizes_of
from solver.config import Settings, load_settings
from solver.types import Fit, QueryOutcome, Score, TaskOutcome, TaskPlan

SETTINGS = load_settings()
PLAN = TaskPlan(40, 8, 1)
TRUE = {  # seconds per unit of each feature, all phases
    "prepare": (4e-3, 2e-4, 5e-5, 1e-6, 1e-4),
    "fit": (0.1, 5e-3, 1e-4, 3e-8),
    "infer": (0.1, 5e-5, 8e-9, 2e-3, 4e-4),
    "score": (2e-2, 1e-5, 1e-4),
    "select": (2e-3,),
}


def grid(rows: int, columns: int) -> np.ndarray:
    return np.ones((rows, columns), dtype=np.uint8)


def truth(settings: Settings, form: TaskShape, plan: TaskPlan) -> dict[str, float]:
    work = amounts(sizes_of(form, settings), settings, plan.steps, plan.views, plan.samples)
    return {phase: float(np.dot(part, TRUE[phase])) for phase, part in work.items()}


def passed(form: TaskShape, plan: TaskPlan, rng: np.random.Generator | None = None, outliers: float = 0.0) -> TaskOutcome:
    seconds = truth(SETTINGS, form, plan)
    if rng is not None:
        for phase in seconds:
            seconds[phase] *= float(np.exp(0.05 * rng.standard_t(3))) * (6 if rng.random() < outliers else 1)
    scores = tuple(Score(grid(1, 1), str(view), 1.0, 2) for view in range(plan.views))
    fit = Fit("a", "complete", "steps", None, plan.steps, 0, seconds["fit"], 1.0, 1.0) if plan.steps else None
    return TaskOutcome("t", 0, "complete", fit, (QueryOutcome(0, (), scores, plan.views),), seconds)


def test_the_shape_of_a_task() -> None:
    task = Task("t", (Pair(grid(2, 3), grid(4, 6)), Pair(grid(3, 3), grid(6, 6))), (Pair(grid(2, 2), grid(9, 9)),))
    form = shape_of(task)
    assert len(form.demonstrations) == 2
    assert not form.same_size
    assert form.growth == pytest.approx(np.log(4))
    assert form.answers[0] == pytest.approx(4 * (4 + 2))  # four times the cells of the test input; its answer is not looked at
    assert form == shape_of(task.without_answers())
    assert form.prompts[0] > sum(form.demonstrations)
    fixed = Task("t", (Pair(grid(2, 3), grid(1, 1)), Pair(grid(9, 9), grid(1, 1))), (Pair(grid(5, 5), None),))
    assert shape_of(fixed).answers[0] == pytest.approx(2.0)


def test_work_is_counted_under_the_settings() -> None:
    form = shape(1000)
    work = amounts(sizes_of(form, SETTINGS), SETTINGS, 10, 8, 1)
    assert {phase: len(part) for phase, part in work.items()} == {phase: len(names) for phase, names in FEATURES.items()}
    assert amounts(sizes_of(form, SETTINGS), SETTINGS, 0, 1, 1)["fit"] == (0, 0, 0, 0)
    tokens = sum(form.demonstrations)
    assert work["fit"] == pytest.approx((1, 10, 40 * tokens, 40 * tokens**2))
    short = load_settings(overrides=["model.context=256"])
    assert amounts(sizes_of(form, short), short, 10, 8, 1)["fit"][2] == pytest.approx(40 * 256)
    unscored = load_settings(overrides=["infer.score=false"])
    assert "score" not in amounts(sizes_of(form, unscored), unscored, 1, 1, 1)


def test_many_passes_are_predicted_as_each_alone() -> None:
    costs, forms, waves = CostModel(SETTINGS), [shape(tokens) for tokens in (300, 1000, 4000)], [0, 1, 3]
    for form in forms:
        costs.observe(form, PLAN, passed(form, PLAN, np.random.default_rng(1)))
    costs.forget_drift()  # many are predicted for plans of all that is to come
    steps, views = np.array([0.0, 5.0, 80.0, 2000.0]), np.array([1.0, 8.0, 2.0, 8.0])
    found = costs.medians(forms, steps, views, 2, waves)
    for place, (form, wave) in enumerate(zip(forms, waves, strict=True)):
        plans = [TaskPlan(int(step), int(view), 2) for step, view in zip(steps, views, strict=True)]
        assert found[place] == pytest.approx([costs.forecast(form, plan, wave).seconds for plan in plans], rel=1e-12)


def test_a_forecast_follows_every_measurement() -> None:
    costs, form = CostModel(SETTINGS), shape(1000)
    before = costs.forecast(form, PLAN).seconds
    slow = passed(form, PLAN)
    costs.observe(form, PLAN, replace(slow, seconds={phase: 10 * used for phase, used in slow.seconds.items()}))
    after = costs.forecast(form, PLAN).seconds
    assert after != before
    assert costs.forecast(form, PLAN).seconds == after


def test_five_tasks_are_enough() -> None:
    """The bar: median error of every phase within 15 % from the sixth task on, from a prior of another machine."""
    rows = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        costs = CostModel(SETTINGS)
        for number in range(20):
            form = shape({0: 200.0, 1: 4000.0}.get(number) or float(np.exp(rng.uniform(np.log(200), np.log(4000)))))
            plan = TaskPlan(int(rng.integers(5, 100)), int(rng.integers(1, 9)), 1)
            outcome = passed(form, plan, rng, outliers=0.05)
            median = costs.forecast(form, plan).median
            rows += [Timing(phase, median[phase], used) for phase, used in outcome.seconds.items() if number >= 5]
            costs.observe(form, plan, outcome)
    for phase in FEATURES:
        assert prediction_errors([row for row in rows if row.phase == phase])[phase] < 0.15


def test_what_the_deadline_cut_counts_for_what_it_got_done() -> None:
    form = shape(1000)
    whole, cut = CostModel(SETTINGS), CostModel(SETTINGS)
    less = TaskPlan(PLAN.steps // 2, PLAN.views // 2, 1)
    for _ in range(12):
        whole.observe(form, PLAN, passed(form, PLAN))
        done = passed(form, less)
        seconds = {**done.seconds, "prepare": truth(SETTINGS, form, PLAN)["prepare"]}  # which is done before it is cut
        cut.observe(form, PLAN, replace(done, status="cut", seconds=seconds))
    one, other = (costs.forecast(form, PLAN).median for costs in (whole, cut))
    for phase in FEATURES:
        assert other[phase] == pytest.approx(one[phase], rel=0.15)


def test_a_machine_that_has_just_become_slower_is_slower_for_the_next_pass() -> None:
    rng, costs = np.random.default_rng(0), CostModel(SETTINGS)
    errors: dict[float, list[float]] = {1.0: [], 1.5: []}
    for number in range(80):
        form, slower = shape(float(rng.uniform(300, 2000))), 1.0 if number // 10 % 2 else 1.5
        done = passed(form, PLAN, rng)
        used = sum(done.seconds.values()) * slower
        if number >= 40 and number % 10 >= 4:  # some passes after the change
            errors[slower].append(costs.forecast(form, PLAN).seconds / used - 1)
        costs.observe(form, PLAN, replace(done, seconds={phase: seconds * slower for phase, seconds in done.seconds.items()}))
    for seen in errors.values():  # the mean of both would be wrong by 20 %, up or down
        assert abs(float(np.median(seen))) < 0.1
    slow = costs.forecast(form, PLAN)
    costs.forget_drift()
    usual = costs.forecast(form, PLAN)
    assert usual.seconds / slow.seconds > 1.1  # the last ten were fast ones
    assert usual.most == pytest.approx(slow.most)  # and nothing is promised on that


def test_a_phase_that_has_become_slower_is_slower_for_the_next_passes() -> None:
    rng, costs = np.random.default_rng(0), CostModel(SETTINGS)
    errors: dict[str, list[float]] = {"fit": [], "infer": []}
    for number in range(60):
        form = shape(float(rng.uniform(300, 2000)))
        done = passed(form, PLAN, rng)
        seconds = {**done.seconds, "infer": done.seconds["infer"] * (1.4 if number >= 40 else 1.0)}
        if number >= 50:
            for phase, seen in errors.items():
                seen.append(costs.forecast(form, PLAN).median[phase] / seconds[phase] - 1)
        costs.observe(form, PLAN, replace(done, seconds=seconds))
    for seen in errors.values():  # rates learnt over all of them would still be 1.2 times too low for inference
        assert abs(float(np.median(seen))) < 0.1


def test_scoring_is_foreseen_once_it_is_known_what_there_is_to_score() -> None:
    rng, costs, form = np.random.default_rng(0), CostModel(SETTINGS), shape(1000)
    seen: list[Timing] = []
    for number in range(30):
        tokens = int(rng.integers(1, 5)) * 400
        seconds = 0.02 + 1e-4 * tokens
        outcome = replace(passed(form, PLAN), tokens={"scored": tokens})
        outcome = replace(outcome, seconds={**outcome.seconds, "score": seconds})
        predicted = costs.score_seconds(form, PLAN, outcome)
        assert predicted is not None
        if number >= 5:
            before = costs.forecast(form, PLAN).median["score"]
            seen += [Timing("then", predicted, seconds), Timing("before", before, seconds)]
        costs.observe(form, PLAN, outcome)
    errors = prediction_errors(seen)
    assert errors["then"] < 0.05 < 0.2 < errors["before"]
    assert costs.score_seconds(form, PLAN, replace(outcome, tokens={})) is None


def test_a_pass_in_which_nothing_was_answered_says_that_answers_take_longer() -> None:
    form = shape(1000)
    costs = CostModel(SETTINGS)
    for _ in range(5):
        costs.observe(form, PLAN, passed(form, PLAN))
    before = costs.forecast(form, PLAN).median["infer"]
    nothing = TaskOutcome("t", 0, "cut", None, (QueryOutcome(0, (), (), 0),), {"infer": before / 2})
    costs.observe(form, PLAN, nothing)
    assert costs.forecast(form, PLAN).median["infer"] == pytest.approx(before)
    for _ in range(8):
        costs.observe(form, PLAN, replace(nothing, seconds={"infer": 4 * before}))
    assert costs.forecast(form, PLAN).median["infer"] > 2 * before


def test_one_pass_corrects_a_profile_of_this_machine_and_another_is_a_hint() -> None:
    good = profile(variant(row(512, step_seconds=1.0), row(2048, step_seconds=6.0)))
    mine, hint = CostModel(SETTINGS, prior_of(good, "none")), CostModel(SETTINGS, prior_of(good, "none", ["other"]))
    form = shape(600)
    assert mine.known("fit")
    assert not hint.known("fit")
    ours, theirs = mine.forecast(form, PLAN), hint.forecast(form, PLAN)
    assert ours.median["fit"] == pytest.approx(theirs.median["fit"])
    tokens = sum(form.demonstrations)
    assert 0.8 * tokens / 512 < ours.median["fit"] / PLAN.steps < 1.6 * tokens / 512
    assert min(one.upper["fit"] / one.median["fit"] for one in (ours, theirs)) > 10  # any profile may be wrong by so much
    for costs in (mine, hint):
        assert costs.guesses
        costs.observe(shape(200), PLAN, passed(shape(200), PLAN))
        assert not costs.guesses
    ours, theirs = (costs.forecast(shape(2000), PLAN) for costs in (mine, hint))
    assert ours.upper["fit"] / ours.median["fit"] < 2 < theirs.upper["fit"] / theirs.median["fit"]
    estimate = good.model_copy(update={"derivation": "by a roof line"})
    assert not prior_of(estimate, "none").known


def test_a_profile_without_numbers_leaves_the_guess() -> None:
    empty = profile(variant(row(512, step_seconds=None, prefill_seconds=None, decode_rate=None, score_seconds=None)))
    prior = prior_of(empty, "none")
    assert not prior.known
    assert prior.rates == CostModel(SETTINGS).prior.rates


def test_a_worker_on_another_device_weakens_the_prior() -> None:
    costs = CostModel(SETTINGS, prior_of(profile(), "none"))
    assert costs.meet("cpu") is None
    doubt = costs.meet("NVIDIA L4")
    assert doubt is not None
    assert "NVIDIA L4" in doubt
    assert not costs.known("fit")
    cuda = profile(machine=CPU.model_copy(update={"kind": "cuda", "device": "NVIDIA L4"}))
    assert CostModel(SETTINGS, prior_of(cuda, "none")).meet("NVIDIA L4") is None


def test_starts_are_learnt() -> None:
    costs = CostModel(SETTINGS, prior_of(profile(), "none"))
    assert costs.start()[0] == pytest.approx(6.75)
    for _ in range(6):
        costs.started({"imports": 9.0, "model": 0.5, "trainer": 0.0, "engine": 20.5})
    assert costs.start()[0] == pytest.approx(30.0, rel=0.1)
    assert costs.start_parts()["engine"] == pytest.approx(20.5, rel=0.1)
    assert costs.start()[1] > costs.start()[0]


def test_rates_that_would_be_negative_are_zero() -> None:
    lengths = np.array([512.0, 1024.0, 2048.0])
    work = np.stack([np.ones(3), lengths, lengths**2], axis=1)
    assert non_negative(work, work @ [0.1, 1e-3, 1e-7]) == pytest.approx([0.1, 1e-3, 1e-7])
    found = non_negative(work, lengths * 1e-3 - 0.2)
    assert min(found) >= 0
    assert work @ found == pytest.approx(lengths * 1e-3 - 0.2, rel=0.5)


def test_errors_of_predictions() -> None:
    rows = [Timing("fit", predicted, 1.0) for predicted in (None, 2.0, 1.1, 0.8)]
    rows += [Timing("prepare", 9.0, 0.009)] * 4 + [Timing("select", 1.0, 0.0)]  # too short to be judged
    assert prediction_errors(rows) == pytest.approx({"fit": 0.2})
    assert prediction_errors(rows, skip=2) == pytest.approx({"fit": 0.15})
    assert prediction_errors(rows, skip=9) == {}


def test_what_is_expected_of_an_item() -> None:
    form, costs = shape(1000), CostModel(SETTINGS)
    unknown = forecast_item(costs, [form], PLAN, 100.0)
    assert unknown.keep is None
    assert unknown.total == 0
    assert unknown.silence == float("inf")
    assert unknown.longest == pytest.approx(SILENCE * costs.forecast(form, PLAN).most)
    for _ in range(12):
        costs.observe(form, PLAN, passed(form, PLAN))
    forecast = costs.forecast(form, PLAN)
    plenty = forecast_item(costs, [form, form], PLAN, 1e6)
    assert plenty.keep == pytest.approx((2 * forecast.after_fit(), 2 * forecast.upper["score"]))
    assert plenty.total == pytest.approx(2 * forecast.seconds)
    assert plenty.silence == pytest.approx(max(MIN_SILENCE, SILENCE * 2 * forecast.most))
    short = forecast_item(costs, [form], TaskPlan(4000, 8, 1), 1.5 * forecast.after_fit())
    assert short.keep is not None
    assert short.keep[0] == pytest.approx(AFTER_FIT_SHARE * 1.5 * forecast.after_fit())
    assert short.seconds[0]["fit"] < 0.6 * forecast.after_fit()  # it will meet its deadline


@pytest.mark.parametrize("overrides", [["train.steps=0"], ["train.shared=true"], ["infer.score=false"]])
def test_phases_that_no_pass_goes_through_need_no_measurement(overrides: list[str]) -> None:
    settings, form = load_settings(overrides=overrides), shape(1000)
    costs, plan = CostModel(settings), full_plan(settings)
    assert not costs.measured
    done = passed(form, plan)
    missing = {"train.steps=0": "fit", "train.shared=true": "fit", "infer.score=false": "score"}[overrides[0]]
    costs.observe(form, plan, replace(done, seconds={phase: used for phase, used in done.seconds.items() if phase != missing}))
    assert costs.measured


def test_tasks_that_find_nothing_to_score_do_not_hold_up_planning() -> None:
    form, costs = shape(1000), CostModel(SETTINGS)
    done = passed(form, PLAN)
    done = replace(done, seconds={phase: used for phase, used in done.seconds.items() if phase != "score"})
    costs.observe(form, PLAN, done)
    assert not costs.measured
    for _ in range(LEARNING):
        costs.observe(form, PLAN, done)
    assert costs.measured


def test_new_plans_are_called_for_when_predictions_change_and_not_otherwise() -> None:
    costs, form, bare = CostModel(SETTINGS), shape(1000), TaskPlan(0, 8, 1)
    seen = [costs.version]
    for plan in (PLAN, *[bare] * 20):  # the fit is measured once and for all
        costs.observe(form, plan, passed(form, plan))
        seen.append(costs.version)
    assert seen[1] > seen[0]
    assert seen[-1] == seen[-10]
    slow = passed(form, bare)
    for _ in range(20):
        costs.observe(form, bare, replace(slow, seconds={phase: 2 * used for phase, used in slow.seconds.items()}))
    assert costs.version > seen[-1]
