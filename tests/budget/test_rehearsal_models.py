"""Rehearsal models: paces between lengths, noise that is found again, faults as often as asked, courses in time."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.budget.prior import stored
from solver.budget.rehearsal import MIXES, DeviceSpeed, Faults, Noise, course, fit_noise, interpolate, summarise
from solver.types import TaskPlan

PACE = DeviceSpeed.of(stored())


def test_interpolation_meets_the_points_and_follows_a_power_law_between_and_beyond() -> None:
    curve = ((100, 1.0), (1000, 100.0))  # tokens squared
    assert interpolate(curve, 100) == 1.0
    assert interpolate(curve, 1000) == pytest.approx(100.0)
    assert interpolate(curve, 300) == pytest.approx(9.0)
    assert interpolate(curve, 2000) == pytest.approx(400.0)
    assert interpolate(curve, 10) == 1.0
    assert interpolate(((100, 2.0),), 999) == 2.0


def test_a_profile_without_a_phase_is_refused() -> None:
    profile = stored()
    variant = profile.variants[0]
    rows = tuple(row.model_copy(update={"decode_rate": None}) for row in variant.rows)
    broken = profile.model_copy(update={"variants": (variant.model_copy(update={"rows": rows}),)})
    with pytest.raises(ValueError, match="decode_rate"):
        DeviceSpeed.of(broken)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.8])
def test_noise_is_found_again(sigma: float) -> None:
    dice, true = Random(1), Noise(sigma=sigma, tail_share=0.0)
    pieces = [(work, 3e-4 * work**1.2 * true.of_work(dice)) for work in (dice.uniform(1e3, 1e5) for _ in range(400))]
    found = fit_noise([pieces])
    assert found.sigma == pytest.approx(sigma, rel=0.2)
    assert found.tail_share < 0.02


def test_a_tail_is_found_and_does_not_widen_the_rest() -> None:
    dice, true = Random(2), Noise(sigma=0.1, tail_share=0.08, tail_power=1.2)
    pieces = [(1000.0, true.of_work(dice)) for _ in range(800)]
    found = fit_noise([pieces])
    assert found.sigma == pytest.approx(0.1, rel=0.35)
    assert 0.03 < found.tail_share < 0.1
    assert 0.8 < found.tail_power < 2.5


def test_runs_of_different_speed_are_centred_apart() -> None:
    dice, noise = Random(3), Noise(sigma=0.1, tail_share=0.0)
    runs = [[(1000.0 + n, speed * noise.of_work(dice)) for n in range(60)] for speed in (1.0, 30.0)]
    assert fit_noise(runs).sigma < 0.2


def test_too_little_to_fit_noise_to() -> None:
    with pytest.raises(ValueError, match="too few"):
        fit_noise([[(1.0, 1.0)] * 7])


def test_faults_are_as_frequent_as_asked() -> None:
    dice, faults = Random(0), Faults(crash=0.1, nan=0.2)
    drawn = [faults.of_item(dice) for _ in range(5000)]
    assert drawn.count("crash") / 5000 == pytest.approx(0.1, abs=0.02)
    assert drawn.count("nan") / 5000 == pytest.approx(0.2, abs=0.02)
    assert set(drawn) == {"crash", "nan", None}
    assert all(MIXES["none"].of_item(dice) is None for _ in range(100))


def test_mixes_get_worse() -> None:
    names = ("crash", "stuck", "silent", "oom_fit", "oom_decode", "failed", "nan", "late", "failed_start", "poisoned")
    for name in names:
        shares = [getattr(MIXES[mix], name) for mix in ("none", "usual", "harsh", "hostile")]
        assert shares == sorted(shares)
        assert shares[-1] > 0
    assert max(faults.kill_seconds for faults in MIXES.values()) == 10.0


@given(
    steps=st.integers(0, 500),
    views=st.integers(0, 16),
    tokens=st.integers(20, 9000),
    answers=st.lists(st.integers(2, 930), min_size=1, max_size=3),
    slower=st.floats(0.05, 20.0),
    left=st.floats(-5.0, 5000.0),
    keep=st.none() | st.floats(0.0, 5000.0),
)
def test_a_course_stops_before_its_deadline_and_does_no_more_than_planned(
    steps: int, views: int, tokens: int, answers: list[int], slower: float, left: float, keep: float | None
) -> None:
    found = course(PACE, TaskPlan(steps, views, 1), tokens, answers, slower, left, keep)
    assert 0.0 <= found.seconds <= max(left, 0.0) + 1e-6
    assert 0 <= found.steps <= steps
    assert 0 <= found.views <= views
    assert not found.in_full or (found.steps, found.views) == (steps, views)
    assert min(found.prepare, found.fit, found.infer, found.score) >= 0.0


def test_with_time_a_course_is_complete_and_takes_what_the_pace_says() -> None:
    found = course(PACE, TaskPlan(10, 8, 1), 1000, [100], 1.0, 1e6)
    assert found.in_full
    assert found.fit == pytest.approx(PACE.fit + 10 * PACE.step_seconds(1000))
    assert course(PACE, TaskPlan(10, 8, 1), 1000, [100], 2.0, 1e6).infer == pytest.approx(2 * found.infer)


def test_nothing_cannot_be_summed_up() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarise([])
