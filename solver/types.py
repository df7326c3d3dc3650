"""The data classes that cross rooms. numpy and the standard library alone: the supervisor imports this without torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid
from solver.arc.task import Task

TokenIds = NDArray[np.int32]  # shape (tokens,)
Status = Literal["complete", "cut", "failed"]


@dataclass(frozen=True)
class Deadline:
    """A point on a monotonic clock, in seconds. Every loop that can run long takes one and asks it.

    `time.monotonic` is one clock for all processes of a machine, so `at` may cross process boundaries.
    """

    at: float
    clock: Callable[[], float] = time.monotonic

    @staticmethod
    def after(seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline `seconds` from now."""
        return Deadline(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left; negative once passed."""
        return self.at - self.clock()

    def expired(self, reach: float = 0.0) -> bool:
        """Whether less than `reach` seconds are left: the next step would not end in time."""
        return self.remaining() <= reach

    def earlier(self, seconds: float) -> Deadline:
        """The same deadline moved `seconds` earlier, to keep a reserve."""
        return Deadline(self.at - seconds, self.clock)


NEVER = Deadline(float("inf"))


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """A training sequence: `weights[t]` is the loss weight of predicting `ids[t]` from `ids[:t]`; `weights[0]` is 0."""

    ids: TokenIds  # (tokens,) int32
    weights: NDArray[np.float32]  # (tokens,) float32
    values: NDArray[np.float32] | None = None  # (tokens,) float32 value targets, for verifiers

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AdapterRef:
    """Where an adapter lies. `id` is never reused, not even for a refit; `path` is a folder of safetensors and JSON."""

    id: str
    path: Path
    kind: Literal["lora", "full"]


@dataclass(frozen=True, eq=False)
class FitJob:
    """One adapter to fit: `steps` optimizer steps over `sequences`, in order and round again, from `start` or from the base."""

    adapter: str  # id of the adapter to make
    sequences: tuple[TokenSequence, ...]
    steps: int
    seed: int = 0
    start: AdapterRef | None = None  # refit: continue from these weights, re-warmed


@dataclass(frozen=True)
class Fit:
    """What a fit really did. `adapter` is None only if nothing usable came of it."""

    adapter_id: str  # FitJob.adapter
    status: Status
    reason: str  # "steps", "deadline", "nan", "oom", or an error in words
    adapter: AdapterRef | None
    steps: int
    tokens: int  # real (unpadded) tokens trained on
    seconds: float
    first_loss: float
    final_loss: float


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """Draw `n` completions of `prompt`; temperature 0 is greedy (and `n` must be 1)."""

    id: str
    prompt: TokenIds
    adapter: AdapterRef | None
    n: int
    temperature: float
    max_new_tokens: int
    seed: int = 0


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """Find every completion of `prompt` with probability >= `min_prob` (0 < min_prob < 1) at temperature 1."""

    id: str
    prompt: TokenIds
    adapter: AdapterRef | None
    min_prob: float
    max_new_tokens: int


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """Give the log-probabilities of each of `completions` (end token included) after `prompt`."""

    id: str
    prompt: TokenIds
    adapter: AdapterRef | None
    completions: tuple[TokenIds, ...]


Request = SampleRequest | SearchRequest | ScoreRequest


@dataclass(frozen=True, eq=False)
class Completion:
    """Token ids (end token included if `finished`) with their log-probabilities at temperature 1, before any mask."""

    ids: TokenIds  # (new tokens,) int32
    logprobs: NDArray[np.float32]  # (new tokens,) float32
    finished: bool  # whether the end token was reached

    @property
    def logprob(self) -> float:
        """Log-probability of the whole completion, in nats."""
        return float(self.logprobs.sum(dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to one request. "cut": the deadline came first, `completions` holds what was finished by then.

    `search` gives completions in order of falling probability; `score` gives one per given completion, in their order.
    """

    request: str  # Request.id
    status: Status
    completions: tuple[Completion, ...]
    error: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A predicted grid for a query, as the original task shows it, with the view it was found under."""

    grid: Grid
    view: str  # View.key
    logprob: float  # of the completion under that view, nats, temperature 1
    origin: Literal["greedy", "sample", "search"]
    adapter: str = ""  # id; empty: the base model


@dataclass(frozen=True, eq=False)
class Score:
    """The summed negative log-likelihood of one candidate grid under one (adapter, view)."""

    grid: Grid
    view: str  # View.key
    nll: float  # nats, >= 0, summed over the answer's tokens
    tokens: int
    adapter: str = ""


@dataclass(frozen=True)
class TaskPlan:
    """What one wave spends on one task."""

    steps: int  # optimizer steps; 0: infer with the adapter (or the base) as it is
    views: int
    samples: int  # completions per view


@dataclass(frozen=True, eq=False)
class KnownGrid:
    """A distinct candidate of earlier waves."""

    grid: Grid
    votes: int  # candidates that hold it
    logprob: float  # the highest of theirs, nats


@dataclass(frozen=True, eq=False)
class TaskWork:
    """One task of a work item: the plan, and the adapter an earlier wave left, if any."""

    task: Task  # without answers
    plan: TaskPlan
    start: AdapterRef | None = None
    known: tuple[tuple[KnownGrid, ...], ...] = ()  # per query, of earlier waves: to be scored with the newest adapter, too
    max_tokens: int | None = None  # of a training sequence, and of a prompt; None: as many as the context takes


@dataclass(frozen=True, eq=False)
class WorkItem:
    """What the supervisor hands to a worker: a chunk of tasks to fit and infer before `deadline_at` (monotonic seconds)."""

    id: str
    wave: int
    tasks: tuple[TaskWork, ...]
    deadline_at: float
    kind: Literal["solve", "shared"] = "solve"  # shared: fit one adapter on all tasks of the item, infer nothing
    halvings: int = 0  # how often batch, views or context are halved after passes that failed: see `budget.backoff`
    keep: tuple[float, float] | None = None  # seconds for all that comes after the fits, and of these for scoring; None: unknown


@dataclass(frozen=True, eq=False)
class QueryOutcome:
    """What a wave found for one query (task_id, index)."""

    index: int
    candidates: tuple[Candidate, ...]
    scores: tuple[Score, ...]
    views: int = 0  # that were asked and had the time to answer, whether they found anything or not


@dataclass(frozen=True, eq=False)
class TaskOutcome:
    """What a wave did for one task."""

    task_id: str
    wave: int
    status: Status
    fit: Fit | None
    queries: tuple[QueryOutcome, ...]
    seconds: dict[str, float] = field(default_factory=dict)  # used, by phase: "prepare", "fit", "infer", "score"
    planned: dict[str, float] = field(default_factory=dict)  # seconds that were predicted, by phase; the worker knows of none
    tokens: dict[str, int] = field(default_factory=dict)  # by kind: "trained", "prompt", "new", "scored"
    events: tuple[tuple[str, str], ...] = ()  # (kind, detail) for the ledger
    final: bool = True  # False: another one of the same (task, wave) follows, with scores
