"""One task of a work item while a worker works on it: its prompts, its candidates and scores, and what they cost."""

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
    """The prompt of one query under one view."""

    query: int
    view: View
    ids: TokenIds


@dataclass(eq=False)
class Job:
    """One task of an item, and everything that the worker has of it so far."""

    work: TaskWork
    adapter: str  # id for the adapter to be fitted
    sequences: tuple[TokenSequence, ...] = ()
    steps: int = 0
    prompts: list[ViewPrompt] = field(default_factory=list)
    fit: Fit | None = None
    found: dict[int, list[Candidate]] = field(default_factory=dict)  # by query
    scores: dict[int, list[Score]] = field(default_factory=dict)
    views: dict[int, int] = field(default_factory=dict)  # that were asked, by query
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    answered: int = 0  # prompts that inference did not fail on
    cut: bool = False  # whether the deadline ended something early

    @property
    def task(self) -> Task:
        """The task, without answers."""
        return self.work.task

    @property
    def serving(self) -> AdapterRef | None:
        """The adapter that inference uses: that of this pass, else the one it started from; None: the base model."""
        fitted = self.fit.adapter if self.fit is not None else None
        return fitted or self.work.start

    def count(self, **tokens: int) -> None:
        """Add to the tokens of each kind."""
        for kind, number in tokens.items():
            self.tokens[kind] = self.tokens.get(kind, 0) + number

    def note(self, result: Result, phase: str) -> None:
        """Take in what a result of `phase` says about the whole job: cut, failed or answered."""
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
        """The status of the job as it is now."""
        if self.cut:
            return "cut"
        return "complete" if self.answered else "failed"

    def top(self, query: int, most: int) -> list[Grid]:
        """The `most` distinct candidates of a query with the most votes, over all waves; ties go to the more probable."""
        known = self.work.known[query] if query < len(self.work.known) else ()
        votes = {grid_key(one.grid): (one.votes, one.logprob) for one in known}
        grids = {grid_key(one.grid): one.grid for one in known}
        for candidate in self.found.get(query, ()):
            key = grid_key(candidate.grid)
            count, best = votes.get(key, (0, -math.inf))
            votes[key] = (count + 1, max(best, candidate.logprob))
            grids[key] = candidate.grid
        ranked = sorted(votes, key=lambda key: votes[key], reverse=True)
        return [grids[key] for key in ranked[:most]]

    def outcome(self, wave: int, status: Status, final: bool = True) -> TaskOutcome:
        """The outcome for the supervisor."""
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
    """Divide the seconds of a phase that ran for all jobs together among them, by the tokens of their prompts."""
    total = prompt_tokens(jobs)
    for job in jobs:
        job.seconds[phase] = seconds * prompt_tokens([job]) / total


def names(jobs: Sequence[Job]) -> str:
    """Names the jobs in a few words."""
    first = jobs[0].task.id
    return first if len(jobs) == 1 else f"{first} and {len(jobs) - 1} more"
