"""Selection: chooses two attempts from the candidates of one query and their scores.

A rule ranks the distinct grids among the candidates, best first. The order is total (the last tie-break compares cells), so the
same candidates give the same answer in whatever order they come.

Votes are pooled over waves, so pass every candidate of all waves. Likelihoods are not, because a score belongs to an adapter and
a view: pass the `newest_scores` of each run. Grids without such a score rank by votes, behind all that have one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.types import Candidate, Score

Rule = Callable[[Sequence[Candidate], Sequence[Score]], list[Grid]]

T = TypeVar("T")

BASELINE = 3.0  # nats a view adds to every candidate it scores, as published


def flat_vote(candidates: Sequence[Candidate], scores: Sequence[Score]) -> list[Grid]:
    """Most votes first: votes(g) = number of candidates equal to g; ties go to the highest log-probability of any of them.

    Self-consistency (Wang et al. 2022, arXiv 2203.11171) over views; `scores` are not used.
    """
    del scores
    return [group.grid for group in _by_votes(_groups(candidates, ()).values())]


def hierarchical_vote(candidates: Sequence[Candidate], scores: Sequence[Score]) -> list[Grid]:
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
    by_transform: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_transform[candidate.view.split("/")[0]].append(candidate)
    everyone = [candidate.grid for candidate in candidates]
    named = Counter(key for members in by_transform.values() for key in _top_three(members, everyone))
    identity = Counter(grid_key(candidate.grid) for candidate in by_transform["identity"])
    flat = [grid_key(grid) for grid in flat_vote(candidates, ())]
    place = {key: i for i, key in enumerate(flat)}
    # filled-in grids that no candidate holds come last among equals
    ranked = sorted(named, key=lambda key: (-named[key], -identity[key], place.get(key, len(flat)), key))
    return [grid_from_key(key) for key in (*ranked, *(key for key in flat if key not in named))]


def product_of_experts(candidates: Sequence[Candidate], scores: Sequence[Score]) -> list[Grid]:
    """Smallest summed negative log-likelihood first: argmin_g sum over experts (adapter, view) of nll(g | adapter, view).

    The product of the probabilities that all views give to g. An expert that did not score g (the deadline came first)
    counts with the mean of those that did, so that being scored less is no advantage.

    Source: Franzen, Disselhoff, Hartmann 2025, "Product of Experts with LLMs: Boosting Performance on ARC Is a Matter of
    Perspective" (arXiv 2505.07859), section on candidate selection.
    """
    return _by_likelihood(candidates, scores, lambda group: -group.mean_nll)


def architects(candidates: Sequence[Candidate], scores: Sequence[Score]) -> list[Grid]:
    """Highest sum of log-probabilities above a baseline b = 3 nats first, so that being found and scored often counts.

    value(g) = sum over candidates c equal to g of (b + logprob(c)) + sum over experts (adapter, view) of (b - nll(g | expert)).
    An expert that did not score g counts with the mean of those that did.

    Source: the ARChitects' solution of 2024 (da-fr/arc-prize-2024), rule "full_probmul_3".
    """
    experts = len({(score.adapter, score.view) for score in scores})

    def value(group: _Group) -> float:
        votes = sum(BASELINE + candidate.logprob for candidate in group.candidates)
        return votes + experts * (BASELINE - group.mean_nll)

    return _by_likelihood(candidates, scores, value)


def nvarc(candidates: Sequence[Candidate], scores: Sequence[Score]) -> list[Grid]:
    """Highest value first: value(g) = number of (adapter, view) that found g - mean over experts of nll(g | expert).

    Source: Sorokin and Puget 2025, "NVARC solution to ARC-AGI-2 2025", section 3.4.
    """
    return _by_likelihood(candidates, scores, lambda group: group.views - group.mean_nll)


RULES: dict[str, Rule] = {
    "flat_vote": flat_vote,
    "hierarchical_vote": hierarchical_vote,
    "product_of_experts": product_of_experts,
    "architects": architects,
    "nvarc": nvarc,
}


def select(rule: str, candidates: Sequence[Candidate], scores: Sequence[Score]) -> tuple[Grid, ...]:
    """The best two grids under the rule of that name; fewer only if there are fewer distinct ones. Raises KeyError."""
    return tuple(RULES[rule](candidates, scores)[:2])


def newest_scores(scores: Iterable[Score]) -> list[Score]:
    """The scores of one query by the adapter that scored last; `scores` come in the order in which they were made.

    Likelihoods under different adapters cannot be compared, so a grid that only an older adapter scored has no score. Of several
    scores of a grid under one view the last counts. Call it for each run before pooling runs.
    """
    made = list(scores)
    kept = {(grid_key(score.grid), score.view): score for score in made if score.adapter == made[-1].adapter}
    return list(kept.values())


def agreement(candidates: Sequence[Candidate], views: int = 0) -> float:
    """The weighted share of the top grid over the views, from 0 to 1; 0 without candidates.

    Each (adapter, view) has one vote and splits it over its candidates: evenly over samples, by probability over search
    results. `views`, if larger, is how many views were asked; those that found nothing count as disagreeing.
    """
    by_view: dict[tuple[str, str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_view[candidate.adapter, candidate.view, candidate.origin].append(candidate)
    share: dict[bytes, float] = defaultdict(float)
    for (_, _, origin), members in by_view.items():
        best = max(member.logprob for member in members)
        weights = [math.exp(member.logprob - best) if origin == "search" else 1.0 for member in members]
        for member, weight in zip(members, weights, strict=True):
            share[grid_key(member.grid)] += weight / sum(weights)
    return max(share.values(), default=0.0) / max(len(by_view), views, 1)


@dataclass
class _Group:
    """The candidates that hold the same grid, and its negative log-likelihood under each expert."""

    grid: Grid
    candidates: list[Candidate] = field(default_factory=list)
    nll: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def views(self) -> int:
        return len({(candidate.adapter, candidate.view) for candidate in self.candidates})

    @property
    def mean_nll(self) -> float:
        return math.fsum(self.nll.values()) / len(self.nll)

    @property
    def vote(self) -> tuple[int, float, bytes]:
        """Sorts groups best first under the flat vote."""
        return -len(self.candidates), -max(candidate.logprob for candidate in self.candidates), grid_key(self.grid)


def _groups(candidates: Sequence[Candidate], scores: Sequence[Score]) -> dict[bytes, _Group]:
    groups: dict[bytes, _Group] = {}
    for candidate in candidates:
        groups.setdefault(grid_key(candidate.grid), _Group(candidate.grid)).candidates.append(candidate)
    for score in scores:
        if group := groups.get(grid_key(score.grid)):
            group.nll[score.adapter, score.view] = score.nll
    return groups


def _by_votes(groups: Iterable[_Group]) -> list[_Group]:
    return sorted(groups, key=lambda group: group.vote)


def _by_likelihood(candidates: Sequence[Candidate], scores: Sequence[Score], value: Callable[[_Group], float]) -> list[Grid]:
    """Scored grids by falling value, ties by votes; then the others by votes."""
    groups = _groups(candidates, scores).values()
    scored = sorted((group for group in groups if group.nll), key=lambda group: (-value(group), group.vote))
    return [group.grid for group in (*scored, *_by_votes(group for group in groups if not group.nll))]


def _top_three(candidates: Sequence[Candidate], everyone: Sequence[Grid]) -> list[bytes]:
    """The three grids, by key, that one transform names; its most frequent grid is repeated if it has fewer."""
    groups = _by_votes(_groups(candidates, ()).values())
    votes = [group.grid for group in groups for _ in group.candidates]  # best first
    named = [grid_key(group.grid) for group in groups[:3]]
    by_columns = _row_majority([grid.T for grid in votes], [grid.T for grid in everyone]).T
    for majority in (_row_majority(votes, everyone), by_columns):
        key = grid_key(majority)
        if len(named) < 3 and key not in named:
            named.append(key)
    return named + [named[0]] * (3 - len(named))


def _row_majority(votes: Sequence[Grid], everyone: Sequence[Grid]) -> Grid:
    """A grid of the most frequent shape; each row is the most frequent row at its place, among votes of the same width."""
    rows, columns = _most_frequent([grid.shape for grid in votes], [grid.shape for grid in everyone])
    chosen = []
    for r in range(rows):
        here, anywhere = (
            [grid[r].tobytes() for grid in pool if grid.shape[0] > r and grid.shape[1] == columns] for pool in (votes, everyone)
        )
        chosen.append(np.frombuffer(_most_frequent(here, anywhere), dtype=np.uint8))
    return np.stack(chosen)


def _most_frequent(votes: Sequence[T], everyone: Sequence[T]) -> T:
    """The most frequent of `votes`; ties go to the most frequent among `everyone`, then to the first."""
    here, anywhere = Counter(votes), Counter(everyone)
    return max(here, key=lambda value: (here[value], anywhere[value]))
