"""The drift of a machine: what the last passes say of the next one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.budget.drift import MAX_LOG, Drift

SECONDS = st.floats(1e-3, 1e6)


def after(*passes: tuple[float, float]) -> float:
    drift = Drift()
    for predicted, used in passes:
        drift.add(predicted, used)
    return drift.factor


def test_a_machine_as_usual_has_none() -> None:
    assert after() == 1.0
    assert after((3.0, 3.0), (0.1, 0.1)) == pytest.approx(1.0)


@given(st.floats(0.6, 1.9), st.lists(SECONDS, min_size=20, max_size=30))
def test_a_lasting_change_is_found(slower: float, predicted: list[float]) -> None:
    assert after(*((one, slower * one) for one in predicted)) == pytest.approx(slower, rel=1e-2)


@given(SECONDS, SECONDS)
def test_one_pass_moves_it_a_little(predicted: float, used: float) -> None:
    assert abs(math.log(after((predicted, used)))) < MAX_LOG / 2


@pytest.mark.parametrize("nothing", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_without_two_durations_there_is_nothing_to_compare(nothing: tuple[float, float]) -> None:
    assert after((1.0, 1.5), nothing) == after((1.0, 1.5))
