"""Parts of the engines by themselves: grammar, bookkeeping of the shared-prefix cache, random numbers, pace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.codec import grid_codec
from solver.infer.cache import arrangement, by_slot, compaction
from solver.infer.grammar import STATE, GridMachine
from solver.infer.pace import Pace
from solver.infer.token_choice import _uniform


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 30), columns=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_grammar_accepts_every_grid_and_ends_only_whole_lines(rows: int, columns: int, seed: int) -> None:
    codec = grid_codec()
    machine = GridMachine(codec.grammar, 16)
    answer = codec.encode_answer(np.random.default_rng(seed).integers(0, 10, (rows, columns)).astype(np.uint8))
    state = np.zeros((1, STATE), dtype=np.int16)
    for at, token in enumerate(answer):
        allowed = set(machine.columns[machine.allowed(state)[0]].tolist())
        assert token in allowed
        for other in allowed & {codec.newline, codec.end}:
            if other == codec.end:
                assert codec.decode_answer(np.append(answer[:at], codec.end)) is not None
        if token != codec.end:
            machine.advance(state, np.array([token]))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_the_grammar_allows_ends_as_a_grid(seed: int) -> None:
    codec = grid_codec()
    machine = GridMachine(codec.grammar, 16)
    state = np.zeros((1, STATE), dtype=np.int16)
    ids: list[int] = []
    for choice in np.random.default_rng(seed).integers(0, 10**6, 930):
        allowed = machine.columns[machine.allowed(state)[0]]
        assert len(allowed)
        ids.append(int(allowed[choice % len(allowed)]))
        if ids[-1] == codec.end:
            break
        machine.advance(state, np.array(ids[-1:]))
    assert codec.decode_answer(ids) is not None


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 40), data=st.data())
def test_compaction_keeps_exactly_the_items_that_were_not_dropped(count: int, data: st.DataObject) -> None:
    dropped = np.array(sorted(data.draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=count) if count else st.just(set()))))
    dropped = dropped.astype(np.int64)
    items = np.arange(count)
    holes, movers = compaction(count, dropped)
    items[holes] = items[movers]
    assert sorted(items[: count - len(dropped)]) == sorted(set(range(count)) - set(dropped.tolist()))


@settings(deadline=None, max_examples=50)
@given(sources=st.lists(st.integers(0, 12), max_size=15))
def test_arrangement_is_a_permutation_that_leaves_in_place_what_it_can(sources: list[int]) -> None:
    order = arrangement(np.array(sources, dtype=np.int64))
    assert sorted(order) == list(range(len(sources)))
    assert all(sources[order[place]] == place for place in set(sources) if place < len(sources))


@settings(deadline=None, max_examples=50)
@given(slot_of=st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_by_slot_places_every_row_in_its_slot_once(slot_of: list[int]) -> None:
    rows = np.array(slot_of)
    width, gather, place = by_slot(rows, 6)
    assert (gather[place] == np.arange(len(rows))).all()
    assert (place // width == rows).all()
    assert len(set(place.tolist())) == len(rows)


def test_random_numbers_are_uniform_and_depend_only_on_key_and_counter() -> None:
    keys = np.random.SeedSequence(0).generate_state(200, np.uint64)
    block = np.stack([_uniform(keys, np.full(200, place)) for place in range(500)], 1)
    np.testing.assert_array_equal(_uniform(keys[7:8], np.array([123])), block[7, 123])
    assert block.min() >= 0
    assert block.max() < 1
    counts, _ = np.histogram(block, 50, (0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 49 + 4 * np.sqrt(98)
    assert abs(np.corrcoef(block[:-1].ravel(), block[1:].ravel())[0, 1]) < 0.02


def test_pace_predicts_a_pass_from_recent_ones_of_similar_size() -> None:
    now = [0.0]
    pace = Pace()

    def passed(size: int, seconds: float) -> None:
        with pace.measure("step", size, lambda: now[0]):
            now[0] += seconds

    assert pace.reach("step", 5) == 0
    passed(10, 1.0)
    assert pace.reach("step", 3) == 1.0
    assert pace.reach("step", 20) == 2.0
    passed(100, 4.0)
    assert pace.reach("step", 100) == 4.0
    assert pace.reach("step", 200) == 8.0
    assert pace.reach("step", 10) == 4.0  # the longest of all passes at least half as large
    assert pace.reach("prefill", 10) == 0
    with pytest.raises(ZeroDivisionError), pace.measure("broken", 1, lambda: now[0]):
        _ = 1 / 0
    assert pace.reach("broken", 1) == 0
