"""Compares ways to choose an answer: accuracy over the number of samples, and over the number of samples that vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from solver.report.scores import wilson
from solver.verify.ranking import Judged, best, majority, most_probable, vote_of_top, weighted_vote
from solver.verify.search import votes_for

Rule = Callable[[Sequence[Judged]], Judged | None]
Group = Sequence[Judged]  # the samples of one problem

SIZES = (1, 2, 5, 10, 25, 50, 100, 200, 400)  # samples
TOPS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 400)  # samples that vote

RULES: Mapping[str, Rule] = {
    "verifier": best,
    "verifier, vote of the top": lambda samples: vote_of_top(samples, votes_for(len(samples))),
    "verifier, weighted vote": weighted_vote,
    "majority vote": majority,
    "log-probability": most_probable,
}


@dataclass(frozen=True)
class Point:
    """How often an answer was right: `hits` of `total` problems. Hits are fractions where several draws were averaged."""

    at: int  # the number of samples, or of votes
    hits: float
    total: int

    @property
    def share(self) -> float:
        """0 to 1; 0 without problems."""
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval over problems."""
        return wilson(self.hits, self.total)


def solved(groups: Sequence[Group], rule: Rule) -> list[bool]:
    """Whether the rule chooses a right answer, by problem."""
    chosen = [rule(group) for group in groups]
    return [one is not None and one.correct for one in chosen]


def any_right(groups: Sequence[Group], size: int, draws: int = 8, seed: int = 0) -> Point:
    """How often one of `size` samples is right: what no rule can exceed (test@N)."""
    return _at(groups, size, draws, seed, lambda samples: next((one for one in samples if one.correct), None))


@dataclass(frozen=True)
class PairOrder:
    """How often a right sample has a higher score than a wrong one of the same problem: the mean over problems that have both.

    1/2 means that scores say nothing about which sample is right, however well they tell hard problems from easy ones.
    """

    share: float | None  # 0 to 1; None without such problems
    problems: int


def pair_order(groups: Sequence[Group], score: Callable[[Judged], float] = lambda one: one.score) -> PairOrder:
    """The order of right and wrong samples by `score`. Equal scores count half; samples without an answer do not count."""
    shares = []
    for group in groups:
        right, wrong = (np.array([score(one) for one in group if one.answer and one.correct is label]) for label in (True, False))
        if len(right) and len(wrong):
            above = np.sign(right[:, None] - wrong)
            shares.append(float(above.mean()) / 2 + 0.5)
    return PairOrder(float(np.mean(shares)) if shares else None, len(shares))


def over_samples(
    groups: Sequence[Group], rules: Mapping[str, Rule] = RULES, sizes: Sequence[int] = SIZES, draws: int = 8, seed: int = 0
) -> dict[str, list[Point]]:
    """For every rule its accuracy with N samples, for each N of `sizes` that every problem has.

    Where a problem has more than N samples, `draws` random choices of N are averaged. All rules see the same choices.
    """
    least = min((len(group) for group in groups), default=0)
    return {name: [_at(groups, size, draws, seed, rule) for size in sizes if size <= least] for name, rule in rules.items()}


def over_votes(groups: Sequence[Group], tops: Sequence[int] = TOPS) -> list[Point]:
    """The accuracy of a vote among the k best samples, for each k of `tops` that every problem has."""
    least = min((len(group) for group in groups), default=0)
    points = []
    for k in (k for k in tops if k <= least):
        right = sum(solved(groups, lambda samples, k=k: vote_of_top(samples, k)))  # type: ignore[misc]
        points.append(Point(k, float(right), len(groups)))
    return points


def _at(groups: Sequence[Group], size: int, draws: int, seed: int, rule: Rule) -> Point:
    rng = np.random.default_rng([seed, size])
    hits = 0.0
    for group in groups:
        times = draws if len(group) > size else 1
        chosen = [[group[n] for n in rng.permutation(len(group))[:size]] for _ in range(times)]
        hits += sum(solved(chosen, rule)) / times
    return Point(size, hits, len(groups))
