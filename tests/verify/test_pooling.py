from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from solver.verify.pooling import POOLINGS, pool

VALUES = arrays(np.float32, st.integers(1, 20), elements=st.floats(0, 1, width=32))


@given(VALUES)
def test_scores_lie_between_the_smallest_and_the_largest_value(values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    for name in ("last", "mean", "min"):
        assert low - 1e-6 <= pool(name, values) <= high + 1e-6
    assert pool("min", values) == low
    assert math.exp(pool("product", values)) <= max(low, 1e-6) + 1e-6
    assert pool("product", values) <= 0


@given(VALUES, st.randoms())
def test_only_the_last_value_depends_on_the_order(values: np.ndarray, random: object) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for name in ("mean", "min", "product"):
        assert pool(name, shuffled) == pytest.approx(pool(name, values), rel=1e-6)
    assert pool("last", values) == values[-1]


@given(st.integers(1, 20), st.floats(0, 1, width=32))
def test_equal_values_give_that_value(count: int, value: float) -> None:
    values = np.full(count, value, np.float32)
    for name in ("last", "mean", "min"):
        assert pool(name, values) == pytest.approx(value)
    assert pool("product", values) == pytest.approx(count * math.log(max(value, 1e-6)), rel=1e-4)


def test_values_outside_of_0_to_1_are_bounded_in_a_product() -> None:
    assert pool("product", np.array([1.5, 2.0], np.float32)) == 0
    assert pool("product", np.array([-1.0, 1.0], np.float32)) == pytest.approx(math.log(1e-6))


def test_a_solution_without_tokens_ranks_last() -> None:
    assert {pool(name, np.zeros(0, np.float32)) for name in POOLINGS} == {float("-inf")}
