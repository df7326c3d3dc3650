"""What is shown of a task and of what a run made of it: values without any form, for the terminal and for HTML pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.types import Program


@dataclass(frozen=True, eq=False)
class ShownCandidate:
    """One distinct candidate of a query."""

    grid: Grid
    views: tuple[str, ...]  # keys of the views that gave it, one for every vote
    logprob: float  # the highest of all votes, in nats
    nll: float | None  # mean over the views that scored it with the newest adapter; None: not scored
    program: Program | None = None  # that gives it, too, or alone

    @property
    def origin(self) -> str:
        """Who gave it: "network", "program", or "network and program"."""
        return " and ".join([*(["network"] if self.views else []), *(["program"] if self.program is not None else [])])

    def lines(self) -> Iterator[str]:
        """What speaks for it, in a few short lines."""
        if self.program is not None:
            kind = "exact program" if self.program.exact else "program"
            yield f"{kind}, cost {self.program.cost:.4g}"
            yield f"found in {self.program.agreement:.0%} of copies"
        if self.views:
            scored = "" if self.nll is None else f", scored {self.nll:.2f}"
            yield f"{len(self.views)} vote{'s' * (len(self.views) != 1)}, nll {-self.logprob:.2f}{scored}"

    def transforms(self) -> list[str]:
        """The transforms that gave it, the most frequent first, with how often if that is more than once."""
        counts = Counter(view.split("/")[0] for view in self.views)
        return [name if times == 1 else f"{name} x{times}" for name, times in counts.most_common()]


@dataclass(frozen=True)
class ViewAnswers:
    """What one view of one wave answered for a query."""

    wave: int
    view: str  # View.key
    answers: tuple[tuple[int, int, float], ...]  # place among the candidates, times, highest log-probability in nats


@dataclass(frozen=True, eq=False)
class ShownQuery:
    """The candidates and attempts of a run for one test input."""

    candidates: tuple[ShownCandidate, ...] = ()  # those of exact programs first, then the most voted
    attempts: tuple[Grid, ...] = ()  # two, or none where there is no run
    by_view: tuple[ViewAnswers, ...] = ()  # by wave, in the order in which the views answered

    def place(self, grid: Grid) -> int | None:
        """The place of a grid among the candidates; None: it is none of them."""
        return next((place for place, one in enumerate(self.candidates) if same(one.grid, grid)), None)


@dataclass(frozen=True)
class ShownPass:
    """One pass of a run over a task: what it was given, and what it did. Seconds are by phase."""

    wave: int
    status: str
    plan: str  # in words; empty: no plan is recorded
    reason: str
    planned: float | None  # seconds; None: nothing was predicted
    seconds: Mapping[str, float]
    fit: str  # what its fit did, in words; empty: it had none
    views: tuple[int, ...]  # that answered, by query
    agreement: tuple[float, ...]  # 0 to 1, by query
    tokens: Mapping[str, int] = field(default_factory=dict)  # by kind
    worker: int | None = None  # None: not recorded
    ended: float | None = None  # seconds since the start of the run's process; None: not recorded
    events: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ShownTask:
    """A task with the answers that are known, and for each query the candidates and attempts of a run."""

    task: Task
    queries: tuple[ShownQuery, ...] = ()  # empty: no run
    note: str = ""  # what the run spent on it
    passes: tuple[ShownPass, ...] = ()
    events: tuple[str, ...] = ()  # those that belong to no pass

    def solved(self) -> list[bool | None]:
        """By query whether an attempt is right; None where the answer is not known or there is no run."""
        if not self.queries:
            return []
        return [
            None if pair.output is None or not query.attempts else any(same(one, pair.output) for one in query.attempts)
            for pair, query in zip(self.task.test, self.queries, strict=True)
        ]


def same(one: Grid, other: Grid) -> bool:
    """Whether two grids are equal in shape and cells."""
    return np.array_equal(one, other)
