from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.verify.compare import RULES, PairOrder, Point, any_right, over_samples, over_votes, pair_order, solved
from solver.verify.ranking import Judged, best, majority

RIGHT_LOW = Judged("1", True, 0.2, -3.0)
RIGHT_HIGH = Judged("1", True, 0.9, -3.0)
WRONG = Judged("2", False, 0.5, -1.0)
# the verifier is right on the first problem, the majority on the second
GROUPS = [[RIGHT_HIGH, WRONG, WRONG], [RIGHT_LOW, RIGHT_LOW, WRONG]]


def test_rules_are_compared_on_all_samples() -> None:
    assert {name: solved(GROUPS, rule) for name, rule in RULES.items()} == {
        "verifier": [True, False],
        "verifier, vote of the top": [True, False],
        "verifier, weighted vote": [False, False],
        "majority vote": [False, True],
        "log-probability": [False, False],
    }
    assert any_right(GROUPS, 3) == Point(3, 2.0, 2)


def test_the_accuracy_with_one_sample_is_the_share_of_right_ones() -> None:
    for points in over_samples(GROUPS, sizes=(1,), draws=2000).values():
        assert points[0].hits == pytest.approx(1 / 3 + 2 / 3, abs=0.05)
    assert any_right(GROUPS, 1, draws=2000).hits == pytest.approx(1.0, abs=0.05)


def test_sizes_that_a_problem_does_not_have_are_left_out() -> None:
    curves = over_samples(GROUPS, {"verifier": best, "majority vote": majority})
    assert {name: [point.at for point in points] for name, points in curves.items()} == {
        "verifier": [1, 2],
        "majority vote": [1, 2],
    }
    assert [point.at for point in over_votes(GROUPS)] == [1, 2, 3]
    assert over_samples([]) == {name: [] for name in RULES}


def test_pairs_of_a_right_and_a_wrong_sample_are_counted_within_problems() -> None:
    assert pair_order(GROUPS) == PairOrder(0.5, 2)  # the first problem's pairs are in order, the second's are not
    assert pair_order(GROUPS, lambda one: one.logprob) == PairOrder(0.0, 2)
    assert pair_order(GROUPS, lambda _: 0.0) == PairOrder(0.5, 2)
    easier = [[replace(one, score=one.score + 1) for one in GROUPS[0]], GROUPS[1]]
    assert pair_order(easier) == pair_order(GROUPS)
    without_answer = replace(WRONG, answer=None)
    assert pair_order([[RIGHT_LOW, without_answer], [RIGHT_LOW], [WRONG]]) == PairOrder(None, 0)


@given(
    st.lists(
        st.lists(st.builds(Judged, st.just("1"), st.booleans(), st.floats(0, 1), st.floats(-9, 0)), min_size=1, max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_no_rule_exceeds_any_right(groups: list[list[Judged]]) -> None:
    for size in range(1, min(map(len, groups)) + 1):
        most = any_right(groups, size)
        for points in over_samples(groups, sizes=(size,)).values():
            assert points[0].hits <= most.hits + 1e-9
            low, high = points[0].interval
            assert 0 <= low <= points[0].share <= high <= 1
