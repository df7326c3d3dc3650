"""Rates from few measurements: right in the end, not led astray, honest about what is not known, and rising with the work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from solver.budget.regression import STRONG, WEAK, Regression

TRUE = np.array([0.5, 0.01, 3e-5, 2e-9])  # a fit, a step, a token, a token squared
FAR = np.array([5e-2, 2e-2, 4e-4, 6e-8])  # ten times off, each in its own way


def work(rng: np.random.Generator, length: float | None = None) -> np.ndarray:
    length = float(np.exp(rng.uniform(np.log(200), np.log(6000)))) if length is None else length
    steps = int(rng.integers(10, 100))
    return np.array([1.0, steps, steps * 4 * length, steps * 4 * length**2])


def learn(prior: np.ndarray, spread: object, seed: int, count: int, noise: float, outliers: float) -> tuple[list, list]:
    """(relative errors, whether within the upper quantile) of predictions before each of `count` measurements."""
    rng = np.random.default_rng(seed)
    model = Regression(prior, spread)  # type: ignore[arg-type]
    errors, within = [], []
    for number in range(count):
        amounts = work(rng, {0: 200.0, 1: 6000.0}.get(number))  # measured first on the shortest and the longest
        seconds = float(amounts @ TRUE) * np.exp(noise * rng.standard_t(3)) * (5 if rng.random() < outliers else 1)
        errors.append(abs(float(model.median(amounts)) - seconds) / seconds)
        within.append(seconds <= model.upper(amounts))
        model.add(amounts, seconds)
    return errors, within


@pytest.mark.parametrize("outliers", [0.0, 0.05])
def test_five_measurements_are_enough_however_far_the_prior(outliers: float) -> None:
    """The bar: a median error of at most 15 %, with heavy tails and a measurement in twenty five times too long."""
    errors = [learn(FAR, WEAK, seed, 15, 0.05, outliers)[0][5:] for seed in range(30)]
    assert np.median(errors) < 0.12


def test_more_measurements_are_better() -> None:
    errors = np.array([learn(FAR, WEAK, seed, 60, 0.03, 0.02)[0] for seed in range(30)])
    assert np.median(errors[:, 45:]) < 0.75 * np.median(errors[:, 3:9])
    assert np.median(errors[:, 45:]) < 0.045  # of which the noise alone is 0.023


@pytest.mark.parametrize(("prior", "spread"), [(FAR, WEAK), (TRUE * [1.2, 0.9, 1.1, 0.8], STRONG)])
def test_the_upper_quantile_is_one(prior: np.ndarray, spread: object) -> None:
    within = [seen for seed in range(40) for seen in learn(prior, spread, seed, 30, 0.08, 0.0)[1][2:]]
    assert 0.9 <= np.mean(within) <= 0.985


def test_an_outlier_moves_nothing() -> None:
    rng = np.random.default_rng(0)
    model, pulled = Regression(FAR, WEAK), Regression(FAR, WEAK)
    asked = work(np.random.default_rng(9))
    for number in range(12):
        amounts = work(rng)
        seconds = float(amounts @ TRUE) * float(np.exp(rng.normal(0, 0.03)))
        model.add(amounts, seconds)
        pulled.add(amounts, seconds * (30 if number == 8 else 1))
    assert float(pulled.median(asked)) == pytest.approx(float(model.median(asked)), rel=0.1)


def test_a_strong_prior_is_held_longer_than_a_weak_one() -> None:
    amounts = work(np.random.default_rng(0))
    models = [Regression(TRUE, spread) for spread in (STRONG, WEAK)]
    before = float(models[0].median(amounts))
    assert models[0].upper(amounts) < models[1].upper(amounts)
    for model in models:
        model.add(amounts, before * 3)
    strong, weak = (float(model.median(amounts)) / before for model in models)
    assert 1.2 < strong < weak < 3.01
    assert weak > 2.5


def test_a_machine_that_becomes_slower_is_followed() -> None:
    rng = np.random.default_rng(1)
    model = Regression(TRUE, STRONG)
    for number in range(160):
        amounts = work(rng)
        model.add(amounts, float(amounts @ TRUE) * (2.0 if number >= 60 else 1.0))
    asked = work(np.random.default_rng(9))
    assert float(model.median(asked)) == pytest.approx(2 * float(asked @ TRUE), rel=0.05)


@given(
    seconds=st.lists(st.floats(1e-6, 1e5), max_size=12),
    length=st.floats(10, 8000),
    more=st.floats(1.0, 4.0),
    seed=st.integers(0, 10**6),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_more_work_never_takes_less_time(seconds: list[float], length: float, more: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = Regression(FAR, WEAK)
    for taken in seconds:
        model.add(work(rng), taken)
    short, long = (np.array([1.0, 20.0, 80.0 * n, 80.0 * n**2]) for n in (length, length * more))
    assert 0 < model.median(short) <= model.median(long) * (1 + 1e-9)
    assert model.upper(short) > model.median(short)
    assert np.isfinite(model.upper(long))


def test_what_says_nothing_is_left_out() -> None:
    model = Regression(TRUE, WEAK)
    model.add(np.zeros(4), 3.0)
    model.add(work(np.random.default_rng(0)), float("nan"))
    model.add(np.array([1.0, np.inf, 1.0, 1.0]), 3.0)
    assert model.count == 0
    with pytest.raises(ValueError, match="none positive"):
        Regression([0.0, 0.0], WEAK)
    with pytest.raises(ValueError, match="finite"):
        Regression([1.0, float("nan")], WEAK)


def test_the_same_measurements_give_the_same_predictions() -> None:
    assert learn(FAR, WEAK, 3, 20, 0.1, 0.1) == learn(FAR, WEAK, 3, 20, 0.1, 0.1)
