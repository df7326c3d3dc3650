"""Selection rules: each one worked by hand, and what all of them promise."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from arc_strategies import grids
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.grid import Grid, grid_key
from solver.arc.selection import RULES, agreement, newest_scores, select
from solver.arc.tally import ScoreTable, Tally
from solver.types import Candidate, Score

A, B, C, D = (np.array([[colour]], dtype=np.uint8) for colour in (1, 2, 3, 4))
NAMES = {grid_key(grid): name for name, grid in zip("ABCD", (A, B, C, D), strict=True)}
COLOURS = "0123456789"


def found(grid: Grid, view: str = "identity", logprob: float = -1.0, adapter: str = "", origin: str = "greedy") -> Candidate:
    return Candidate(grid, f"{view}/{COLOURS}/", logprob, origin, adapter)  # type: ignore[arg-type]


def scored(grid: Grid, nll: float, view: str = "identity", adapter: str = "") -> Score:
    return Score(grid, f"{view}/{COLOURS}/", nll, 2, adapter)


def ranking(rule: str, candidates: Sequence[Candidate], scores: Sequence[Score] = ()) -> str:
    return "".join(NAMES[grid_key(grid)] for grid in RULES[rule](Tally.of(candidates), scores))


def test_flat_vote_by_hand() -> None:
    # B twice; then A, C and D once each, of which C is the most probable
    candidates = [found(A, "rot90", -2.0), found(B, "rot180", -9.0), found(C, "flip_lr", -0.5), found(B), found(D, logprob=-3.0)]
    assert ranking("flat_vote", candidates) == "BCAD"


def test_hierarchical_vote_by_hand() -> None:
    """Eight votes for A under one transform weigh less than two transforms that agree on B and C."""
    candidates = [
        *[found(A, "rot90")] * 8,  # names A three times: nothing else to fill up with
        *[found(B, "identity"), found(C, "identity")],  # B, C, and B again (row and column majority of 1x1 grids: B)
        *[found(B, "flip_lr"), found(B, "flip_lr"), found(C, "flip_lr")],  # B, C, B
        *[found(C, "flip_ud"), found(B, "flip_ud"), found(D, "flip_ud")],  # B, C, D
    ]
    # A 3, B 2 + 2 + 1 = 5, C 3, D 1: of A and C, C is the one that the identity transform holds
    assert ranking("hierarchical_vote", candidates) == "BCAD"
    assert ranking("flat_vote", candidates) == "ABCD"


def test_hierarchical_vote_fills_up_with_majorities() -> None:
    def grid(*rows: str) -> Grid:
        return np.array([[int(c) for c in row] for row in rows], dtype=np.uint8)

    left, right, other = grid("12", "30"), grid("02", "34"), grid("12", "99")
    votes = [found(left, "rot90"), found(right, "rot90", -2.0), found(grid("55", "34"), "rot180"), found(other, "flip_lr")]
    ranked = RULES["hierarchical_vote"](Tally.of(votes), ())
    # rot90 names left and right; rows tie 1:1, and all candidates prefer 12 (2) to 02 (1) and 34 (2) to 30 (1), so the
    # row majority is 12/34; by columns, 13 (1) and 03 (1) tie again: left's comes first; 20 and 24 likewise, so `left`.
    # rot180 and flip_lr name their only grid three times; of left, right and 12/34, each named once, two have votes
    names = [grid_key(g) for g in ranked]
    assert set(names[:2]) == {grid_key(grid("55", "34")), grid_key(other)}
    assert names[2:] == [grid_key(left), grid_key(right), grid_key(grid("12", "34"))]


def test_hierarchical_vote_takes_majorities_of_the_most_frequent_shape() -> None:
    def column(*cells: int) -> Grid:
        return np.array(cells, dtype=np.uint8)[:, None]

    short, long = column(1, 2), column(1, 2, 3)
    votes = [found(short, "rot90", -1.0), found(long, "rot90", -2.0), found(column(1, 5, 3), "rot180")]
    # rot90: the shapes tie 1:1, of all candidates 3x1 is the most frequent: rows 1, 2 (of both) and 3 give `long` again;
    # by columns, only grids three high count: `long` again. So `short`, first by probability, is named twice
    ranked = [grid_key(g) for g in RULES["hierarchical_vote"](Tally.of(votes), ())]
    assert ranked == [grid_key(g) for g in (column(1, 5, 3), short, long)]


def test_product_of_experts_by_hand() -> None:
    candidates = [found(A), found(A, "rot90"), found(B), found(C, logprob=-0.1), found(C, "rot90"), found(D)]
    scores = [
        *[scored(A, 2.0), scored(A, 2.0, "rot90")],  # 4
        *[scored(B, 0.5), scored(B, 3.0, "rot90")],  # 3.5: the smallest sum although A has more votes
    ]
    assert ranking("product_of_experts", candidates, scores) == "BACD"


def test_an_expert_that_did_not_score_is_no_advantage() -> None:
    scores = [scored(A, 2.0), scored(A, 2.0, "rot90"), scored(B, 3.0)]  # sums 4 and 3, filled up 4 and 6
    assert ranking("product_of_experts", [found(A), found(B)], scores) == "AB"
    assert ranking("architects", [found(A), found(B)], scores) == "AB"


def test_architects_by_hand() -> None:
    candidates = [found(A, logprob=-1.0), found(A, "rot90", -2.0), found(B, logprob=-0.2)]
    scores = [scored(A, 2.5), scored(A, 2.5, "rot90"), scored(B, 0.5), scored(B, 1.0, "rot90")]
    # A: (3 - 1) + (3 - 2) + 0.5 + 0.5 = 4; B: (3 - 0.2) + 2.5 + 2 = 7.3
    assert ranking("architects", candidates, scores) == "BA"
    # found twice more, A gains (3 - 1) each time: 8
    assert ranking("architects", [*candidates, found(A, "flip_lr"), found(A, "flip_ud")], scores) == "AB"


def test_nvarc_by_hand() -> None:
    candidates = [found(A), found(A, "rot90"), found(A, "rot90"), found(B)]
    # A: 2 views - 2.5 = -0.5 (the second find under rot90 counts no more); B: 1 - 1 = 0
    scores = [scored(A, 2.0), scored(A, 3.0, "rot90"), scored(B, 0.5), scored(B, 1.5, "rot90")]
    assert ranking("nvarc", candidates, scores) == "BA"
    assert ranking("nvarc", [*candidates, found(A, "flip_lr")], scores) == "AB"


@pytest.mark.parametrize("rule", ["product_of_experts", "architects", "nvarc"])
def test_without_scores_votes_decide(rule: str) -> None:
    candidates = [found(A), found(B), found(B), found(C, logprob=-5.0)]
    assert ranking(rule, candidates) == ranking("flat_vote", candidates) == "BAC"
    assert ranking(rule, candidates, [scored(C, 50.0)]) == "CBA"


def candidate_lists() -> st.SearchStrategy[list[Candidate]]:
    views = st.sampled_from(["identity", "rot90", "flip_lr", "transpose"])
    logprobs = st.floats(-20, 0)
    return st.lists(st.builds(found, grids(2), views, logprobs, st.sampled_from(["", "a"])), max_size=10)


@given(candidates=candidate_lists(), data=st.data())
def test_promises_of_every_rule(candidates: list[Candidate], data: st.DataObject) -> None:
    distinct = {grid_key(candidate.grid): candidate.grid for candidate in candidates}
    pool = st.sampled_from([*distinct.values(), D])
    scores = data.draw(st.lists(st.builds(scored, pool, st.floats(0, 50), st.sampled_from(["rot90", "rot180"])), max_size=6))
    shuffled = data.draw(st.permutations(candidates))
    for name, rule in RULES.items():
        keys = [grid_key(grid) for grid in rule(Tally.of(candidates), scores)]
        assert len(set(keys)) == len(keys)
        assert set(distinct) <= set(keys)
        if name != "hierarchical_vote":  # which may fill in grids of its own
            assert set(keys) == set(distinct)
        assert [grid_key(grid) for grid in rule(Tally.of(shuffled), scores)] == keys
        chosen = select(name, Tally.of(candidates), scores)
        assert len(chosen) == min(2, len(keys))
        assert len({grid_key(grid) for grid in chosen}) == len(chosen)


@given(parts=st.lists(candidate_lists(), max_size=4), data=st.data())
def test_a_tally_in_parts_equals_one_at_once(parts: list[list[Candidate]], data: st.DataObject) -> None:
    tally, table = Tally(), ScoreTable()
    everything: list[Candidate] = []
    every_score: list[Score] = []
    for part in parts:
        before = tally.ranks, [group.votes for group in tally.grids.values()]
        more = data.draw(
            st.lists(st.builds(scored, st.sampled_from([A, B]), st.floats(0, 50), adapter=st.sampled_from("ab")), max_size=4)
        )
        longer, table = tally.plus(part), table.plus(more)
        assert (tally.ranks, [group.votes for group in tally.grids.values()]) == before  # the old one stays as it was
        tally = longer
        everything += part
        every_score += more
    whole = Tally.of(everything)
    assert tally.ranks == whole.ranks == tuple(sorted(whole.ranks))
    assert list(tally.grids) == list(whole.grids)
    for one, other in zip(tally.grids.values(), whole.grids.values(), strict=True):
        assert (one.votes, one.logprobs, one.experts, one.transforms) == (
            other.votes,
            other.logprobs,
            other.experts,
            other.transforms,
        )
    assert table.newest() == newest_scores(every_score)


def test_a_log_probability_that_is_not_a_number_ranks_last() -> None:
    tally = Tally.of([found(A, logprob=math.nan), found(B, logprob=-9.0)]).plus([found(C, logprob=math.nan)])
    assert "".join(NAMES[key] for *_, key in tally.ranks) == "BAC"
    longer = tally.plus([found(A, logprob=math.nan)])
    assert "".join(NAMES[key] for *_, key in longer.ranks) == "ABC"


def test_an_unknown_rule() -> None:
    with pytest.raises(KeyError):
        select("best", Tally.of([found(A)]), ())


def test_newest_scores_by_hand() -> None:
    scores = [
        *[scored(A, 1.0, adapter="w0"), scored(A, 2.0, "rot90", "w0"), scored(B, 3.0, adapter="w0")],
        *[scored(A, 4.0, adapter="w1"), scored(C, 6.0, adapter="w1"), scored(A, 5.0, adapter="w1")],  # A twice, B never
    ]
    kept = newest_scores(scores)
    assert [(NAMES[grid_key(s.grid)], s.adapter, s.nll) for s in kept] == [("A", "w1", 5.0), ("C", "w1", 6.0)]
    # B, better under the old adapter than A and C under the new one, has most votes but ranks behind both
    assert ranking("product_of_experts", [found(A), found(B), found(B), found(C), found(D)], kept) == "ACBD"
    assert newest_scores([]) == []


def test_agreement_by_hand() -> None:
    assert agreement([]) == 0.0
    assert agreement([found(A), found(A, "rot90"), found(B, "rot180")]) == pytest.approx(2 / 3)
    # samples: each view splits its vote: A 2/3 + 0, B 1/3 + 1
    samples = [
        found(A, origin="sample"),
        found(A, origin="sample"),
        found(B, origin="sample"),
        found(B, "rot90", origin="sample"),
    ]
    assert agreement(samples) == pytest.approx((1 / 3 + 1) / 2)
    # search: by probability, 0.6 : 0.2 = 3/4 and 1/4
    searched = [found(A, logprob=math.log(0.6), origin="search"), found(B, logprob=math.log(0.2), origin="search")]
    assert agreement(searched) == pytest.approx(0.75)
    assert agreement(searched, views=3) == pytest.approx(0.25)
    # two waves: an adapter's view is a vote of its own
    assert agreement([found(A, adapter="w0"), found(B, adapter="w1"), found(B, adapter="w2")]) == pytest.approx(2 / 3)
