"""How many tasks an item takes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.budget.chunk import ALONE, HANDOVER_SHARE, MAX_CHUNK, TIME_SHARE, Chunk, Chunks, choose_chunk
from solver.messages import Turns

DAY = 86400.0
TURNS = Turns(handover=12.5, sequences=256, adapter_bytes=33_000_000, adapter_room=16_000_000_000)


def test_nothing_speaks_for_more_than_one_where_all_stay_and_nothing_is_idle() -> None:
    assert choose_chunk(Turns(), 30.0, 8, DAY, 400, 1) == ALONE
    assert choose_chunk(Turns(adapter_bytes=10**9, adapter_room=10**10), 30.0, 8, DAY, 400, 1) == ALONE


def test_changing_hands_is_a_few_percent_of_a_chunk() -> None:
    chunk = choose_chunk(Turns(handover=10.0), 30.0, 8, 10 * DAY, 400, 1)
    assert chunk.size == 8
    assert 10.0 / (10.0 + chunk.size * 30.0) <= HANDOVER_SHARE < 10.0 / (10.0 + (chunk.size - 1) * 30.0)
    assert "10.0 s" in chunk.reason


def test_an_engine_is_filled() -> None:
    chunk = choose_chunk(Turns(sequences=256), 5.0, 16, DAY, 400, 1)
    assert chunk.size == 16
    assert "256 sequences" in chunk.reason


@pytest.mark.parametrize(
    ("turns", "left", "tasks", "workers", "size", "why"),
    [
        (Turns(60.0), 3000.0, 400, 1, 10, "3000 s are left"),
        (Turns(60.0), 100.0, 400, 1, 1, "100 s are left"),
        (Turns(60.0), DAY, 40, 4, 5, "40 tasks are left for 4 workers"),
        (Turns(60.0, adapter_bytes=10**9, adapter_room=16 * 10**9), DAY, 400, 1, 4, "1000.0 MB and the disk has 16.0 GB"),
        (Turns(60.0, adapter_bytes=10**9, adapter_room=10**8), DAY, 400, 1, 1, "1000.0 MB and the disk has 0.1 GB"),
        (Turns(6000.0), 100 * DAY, 4000, 1, MAX_CHUNK, "at most 64"),
    ],
)
def test_bounds(turns: Turns, left: float, tasks: int, workers: int, size: int, why: str) -> None:
    chunk = choose_chunk(turns, 30.0, 8, left, tasks, workers)
    assert chunk.size == size
    assert why in chunk.reason


@given(
    handover=st.floats(0, 1e4),
    sequences=st.integers(1, 1024),
    adapter=st.integers(0, 10**10),
    room=st.integers(0, 10**12),
    seconds=st.floats(1e-3, 1e4),
    asked=st.integers(1, 1000),
    left=st.floats(0, 1e6),
    tasks=st.integers(1, 1000),
    workers=st.integers(1, 8),
)
def test_always_one_to_the_most_and_inside_the_time(
    handover: float, sequences: int, adapter: int, room: int, seconds: float, asked: int, left: float, tasks: int, workers: int
) -> None:
    turns = Turns(handover, sequences, adapter, room)
    chunk = choose_chunk(turns, seconds, asked, left, tasks, workers)
    assert 1 <= chunk.size <= min(MAX_CHUNK, tasks)
    assert chunk.size == 1 or chunk.size * seconds <= TIME_SHARE * left * (1 + 1e-9)
    assert chunk.size == 1 or chunk.size * adapter * workers <= room
    assert "\n" not in chunk.reason
    assert choose_chunk(turns, seconds, asked, left / 2, tasks, workers).size <= chunk.size
    longer = choose_chunk(replace(turns, handover=2 * handover), seconds, asked, left, tasks, workers)
    assert longer.size >= chunk.size


def test_nothing_is_known_before_a_worker_and_a_task() -> None:
    chunks = Chunks(None, 8)
    assert chunks.choose(DAY, 400, 1) == ALONE
    assert not chunks.in_question
    chunks.meet(TURNS)
    assert chunks.in_question
    assert chunks.choose(DAY, 400, 1) == ALONE
    chunks.observe(40.0 + 12.5, 1)
    assert chunks.choose(DAY, 400, 1).size == 32  # 256 sequences
    assert Chunks(None, 8).choose(DAY, 400, 0) == ALONE


def test_handing_over_is_not_counted_as_the_task_s() -> None:
    alone, many = Chunks(None, 256), Chunks(None, 256)
    for chunks, seconds, tasks in ((alone, 42.5, 1), (many, 31.25, 10)):
        chunks.meet(TURNS)
        chunks.observe(seconds, tasks)
    assert alone.choose(DAY, 400, 1) == many.choose(DAY, 400, 1)
    assert alone.choose(DAY, 400, 1).size == math.ceil(12.5 * 24 / 30)


def test_the_setting_overrules() -> None:
    chunks = Chunks(3, 8)
    chunks.meet(TURNS)
    chunks.observe(1.0, 1)
    assert chunks.choose(1.0, 1, 9).size == 3
    assert not chunks.in_question


def test_a_trainer_that_advances_many_tasks_by_one_step_gets_them() -> None:
    shared = Turns(fits=45)
    chunk = choose_chunk(shared, 5.0, 8, DAY, 400, 1)
    assert chunk == Chunk(45, "one step of the trainer advances 45 tasks")
    assert choose_chunk(Turns(fits=4, sequences=256), 5.0, 8, DAY, 400, 1).size == 32  # the engine wants more
    assert choose_chunk(Turns(fits=4), 5.0, 8, DAY, 2, 1).size == 1  # of two tasks, one for each of two items


def test_items_grow_while_tasks_share_steps_though_one_alone_took_long() -> None:
    """On a GPU an item of many tasks takes about as long as one task: here 3 seconds, and 0.02 more for each task."""
    chunks, left, sizes = Chunks(None, 8), 100.0, []
    chunks.meet(Turns(fits=45))
    while left > 0:
        size = chunks.choose(left, 400, 1).size
        sizes.append(size)
        seconds = 3.0 + 0.02 * size
        left -= seconds
        chunks.observe(seconds / size, size)
    assert sizes[0] == 1
    assert sizes[:8] == sorted(sizes[:8])
    assert max(sizes) == 45
    assert sum(sizes) > 400


def test_items_do_not_grow_into_time_that_is_not_there() -> None:
    chunks = Chunks(None, 8)
    chunks.meet(Turns(fits=45))
    chunks.observe(10.0, 4)
    assert chunks.choose(200.0, 400, 1).size == 8  # 80 of 200 s at the old price
    assert chunks.choose(150.0, 400, 1).size == 1
