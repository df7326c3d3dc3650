"""Every primitive: one example by hand, and total, pure and bounded on any grid."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solver.programs.batch import Batch, Lists
from solver.programs.library import PRIMITIVES, for_colours
from solver.programs.lists import MAX_ITEMS
from tests.programs.primitive_examples import EXAMPLES
from tests.programs.program_values import batches, check_batch, check_lists, fresh, lists_of_grids, read, write

BY_NAME = {primitive.name: primitive for primitive in PRIMITIVES}
ON_GRIDS = [primitive for primitive in PRIMITIVES if primitive.takes == "grid"]
ON_LISTS = [primitive for primitive in PRIMITIVES if primitive.takes == "list"]
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def test_every_primitive_has_exactly_one_example() -> None:
    assert Counter(name for name, _, _ in EXAMPLES) == Counter(primitive.name for primitive in PRIMITIVES)


@pytest.mark.parametrize(("name", "before", "after"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_example(name: str, before: str, after: str) -> None:
    primitive = BY_NAME[name]
    value = read(before)
    given_value = value if primitive.takes == "grid" else Lists(value, np.array([len(value)]))
    result = primitive.apply(given_value)
    assert write(result if primitive.gives == "grid" else result.grids) == after


@QUICK
@given(batches())
def test_functions_on_grids_are_total_pure_and_bounded(batch: Batch) -> None:
    before = fresh(batch)
    for primitive in ON_GRIDS:
        result = primitive.apply(batch)
        if isinstance(result, Lists):
            check_lists(result, len(batch))
            assert (result.count <= MAX_ITEMS).all(), primitive.name
        else:
            check_batch(result, len(batch))
    assert write(batch) == write(before)


@QUICK
@given(lists_of_grids())
def test_functions_on_lists_are_total_pure_and_bounded(lists: Lists) -> None:
    before, counts = fresh(lists.grids), lists.count.copy()
    for primitive in ON_LISTS:
        result = primitive.apply(lists)
        if isinstance(result, Lists):
            check_lists(result, len(lists))
            assert (result.count <= lists.count).all(), primitive.name
        else:
            check_batch(result, len(lists))
    assert write(lists.grids) == write(before)
    assert np.array_equal(lists.count, counts)


@settings(QUICK, max_examples=4)
@given(st.lists(batches(), min_size=2, max_size=2))
def test_a_grid_has_the_same_result_in_any_company(pair: list[Batch]) -> None:
    one, other = pair
    joined = Batch.of(
        [*(one[i] for i in range(len(one))), *(other[i] for i in range(len(other)))],
        [*one.top.tolist(), *other.top.tolist()],
        [*one.left.tolist(), *other.left.tolist()],
    )
    for primitive in ON_GRIDS:
        alone, together = primitive.apply(one), primitive.apply(joined)
        if isinstance(alone, Lists):
            head = together.keep(together.owner < len(one)).grids
            assert write(head) == write(alone.grids), primitive.name
        else:
            assert write(together.select(np.arange(len(one)))) == write(alone), primitive.name


def test_functions_of_absent_colours_are_left_out() -> None:
    names = {primitive.name for primitive in for_colours({0, 3})}
    assert {"keep 3", "repair 0", "crop"} <= names
    assert "keep 4" not in names
