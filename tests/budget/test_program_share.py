"""How many processes search for programs, and how their time is divided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.budget.program_share import MIN_SECONDS, SHARE_BESIDE, ProcessCount, ProgramTime, program_processes

PLENTY = 1e12  # bytes


@pytest.mark.parametrize(
    ("cores", "workers", "on_gpu", "count", "beside"),
    [
        (2, 0, False, 2, False),  # program search alone has every core
        (2, 1, False, 1, True),
        (1, 1, False, 1, True),
        (8, 1, False, 4, True),
        (4, 2, True, 1, False),  # two GPUs: a core for each worker, one for the supervisor
        (48, 4, True, 43, False),
        (4, 4, True, 1, False),
    ],
)
def test_processes_by_cores(cores: int, workers: int, on_gpu: bool, count: int, beside: bool) -> None:
    assert program_processes(None, cores, workers, on_gpu, PLENTY) == ProcessCount(count, beside)
    assert program_processes(3, cores, workers, on_gpu, PLENTY).count == 3


def test_processes_by_memory() -> None:
    found = program_processes(4, 8, 1, False, 2.5e9)
    assert found.count == 2
    assert "2.5 GB of host memory are free, a process needs 1.2 GB: 2 of 4 processes are started" in found.note
    assert program_processes(None, 8, 1, False, -1.0).count == 0


def test_time_beside_workers_is_a_share_and_what_is_left_flows_on() -> None:
    time = ProgramTime(5.0, processes=1, beside=True)
    assert time.seconds(100.0, 20, 0.0) == pytest.approx(SHARE_BESIDE * 100.0 / 20)
    time.used = 4.0
    assert time.seconds(90.0, 18, 0.0) == pytest.approx((SHARE_BESIDE * 100.0 - 4.0) / 18)
    assert time.seconds(90.0, 2, 0.0) == 5.0  # the most
    assert time.seconds(90.0, 18, 35.9) is None
    time.used = 40.0
    assert time.seconds(50.0, 18, 0.0) is None


def test_idle_cores_search_longer() -> None:
    assert ProgramTime(None, 1, beside=True).seconds(1000.0, 2, 0.0) == 2.0
    assert ProgramTime(None, 1, beside=False).seconds(1000.0, 2, 0.0) == 10.0


def test_many_tasks_in_little_time_get_the_least_that_is_worth_it() -> None:
    assert ProgramTime(5.0, 1, beside=True).seconds(60.0, 400, 0.0) == MIN_SECONDS


@given(st.floats(0, 1e5), st.integers(1, 500), st.floats(0, 1e5), st.integers(1, 64), st.booleans())
def test_no_search_is_planned_beyond_the_end(left: float, waiting: int, committed: float, processes: int, beside: bool) -> None:
    seconds = ProgramTime(20.0, processes, beside).seconds(left, waiting, committed)
    assert seconds is None or 0 < seconds <= min(20.0, max(left, 0.0))
