"""The reserve: what is asked for, else a share of the budget within limits, and more where writing is slow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solver.budget.reserve import CLOSING, LAST_WRITES, LEAST, MOST, reserve_for_writes, reserve_seconds


def test_what_is_asked_for_wins() -> None:
    assert reserve_seconds(0.5, 1e5) == 0.5
    assert reserve_seconds(60.0, 10.0) == 60.0


def test_a_share_within_limits() -> None:
    assert reserve_seconds(None, 60.0) == LEAST
    assert reserve_seconds(None, 300.0) == 7.5
    assert reserve_seconds(None, 12 * 3600.0) == MOST
    assert reserve_seconds(None, float("inf")) == MOST


@given(st.floats(0.0, 100.0))
def test_half_of_it_is_enough_for_the_last_writes(seconds: float) -> None:
    assert reserve_for_writes(seconds) / 2 >= CLOSING + LAST_WRITES * seconds
    assert reserve_for_writes(0.0) <= LEAST
