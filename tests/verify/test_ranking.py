from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from solver.verify.ranking import Judged, best, majority, most_probable, ranked, vote_of_top, weighted_vote

# few different numbers, so that ties are frequent
NUMBERS = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0])
JUDGED = st.builds(
    lambda answer, score, logprob: Judged(answer, answer == "1", score, logprob),
    st.sampled_from([None, *"123"]),
    NUMBERS,
    NUMBERS,
)
SAMPLES = st.lists(JUDGED, max_size=9)


@given(SAMPLES, st.integers(1, 10), st.randoms())
def test_the_order_of_the_samples_does_not_matter(samples: list[Judged], k: int, random: object) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for rule in (best, majority, most_probable, weighted_vote, lambda them: vote_of_top(them, k)):
        assert rule(shuffled) == rule(samples)
    assert ranked(shuffled) == ranked(samples)


@given(SAMPLES)
def test_rules_agree_with_their_definitions(samples: list[Judged]) -> None:
    answered = [one for one in samples if one.answer is not None]
    if not answered:
        assert best(samples) is majority(samples) is most_probable(samples) is weighted_vote(samples) is None
        return
    found = [best(samples), most_probable(samples), majority(samples), weighted_vote(samples)]
    assert all(one in answered for one in found)
    assert found[0].score == max(one.score for one in answered)  # type: ignore[union-attr]
    assert found[1].logprob == max(one.logprob for one in answered)  # type: ignore[union-attr]
    votes = Counter(one.answer for one in answered)
    assert votes[found[2].answer] == max(votes.values())  # type: ignore[union-attr]
    tied = [one for one in answered if votes[one.answer] == max(votes.values())]
    assert found[2].logprob == max(one.logprob for one in tied)  # type: ignore[union-attr]
    sums = {answer: sum(max(0.0, one.score) for one in answered if one.answer == answer) for answer in votes}
    assert sums[found[3].answer] >= max(sums.values()) - 1e-9  # type: ignore[union-attr]


@given(SAMPLES, st.integers(1, 10))
def test_the_vote_of_the_top_k_agrees_with_counting(samples: list[Judged], k: int) -> None:
    top = ranked(samples)[:k]
    votes = Counter(one.answer for one in top)
    expected = next((one for one in top if votes[one.answer] == max(votes.values())), None)
    assert vote_of_top(samples, k) == expected
    assert vote_of_top(samples, 1) == vote_of_top(samples, 2) == best(samples)
