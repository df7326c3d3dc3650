"""The reserve: what is asked for, else a share of the budget within limits, and more where writing is slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.budget.reserve import LATE, MAX_RESERVE, MIN_RESERVE, reserve_for_writes, reserve_seconds, writing_seconds


def test_what_is_asked_for_wins() -> None:
    assert reserve_seconds(0.5, 1e5) == 0.5
    assert reserve_seconds(60.0, 10.0) == 60.0


def test_a_share_within_limits() -> None:
    assert reserve_seconds(None, 60.0) == MIN_RESERVE
    assert reserve_seconds(None, 300.0) == 4.5
    assert reserve_seconds(None, 3600.0) == pytest.approx(27.6)
    assert reserve_seconds(None, 12 * 3600.0) == MAX_RESERVE
    assert reserve_seconds(None, float("inf")) == MAX_RESERVE


@given(st.floats(0.0, 1e6), st.floats(0.0, 1e6))
def test_a_longer_budget_keeps_more_seconds(one: float, other: float) -> None:
    short, long = sorted((one, other))
    assert reserve_seconds(None, short) <= reserve_seconds(None, long)


@given(st.floats(0.0, 100.0))
def test_what_writes_leave_of_it_is_enough_to_stop_in(seconds: float) -> None:
    assert reserve_for_writes(seconds) - writing_seconds(seconds) == pytest.approx(LATE)
    assert writing_seconds(seconds) >= 5 * seconds
    assert reserve_for_writes(0.0) <= MIN_RESERVE
