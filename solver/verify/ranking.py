"""Chooses an answer among the samples of one problem: by the verifier's scores, by votes, by log-probability.

Every rule has a total order, so the same samples give the same answer in whatever order they come. Samples without an answer are
never chosen and have no vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Judged:
    """A sample with the score that the verifier gives it."""

    answer: str | None  # normalised
    correct: bool
    score: float
    logprob: float  # of the sample, nats


def ranked(samples: Sequence[Judged]) -> list[Judged]:
    """The samples that have an answer: highest score first, then highest log-probability, then by answer."""
    return sorted((one for one in samples if one.answer is not None), key=lambda one: (-one.score, -one.logprob, one.answer))


def best(samples: Sequence[Judged]) -> Judged | None:
    """The sample with the highest score."""
    return next(iter(ranked(samples)), None)


def vote_of_top(samples: Sequence[Judged], k: int) -> Judged | None:
    """The best sample of the answer that most of the `k` best samples have; ties go to the answer of the best sample.

    Source: Cobbe et al. 2021 (arXiv 2110.14168), section 4.3: a vote among the top verifier-ranked solutions.
    """
    return _most_frequent(ranked(samples)[:k])


def majority(samples: Sequence[Judged]) -> Judged | None:
    """A sample of the answer that most samples have; ties go to the answer of the most probable sample. Scores are not used.

    Source: self-consistency (Wang et al. 2022, arXiv 2203.11171).
    """
    return _most_frequent(_by_logprob(samples))


def most_probable(samples: Sequence[Judged]) -> Judged | None:
    """The sample with the highest log-probability."""
    return next(iter(_by_logprob(samples)), None)


def weighted_vote(samples: Sequence[Judged]) -> Judged | None:
    """The best sample of the answer whose samples have the highest sum of scores; scores below 0 count as 0.

    Source: Li et al. 2022 (arXiv 2206.02336), section 2.2: votes weighted by a verifier.
    """
    order = ranked(samples)
    sums: dict[str | None, float] = {}
    for one in order:
        sums[one.answer] = sums.get(one.answer, 0.0) + max(0.0, one.score)
    return max(order, key=lambda one: sums[one.answer], default=None)  # the first of equals


def _by_logprob(samples: Sequence[Judged]) -> list[Judged]:
    return sorted((one for one in samples if one.answer is not None), key=lambda one: (-one.logprob, one.answer, -one.score))


def _most_frequent(order: Sequence[Judged]) -> Judged | None:
    """The first sample of the most frequent answer; of equally frequent ones that which comes first."""
    votes = Counter(one.answer for one in order)
    return max(order, key=lambda one: votes[one.answer], default=None)
