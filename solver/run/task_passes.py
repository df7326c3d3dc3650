"""What follows from the passes over one task and from its program search.

It is kept up to date at a cost that grows with the new pass and not with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from solver.arc.selection import Choice, agreement, choose
from solver.arc.submission import Attempts, two_attempts
from solver.arc.tally import ScoreTable, Tally
from solver.arc.task import Task
from solver.types import AdapterRef, Candidate, KnownGrid, QueryOutcome, Status, TaskOutcome


@dataclass(frozen=True, eq=False)
class QueryResults:
    """What all passes found for one query."""

    tally: Tally = field(default_factory=Tally)
    scores: ScoreTable = field(default_factory=ScoreTable)
    agreement: float | None = None  # in the latest pass that found candidates for it; None: no pass did

    def plus(self, query: QueryOutcome) -> QueryResults:
        """With what a later pass found."""
        share = agreement(query.candidates, query.views) if query.candidates else self.agreement
        return QueryResults(self.tally.plus(query.candidates), self.scores.plus(query.scores), share)


@dataclass(frozen=True, eq=False)
class TaskResults:
    """What some passes over one task came to; `plus` adds the next one."""

    queries: tuple[QueryResults, ...]
    waves: int = 0  # the last wave, plus one
    status: Status | None = None  # of the last pass
    done: bool = False  # whether a pass did not fail
    steps: int = 0  # optimizer steps of all fits
    views: int = 0  # asked by the latest pass that found candidates, of the query that was asked least
    adapters: tuple[AdapterRef, ...] = ()  # oldest first, whether their files are still there or not

    def plus(self, outcome: TaskOutcome) -> TaskResults:
        """With a pass of a later wave."""
        queries, fit = list(self.queries), outcome.fit
        for query in outcome.queries:
            queries[query.index] = queries[query.index].plus(query)
        found = any(query.candidates for query in outcome.queries)
        return TaskResults(
            queries=tuple(queries),
            waves=outcome.wave + 1,
            status=outcome.status,
            done=self.done or outcome.status != "failed",
            steps=self.steps + (fit.steps if fit is not None else 0),
            views=min(query.views for query in outcome.queries) if found else self.views,
            adapters=(*self.adapters, fit.adapter) if fit is not None and fit.adapter is not None else self.adapters,
        )

    def known(self) -> tuple[tuple[KnownGrid, ...], ...]:
        """The distinct candidates of each query."""
        return tuple(
            tuple(KnownGrid(group.grid, group.votes.number, group.votes.best) for group in query.tally.grids.values())
            for query in self.queries
        )


class TaskPasses:
    """The passes over one task by wave. One that is recorded again replaces the earlier record."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._nothing = TaskResults((QueryResults(),) * len(task.test))
        self._outcomes: dict[int, TaskOutcome] = {}
        self._before = self._nothing  # results of all passes but the last
        self.results = self._nothing
        self.programs: tuple[tuple[Candidate, ...], ...] = ((),) * len(task.test)  # what program search found, by query

    def add(self, outcome: TaskOutcome) -> TaskOutcome | None:
        """Take in a pass. Gives the outcome that it replaces, or None.

        A pass of the last wave or of a later one costs as much as it is large. An earlier one has all results computed anew.
        """
        replaced, last = self._outcomes.get(outcome.wave), self.results.waves - 1
        self._outcomes[outcome.wave] = outcome
        if outcome.wave < last:
            *waves, last = sorted(self._outcomes)
            self._before = self._up_to(waves)
            self.results = self._before.plus(self._outcomes[last])
            return replaced
        if outcome.wave > last:
            self._before = self.results
        self.results = self._before.plus(outcome)
        return replaced

    def outcomes(self) -> list[TaskOutcome]:
        """Every pass, by wave."""
        return [self._outcomes[wave] for wave in sorted(self._outcomes)]

    def known(self, before: int) -> tuple[tuple[KnownGrid, ...], ...]:
        """The distinct candidates of the waves below `before`, by query."""
        if before >= self.results.waves:
            return self.results.known()
        if before == self.results.waves - 1:
            return self._before.known()
        return self._up_to([wave for wave in sorted(self._outcomes) if wave < before]).known()

    def choices(self, rule: str) -> tuple[Choice, ...]:
        """The best two grids of each query: from all candidates, the scores of the adapter that scored last, and programs."""
        return tuple(
            choose(rule, query.tally.plus(programs), query.scores.newest())
            for query, programs in zip(self.results.queries, self.programs, strict=True)
        )

    def attempts(self, choices: tuple[Choice, ...]) -> tuple[Attempts, ...]:
        """Two attempts for each query; fallback guesses fill up."""
        return tuple(two_attempts(choice.grids, self._task, index) for index, choice in enumerate(choices))

    def _up_to(self, waves: list[int]) -> TaskResults:
        results = self._nothing
        for wave in waves:
            results = results.plus(self._outcomes[wave])
        return results
