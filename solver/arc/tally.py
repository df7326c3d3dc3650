"""The candidates and the scores of one query, counted as they arrive, so that selection need not read all of them again.

Both classes are values: `plus` gives a new one and leaves the old one as it is. It counts only what is new; what it copies are
tables with one entry for each distinct grid or adapter.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from solver.arc.grid import Grid, grid_key
from solver.types import Candidate, Program, Score

Rank = tuple[int, float, bytes]  # (-votes, -best log-probability, grid key): sorts grids best first under the flat vote


class Votes(NamedTuple):
    """How often a grid was found, and the highest log-probability that it was found with (nats)."""

    number: int
    best: float

    def plus(self, logprob: float) -> Votes:
        """With one candidate more. A log-probability that is not a number counts as the lowest."""
        return Votes(self.number + 1, logprob if logprob > self.best else self.best)


NO_VOTES = Votes(0, float("-inf"))


@dataclass(frozen=True, eq=False)
class GridVotes:
    """The candidates of a query that hold the same grid."""

    grid: Grid
    votes: Votes = NO_VOTES
    logprobs: tuple[float, ...] = ()  # of every candidate, nats
    experts: frozenset[tuple[str, str]] = frozenset()  # each (adapter, view) that found it
    transforms: Mapping[str, Votes] = field(default_factory=dict)  # by the dihedral transform of the view

    def plus(self, candidates: Iterable[Candidate]) -> GridVotes:
        """With more candidates of this grid."""
        votes, logprobs, experts, transforms = self.votes, list(self.logprobs), set(self.experts), dict(self.transforms)
        for candidate in candidates:
            votes = votes.plus(candidate.logprob)
            logprobs.append(candidate.logprob)
            experts.add((candidate.adapter, candidate.view))
            transform = candidate.view.split("/")[0]
            transforms[transform] = transforms.get(transform, NO_VOTES).plus(candidate.logprob)
        return GridVotes(self.grid, votes, tuple(logprobs), frozenset(experts), transforms)


@dataclass(frozen=True, eq=False)
class Tally:
    """The candidates of one query, by grid: votes of the network, and beside them programs, which have no votes."""

    grids: Mapping[bytes, GridVotes] = field(default_factory=dict)  # by grid key, in the order in which they were first found
    ranks: tuple[Rank, ...] = ()  # of every grid of the network, sorted
    programs: Mapping[bytes, Program] = field(default_factory=dict)  # by the key of the grid that they give

    @staticmethod
    def of(candidates: Iterable[Candidate]) -> Tally:
        """The tally of these candidates."""
        return Tally().plus(candidates)

    def plus(self, candidates: Iterable[Candidate]) -> Tally:
        """With more candidates. Of several programs that give the same grid the best counts, by `program_rank`."""
        new: dict[bytes, list[Candidate]] = {}
        programs = dict(self.programs)
        for candidate in candidates:
            key = grid_key(candidate.grid)
            if candidate.program is None:
                new.setdefault(key, []).append(candidate)
            else:
                programs[key] = min(programs.get(key, candidate.program), candidate.program, key=program_rank)
        if not new and programs == self.programs:
            return self
        grids, ranks = dict(self.grids), list(self.ranks)
        for key, group in new.items():
            before = grids.get(key)
            if before is not None:
                del ranks[bisect_left(ranks, rank(key, before.votes))]
            grids[key] = (before or GridVotes(group[0].grid)).plus(group)
            insort(ranks, rank(key, grids[key].votes))
        return Tally(grids, tuple(ranks), programs)


def rank(key: bytes, votes: Votes) -> Rank:
    """Where a grid stands under the flat vote: most votes first, then the highest log-probability, then by its cells."""
    return -votes.number, -votes.best, key


def program_rank(program: Program) -> tuple[bool, float, float, str]:
    """Sorts programs best first: exact ones, then those that more copies of the task agree with, then cheap ones."""
    return not program.exact, -program.agreement, program.cost, program.text


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of one query, by adapter."""

    adapter: str = ""  # that scored last
    by_adapter: Mapping[str, Mapping[tuple[bytes, str], Score]] = field(default_factory=dict)  # then by grid key and view

    @staticmethod
    def of(scores: Iterable[Score]) -> ScoreTable:
        """The table of these scores, in the order in which they were made."""
        return ScoreTable().plus(scores)

    def plus(self, scores: Iterable[Score]) -> ScoreTable:
        """With later scores. Of several scores of a grid under one view by one adapter the last counts."""
        new: dict[str, dict[tuple[bytes, str], Score]] = {}
        adapter = self.adapter
        for score in scores:
            adapter = score.adapter
            if adapter not in new:
                new[adapter] = dict(self.by_adapter.get(adapter, {}))
            new[adapter][grid_key(score.grid), score.view] = score
        return ScoreTable(adapter, {**self.by_adapter, **new}) if new else self

    def newest(self) -> list[Score]:
        """The scores by the adapter that scored last."""
        return list(self.by_adapter.get(self.adapter, {}).values())
