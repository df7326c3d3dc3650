"""Selection: chooses two attempts from the candidates of one query and their scores.

A rule ranks the distinct grids among the candidates, best first. The order is total (the last tie-break compares cells), so the
same candidates give the same answer in whatever order they come.

Votes are pooled over waves, so pass every candidate of all waves. Likelihoods are not, because a score belongs to an adapter and
a view: pass the `newest_scores` of each run. Grids without such a score rank by votes, behind all that have one.

A rule reads a `Tally`, in which the candidates are already counted, so a pass that adds a few candidates costs little to rank.

Rules rank the grids of the network alone. Where programs give answers, too, `choose` takes the two attempts from both by the
chances of `arc.ensemble`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from solver.arc.ensemble import SURE, shipped_ensemble
from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.tally import GridVotes, ScoreTable, Tally, rank
from solver.types import Candidate, Score

Rule = Callable[[Tally, Iterable[Score]], Iterable[Grid]]
Weighted = Sequence[tuple[Grid, int]]  # grids, and how many candidates hold each

T = TypeVar("T")

BASELINE = 3.0  # nats a view adds to every candidate it scores, as published


def flat_vote(tally: Tally, scores: Iterable[Score]) -> Iterator[Grid]:
    """Most votes first: votes(g) = number of candidates equal to g; ties go to the highest log-probability of any of them.

    Self-consistency (Wang et al. 2022, arXiv 2203.11171) over views; `scores` are not used.
    """
    del scores
    return (tally.grids[key].grid for *_, key in tally.ranks)


def hierarchical_vote(tally: Tally, scores: Iterable[Score]) -> list[Grid]:
    """Vote within each dihedral transform, then among the winners.

    Each transform names its three most frequent grids. If it has fewer distinct ones, its row-wise majority, then its
    column-wise majority (of the most frequent shape) fill up, then its most frequent grid is named again, so a unanimous
    transform gives it three votes. Ties within a majority, the rule among two predictions, go to what most candidates of
    all transforms show (the published code leaves them to chance). Grids rank by how often they were named; ties go to the
    one that more candidates of the identity transform hold, then to the flat vote. Grids never named follow by flat vote.
    `scores` are not used.

    Source: Akyurek et al. 2024 (arXiv 2411.07279), augmented inference with hierarchical voting, and its published code.
    """
    del scores
    transforms = {transform for group in tally.grids.values() for transform in group.transforms}
    everyone = [(group.grid, group.votes.number) for group in tally.grids.values()]
    named = Counter(key for transform in transforms for key in _top_three(tally, transform, everyone))
    place = {key: i for i, (*_, key) in enumerate(tally.ranks)}
    identity = {key: group.transforms["identity"].number for key, group in tally.grids.items() if "identity" in group.transforms}
    # filled-in grids that no candidate holds come last among equals
    ranked = sorted(named, key=lambda key: (-named[key], -identity.get(key, 0), place.get(key, len(place)), key))
    return [grid_from_key(key) for key in (*ranked, *(key for key in place if key not in named))]


def product_of_experts(tally: Tally, scores: Iterable[Score]) -> Iterator[Grid]:
    """Smallest summed negative log-likelihood first: argmin_g sum over experts (adapter, view) of nll(g | adapter, view).

    The product of the probabilities that all views give to g. An expert that did not score g (the deadline came first)
    counts with the mean of those that did, so that being scored less is no advantage.

    Source: Franzen, Disselhoff, Hartmann 2025, "Product of Experts with LLMs: Boosting Performance on ARC Is a Matter of
    Perspective" (arXiv 2505.07859), section on candidate selection.
    """
    return _by_likelihood(tally, scores, lambda _, nll: -nll)


def architects(tally: Tally, scores: Iterable[Score]) -> Iterator[Grid]:
    """Highest sum of log-probabilities above a baseline b = 3 nats first, so that being found and scored often counts.

    value(g) = sum over candidates c equal to g of (b + logprob(c)) + sum over experts (adapter, view) of (b - nll(g | expert)).
    An expert that did not score g counts with the mean of those that did.

    Source: the ARChitects' solution of 2024 (da-fr/arc-prize-2024), rule "full_probmul_3".
    """
    scores = list(scores)
    experts = len({(score.adapter, score.view) for score in scores})

    def value(group: GridVotes, nll: float) -> float:
        votes = math.fsum((BASELINE * group.votes.number, *group.logprobs))
        return votes + experts * (BASELINE - nll)

    return _by_likelihood(tally, scores, value)


def nvarc(tally: Tally, scores: Iterable[Score]) -> Iterator[Grid]:
    """Highest value first: value(g) = number of (adapter, view) that found g - mean over experts of nll(g | expert).

    Source: Sorokin and Puget 2025, "NVARC solution to ARC-AGI-2 2025", section 3.4.
    """
    return _by_likelihood(tally, scores, lambda group, nll: len(group.experts) - nll)


RULES: dict[str, Rule] = {
    "flat_vote": flat_vote,
    "hierarchical_vote": hierarchical_vote,
    "product_of_experts": product_of_experts,
    "architects": architects,
    "nvarc": nvarc,
}


@dataclass(frozen=True, eq=False)
class Choice:
    """The best two grids of a query; fewer only if there are fewer distinct ones."""

    grids: tuple[Grid, ...]
    by_programs: float = 0.0  # the chance that one of these grids is right and a program gives it
    confirmed: bool = False  # whether the best grid is the network's first, an exact program's, and right with a chance of `SURE`


def choose(rule: str, tally: Tally, scores: Iterable[Score]) -> Choice:
    """The best two grids: under the rule of that name, or with those of programs by their chances. Raises KeyError."""
    ranked = tuple(islice(RULES[rule](tally, scores), 2))
    if not tally.programs:
        return Choice(ranked)
    best = shipped_ensemble().chances(ranked, tally)[:2]
    return Choice(
        grids=tuple(one.grid for one in best),
        by_programs=math.fsum(one.chance for one in best if one.program is not None),
        confirmed=best[0].first and best[0].program is not None and best[0].program.exact and best[0].chance >= SURE,
    )


def select(rule: str, tally: Tally, scores: Iterable[Score]) -> tuple[Grid, ...]:
    """The grids of `choose`."""
    return choose(rule, tally, scores).grids


def newest_scores(scores: Iterable[Score]) -> list[Score]:
    """The scores of one query by the adapter that scored last; `scores` come in the order in which they were made.

    Likelihoods under different adapters cannot be compared, so a grid that only an older adapter scored has no score. Of several
    scores of a grid under one view the last counts. Call it for each run before pooling runs.
    """
    return ScoreTable.of(scores).newest()


def agreement(candidates: Sequence[Candidate], views: int = 0) -> float:
    """The weighted share of the top grid over the views, from 0 to 1; 0 without candidates of the network.

    Each (adapter, view) has one vote and splits it over its candidates: evenly over samples, by probability over search
    results. `views`, if larger, is how many views were asked; those that found nothing count as disagreeing.
    """
    by_view: dict[tuple[str, str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if candidate.program is None:  # a program is no view
            by_view[candidate.adapter, candidate.view, candidate.origin].append(candidate)
    share: dict[bytes, float] = defaultdict(float)
    for (_, _, origin), members in by_view.items():
        best = max(member.logprob for member in members)
        weights = [math.exp(member.logprob - best) if origin == "search" else 1.0 for member in members]
        for member, weight in zip(members, weights, strict=True):
            share[grid_key(member.grid)] += weight / sum(weights)
    return max(share.values(), default=0.0) / max(len(by_view), views, 1)


def _by_likelihood(tally: Tally, scores: Iterable[Score], value: Callable[[GridVotes, float], float]) -> Iterator[Grid]:
    """Scored grids by falling value, ties by votes; then the others by votes.

    `value` gets the votes of a grid and the mean of its negative log-likelihoods under the experts that scored it.
    """
    nlls: dict[bytes, dict[tuple[str, str], float]] = {}
    for score in scores:
        nlls.setdefault(grid_key(score.grid), {})[score.adapter, score.view] = score.nll
    scored = {
        key: (-value(tally.grids[key], math.fsum(nll.values()) / len(nll)), rank(key, tally.grids[key].votes))
        for key, nll in nlls.items()
        if key in tally.grids
    }
    others = (key for *_, key in tally.ranks if key not in scored)
    return (tally.grids[key].grid for key in chain(sorted(scored, key=lambda key: scored[key]), others))


def _top_three(tally: Tally, transform: str, everyone: Weighted) -> list[bytes]:
    """The three grids, by key, that one transform names; its most frequent grid is repeated if it has fewer."""
    ranks = sorted(rank(key, group.transforms[transform]) for key, group in tally.grids.items() if transform in group.transforms)
    votes = [(tally.grids[key].grid, -minus_count) for minus_count, _, key in ranks]  # best first
    named = [key for *_, key in ranks[:3]]
    by_columns = _row_majority([(grid.T, count) for grid, count in votes], [(grid.T, count) for grid, count in everyone]).T
    for majority in (_row_majority(votes, everyone), by_columns):
        key = grid_key(majority)
        if len(named) < 3 and key not in named:
            named.append(key)
    return named + [named[0]] * (3 - len(named))


def _row_majority(votes: Weighted, everyone: Weighted) -> Grid:
    """A grid of the most frequent shape; each row is the most frequent row at its place, among votes of the same width."""
    rows, columns = _most_frequent([(grid.shape, n) for grid, n in votes], [(grid.shape, n) for grid, n in everyone])
    chosen = []
    for r in range(rows):
        here, anywhere = (
            [(grid[r].tobytes(), n) for grid, n in pool if grid.shape[0] > r and grid.shape[1] == columns]
            for pool in (votes, everyone)
        )
        chosen.append(np.frombuffer(_most_frequent(here, anywhere), dtype=np.uint8))
    return np.stack(chosen)


def _most_frequent(votes: Sequence[tuple[T, int]], everyone: Sequence[tuple[T, int]]) -> T:
    """The value with the most of `votes`; ties go to the most among `everyone`, then to the first."""
    here, anywhere = _counts(votes), _counts(everyone)
    return max(here, key=lambda value: (here[value], anywhere[value]))


def _counts(weighted: Iterable[tuple[T, int]]) -> Counter[T]:
    counts: Counter[T] = Counter()
    for value, number in weighted:
        counts[value] += number
    return counts
