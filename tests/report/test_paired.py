from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.report.paired import Paired


def test_the_sign_test_is_exact() -> None:
    assert Paired(20, 5, 0).p() == pytest.approx(2 / 32)
    assert Paired(20, 7, 2).p() == pytest.approx(2 * (1 + 9 + 36) / 512)
    assert Paired(20, 3, 3).p() == Paired(20, 0, 0).p() == 1.0
    assert Paired(5000, 600, 400).p() < 1e-9


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_the_difference_is_that_of_the_shares(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    paired, reverse = Paired.of(first, second), Paired.of(second, first)
    total = max(1, len(pairs))
    assert paired.difference == pytest.approx((sum(first) - sum(second)) / total)
    assert (reverse.better, reverse.worse, reverse.p()) == (paired.worse, paired.better, paired.p())
    low, high = paired.interval()
    assert -1 <= low <= paired.difference <= high <= 1
    assert 0 < paired.p() <= 1


def test_the_interval_is_that_of_paired_shares() -> None:
    low, high = Paired(100, 20, 10).interval()
    reach = 1.96 * math.sqrt((0.3 - 0.01) / 100)
    assert (low, high) == (pytest.approx(0.1 - reach), pytest.approx(0.1 + reach))
    assert Paired(100, 20, 10).text() == "+10.0 points (-0.6 to +20.6), 20 better, 10 worse, p = 0.099, n = 100"
