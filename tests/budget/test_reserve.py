"""The reserve: what is asked for, else a share of the budget within limits, and more where writing is slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.budget.reserve import (
    LATE,
    MAX_RESERVE,
    MIN_RESERVE,
    EndOfWork,
    reserve_for_writes,
    reserve_seconds,
    writing_seconds,
)
from solver.types import Deadline


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


def end_of_work(reserve: float | None, budget: float, grace: float = 15.0) -> EndOfWork:
    return EndOfWork(reserve, grace, Deadline(budget, lambda: 0.0))


def test_work_stops_before_workers_are_killed_and_both_before_the_end() -> None:
    short, long = end_of_work(None, 60.0), end_of_work(None, 12 * 3600.0)
    assert (short.work.at, short.last_call.at) == (58.0, 59.0)  # half of the reserve is for the last writes
    assert (long.work.at, long.last_call.at) == (12 * 3600.0 - 60.0, 12 * 3600.0 - 45.0)  # a worker may go on for 15 s


def test_slow_writes_move_both_forward_but_never_beyond_half_of_the_budget() -> None:
    end = end_of_work(None, 60.0)
    end.wrote(2.0)
    assert end.work.at == 60.0 - reserve_for_writes(2.0)
    assert end.last_call.at == 60.0 - writing_seconds(2.0)
    end.wrote(1.0)  # a quicker write changes nothing
    assert end.work.at == 60.0 - reserve_for_writes(2.0)
    end.wrote(20.0)
    assert end.work.at == end.last_call.at == 30.0


def test_a_reserve_that_was_asked_for_stays() -> None:
    end = end_of_work(4.0, 60.0)
    end.wrote(5.0)
    assert (end.work.at, end.last_call.at) == (56.0, 58.0)
