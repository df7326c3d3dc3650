"""One task of a work item while a worker is at it: what it asks, what it found, what that cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from solver.arc.grid import Grid, grid_key
from solver.arc.task import Task
from solver.arc.view import View
from solver.types import (
    AdapterRef,
    Candidate,
    Fit,
    QueryOutcome,
    Result,
    Score,
    Status,
    TaskOutcome,
    TaskWork,
    TokenIds,
    TokenSequence,
)


@dataclass(frozen=True, eq=False)
class ViewPrompt:
    """The prompt of one query under one view, as token ids."""

    query: int
    view: View
    ids: TokenIds


@dataclass(eq=False)
class Job:
    """One task of an item while it is worked on."""

    work: TaskWork
    adapter: str  # id for the adapter to be fitted
    sequences: tuple[TokenSequence, ...] = ()
    steps: int = 0
    prompts: list[ViewPrompt] = field(default_factory=list)
    fit: Fit | None = None
    found: dict[int, list[Candidate]] = field(default_factory=dict)
    scores: dict[int, list[Score]] = field(default_factory=dict)
    views: dict[int, int] = field(default_factory=dict)  # asked, by query
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    answered: int = 0
    cut: bool = False

    @property
    def task(self) -> Task:
        """The task, without answers."""
        return self.work.task

    @property
    def serving(self) -> AdapterRef | None:
        """What inference uses: the new adapter, else the earlier one, else the base."""
        fitted = self.fit.adapter if self.fit is not None else None
        return fitted or self.work.start

    def count(self, **tokens: int) -> None:
        """Add to the tokens of each kind."""
        for kind, number in tokens.items():
            self.tokens[kind] = self.tokens.get(kind, 0) + number

    def note(self, result: Result, phase: str) -> None:
        """What a result says of the job as a whole."""
        if result.status == "cut":
            self.cut = True
        if result.status == "failed":
            event = (f"{phase} failed", result.error)
            if event not in self.events:
                self.events.append(event)
        elif phase == "inference":
            self.answered += 1

    @property
    def status(self) -> Status:
        """How the job ended, if it ends now."""
        if self.cut:
            return "cut"
        return "complete" if self.answered else "failed"

    def top(self, query: int, most: int) -> list[Grid]:
        """The `most` most voted distinct candidates of a query over all waves; ties go to the more probable."""
        known = self.work.known[query] if query < len(self.work.known) else ()
        votes: dict[bytes, tuple[int, float]] = {}
        grids: dict[bytes, Grid] = {}
        for candidate in (*known, *self.found.get(query, ())):
            key = grid_key(candidate.grid)
            count, best = votes.get(key, (0, -math.inf))
            votes[key] = (count + 1, max(best, candidate.logprob))
            grids[key] = candidate.grid
        ranked = sorted(votes, key=lambda key: votes[key], reverse=True)
        return [grids[key] for key in ranked[:most]]

    def outcome(self, wave: int, status: Status, final: bool = True) -> TaskOutcome:
        """What the supervisor is told."""
        queries = tuple(
            QueryOutcome(index, tuple(self.found.get(index, ())), tuple(self.scores.get(index, ())), self.views.get(index, 0))
            for index in range(len(self.task.test))
        )
        return TaskOutcome(
            self.task.id,
            wave,
            status,
            self.fit,
            queries,
            dict(self.seconds),
            tokens=dict(self.tokens),
            events=tuple(self.events),
            final=final,
        )


def prompt_tokens(jobs: Sequence[Job]) -> int:
    """Tokens of all their prompts."""
    return sum(len(prompted.ids) for job in jobs for prompted in job.prompts)


def spread(jobs: Sequence[Job], phase: str, seconds: float) -> None:
    """Charge a phase that was one call for all jobs to each, by its share of the prompts."""
    total = prompt_tokens(jobs)
    for job in jobs:
        job.seconds[phase] = seconds * prompt_tokens([job]) / total


def names(jobs: Sequence[Job]) -> str:
    """The jobs in a few words."""
    first = jobs[0].task.id
    return first if len(jobs) == 1 else f"{first} and {len(jobs) - 1} more"
