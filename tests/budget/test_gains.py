"""What work is worth: rising, told apart by tasks, learnt from passes with known answers, read from files that may be bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_record import made_task, prior_gains, shape

from solver.budget.gains import (
    PRIOR,
    VERSION,
    Gains,
    Last,
    Passed,
    fit,
    load_gains,
    save_gains,
    shipped_gains,
    trusted,
)
from solver.budget.replay import Found, RecordedTask, evidence, unfitted_trust
from solver.config import load_settings
from solver.errors import InputError

GAINS = prior_gains()
ONE = np.ones(1)


@given(tokens=st.floats(50, 9000), pairs=st.integers(1, 9), samples=st.integers(1, 16))
def test_chances_rise_ever_more_slowly(tokens: float, pairs: int, samples: int) -> None:
    form = shape(tokens, pairs)
    concave = Gains({**GAINS.parameters, "onset": -0.1})
    by_steps = concave.chance(form, np.arange(0, 400, 20.0), np.full(20, 8.0), samples)
    by_views = GAINS.chance(form, np.full(16, 60.0), np.arange(1, 17.0), samples)
    for chances in (by_steps, by_views):
        assert (chances > 0).all()
        assert (chances < 1).all()
        gained = np.diff(chances)
        assert (gained > 0).all()
        assert (np.diff(gained) <= 1e-12).all()


def test_a_late_onset_makes_the_first_steps_worth_little() -> None:
    late = Gains({**GAINS.parameters, "onset": 1.0, "scale": np.log(25.0)})
    gained = np.diff(late.chance(shape(300), np.arange(0, 100, 10.0), np.full(10, 8.0), 1))
    assert (gained > 0).all()
    assert gained[0] < gained[1] > gained[-1]


def test_tasks_differ() -> None:
    def chance(form: object) -> float:
        return float(GAINS.chance(form, 60 * ONE, 8 * ONE, 1)[0])  # type: ignore[arg-type]

    assert chance(shape(300)) > chance(shape(3000))
    assert chance(shape(300, same_size=True)) > chance(shape(300, same_size=False))
    assert float(GAINS.with_batch(16).chance(shape(300), 15 * ONE, ONE, 1)[0]) == pytest.approx(
        float(GAINS.chance(shape(300), 60 * ONE, ONE, 1)[0])
    )


def test_another_pass_is_worth_less_the_surer_and_the_longer_fitted_a_task_is() -> None:
    def again(agreement: float, waves: int = 1, steps: float = 30.0) -> float:
        return float(GAINS.again(shape(500), Last(agreement, steps, waves), 60 * ONE, 8 * ONE, 1)[0])

    assert again(1.0) == 0
    assert again(0.9, steps=0.0) > again(1.0, steps=0.0) > 0  # no fit has confirmed it
    assert again(0.0) > again(0.4) > again(0.9) > 0
    assert again(0.4) > again(0.4, waves=3) > 0
    assert again(0.4) > again(0.4, steps=300.0)
    assert GAINS.right(1.0) > 0.8 > 0.2 > GAINS.right(0.1)


def test_agreement_of_few_views_or_without_a_fit_is_not_trusted() -> None:
    for unfitted in (0.25, 1.0):
        assert trusted(1.0, 8, 60, 8, 60, unfitted) == trusted(1.0, 4, 30, 8, 60, unfitted) == 1.0
        assert trusted(1.0, 4, 0, 8, 0, unfitted) == 1.0  # no fit is planned at all
        assert trusted(1.0, 8, 0, 8, 60, unfitted) == unfitted
        assert trusted(1.0, 1, 60, 8, 60, unfitted) == 0.25
        assert trusted(0.5, 8, 60, 8, 60, unfitted) == 0.5


@pytest.mark.parametrize(("right", "trust"), [(1.0, 1.0), (0.6, 0.25)])
def test_agreement_without_a_fit_is_trusted_as_far_as_it_was_right(right: float, trust: float) -> None:
    """All views agree before and after a fit; after it they are always right."""

    def task(number: int) -> RecordedTask:
        def found(passes: tuple[tuple[int, int], ...]) -> Found:
            return Found(1.0 if passes[0][0] or number < 30 * right else 0.0, 1.0)

        return replace(made_task(number, np.random.default_rng(number)), found=found)

    tasks = [task(number) for number in range(30)]
    assert unfitted_trust(tasks) == trust
    assert unfitted_trust(tasks[:10]) == 0.25  # too few to tell


def passes(gains: Gains, tasks: int, seed: int) -> list[Passed]:
    rng = np.random.default_rng(seed)
    return [row for number in range(tasks) for row in evidence(made_task(number, rng, gains), load_settings(), gains.unfitted)]


def test_without_tasks_the_prior_stands() -> None:
    fitted = fit([], "nothing")
    assert fitted.parameters == GAINS.parameters
    assert fitted.fitted_on == "nothing"


def test_few_tasks_move_little_and_many_decide() -> None:
    truth = Gains({**GAINS.parameters, "ceiling": 1.5, "scale": np.log(120.0), "base": -5.0})
    few, many = fit(passes(truth, 3, 0), "3"), fit(passes(truth, 80, 1), "80")

    def error(gains: Gains) -> float:
        forms = [shape(tokens) for tokens in (200, 600, 1800)]
        steps = np.array([0.0, 15.0, 60.0, 240.0])
        gaps = [gains.chance(form, steps, np.full(4, 8.0), 1) - truth.chance(form, steps, np.full(4, 8.0), 1) for form in forms]
        return float(np.abs(gaps).mean())

    moved = {name: abs(few.parameters[name] - mean) / sd for name, (mean, sd) in PRIOR.items()}
    assert max(moved.values()) < 2
    assert error(many) < 0.6 * error(GAINS)
    assert error(many) < 0.07


def test_passes_weigh_the_same_under_however_many_views() -> None:
    task = made_task(0, np.random.default_rng(0))
    rows = evidence(task, load_settings(overrides=["train.batch_sequences=8"]), 0.25)
    firsts, later = ([row for row in rows if (row.before is None) == first] for first in (True, False))
    assert sum(row.weight for row in firsts) == pytest.approx(len(task.rungs))
    assert sum(row.weight for row in later) == pytest.approx(len(task.rungs) - 1)
    assert {row.views for row in firsts} == {1, 2, 4, 8}
    assert max(row.steps for row in rows) == 2 * max(rung.steps for rung in task.rungs)  # of four sequences, not eight
    assert all(row.before is not None and row.before.steps < row.steps for row in later)


def test_the_shipped_gains_can_be_read_and_say_what_they_are_from() -> None:
    own, by_path = shipped_gains(), shipped_gains(by_path=True)
    for shipped in (own, by_path):
        assert set(shipped.parameters) == set(PRIOR)
        assert shipped.fitted_on
    assert own.unfitted > by_path.unfitted


def test_files_come_back_as_they_were_saved(tmp_path: Path) -> None:
    save_gains(tmp_path / "gains.json", Gains(GAINS.parameters, fitted_on="12 tasks", unfitted=0.5))
    back = load_gains(tmp_path / "gains.json")
    assert back.parameters == GAINS.parameters
    assert back.fitted_on == "12 tasks"
    assert back.unfitted == 0.5
    with pytest.raises(InputError, match="cannot be written"):
        save_gains(tmp_path / "nowhere" / "gains.json", GAINS)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        json.dumps({"version": 99, "parameters": {}}),
        json.dumps({"version": VERSION, "parameters": {"ceiling": 1}}),
        json.dumps({"version": VERSION, "parameters": dict.fromkeys(PRIOR, True)}),
        json.dumps({"version": VERSION, "parameters": dict.fromkeys(PRIOR, float("inf"))}),
        json.dumps({"version": VERSION, "parameters": dict.fromkeys(PRIOR, 0.5), "unfitted": 2}),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gains.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"gains\.json"):
        load_gains(path)
