"""The data classes that cross rooms. Imports only numpy and the standard library: the supervisor must not import torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid
from solver.arc.task import Task

TokenIds = NDArray[np.int32]  # shape (tokens,)
Status = Literal["complete", "cut", "failed"]


@dataclass(frozen=True)
class Deadline:
    """A point in time on a monotonic clock, in seconds. Every loop that can run long takes one and checks it.

    `time.monotonic` is the same clock in all processes of a machine, so `at` may be sent to another process.
    """

    at: float
    clock: Callable[[], float] = time.monotonic

    @staticmethod
    def after(seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline `seconds` from now."""
        return Deadline(clock() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left; negative after the deadline."""
        return self.at - self.clock()

    def expired(self, reach: float = 0.0) -> bool:
        """Whether at most `reach` seconds are left, so that a step that takes `reach` seconds would not end in time."""
        return self.remaining() <= reach

    def earlier(self, seconds: float) -> Deadline:
        """A deadline `seconds` earlier than this one, to keep a reserve."""
        return Deadline(self.at - seconds, self.clock)


NEVER = Deadline(float("inf"))


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """A training sequence: `weights[t]` is the loss weight of predicting `ids[t]` from `ids[:t]`; `weights[0]` is 0."""

    ids: TokenIds  # (tokens,) int32
    weights: NDArray[np.float32]  # (tokens,) float32
    # (tokens,) float32, for verifiers: what to predict after token t, from `ids[: t + 1]`; nan: nothing
    values: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AdapterRef:
    """An adapter on disk. `id` is never reused, not even for a refit; `path` is a folder of safetensors and JSON."""

    id: str
    path: Path
    kind: Literal["lora", "full"]


@dataclass(frozen=True, eq=False)
class FitJob:
    """One adapter to fit: `steps` optimizer steps on `sequences`, which are taken in order, again and again."""

    adapter_id: str  # of the adapter to make
    sequences: tuple[TokenSequence, ...]
    steps: int
    seed: int = 0
    start: AdapterRef | None = None  # the adapter to continue from, with a new warm-up; None: start from the base


@dataclass(frozen=True)
class Fit:
    """What a fit really did."""

    adapter_id: str  # as in FitJob
    status: Status
    reason: str  # why it stopped: "steps" (all are done), "deadline", "nan", "oom", or the text of an error
    adapter: AdapterRef | None  # the result; `FitJob.start` or None if there is none
    steps: int
    tokens: int  # trained on, without padding
    seconds: float
    first_loss: float  # nats a weighted token, before the first step; nan if none was computed
    final_loss: float  # the same, before the last step


class TokenForcer(Protocol):
    """Follows one completion as it grows, and says which tokens it must have, for example the result of a calculation."""

    def follow(self, tokens: Sequence[int]) -> int | None:
        """Take the tokens that were appended since the last call. The token that must come next; None: the model chooses."""
        ...


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """Draw `n` completions of `prompt`. Temperature 0 is greedy, and `n` must be 1.

    A forced token takes the place of the one that was drawn. Its log-probability is the model's, like that of any other token.
    """

    id: str
    prompt: TokenIds
    adapter: AdapterRef | None
    n: int
    temperature: float
    max_new_tokens: int
    seed: int = 0
    forcer: Callable[[], TokenForcer] | None = None  # makes a forcer for each completion; None: the model chooses every token


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
    """The answer to one request. Status "cut": the deadline came first, and `completions` holds what was finished by then.

    A search gives completions in order of falling probability. Scoring gives one for each completion of the request, in order.
    """

    request: str  # Request.id
    status: Status
    completions: tuple[Completion, ...]
    error: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0


@dataclass(frozen=True)
class Program:
    """A program that gives a grid as the answer to a query, and what is known of how far it can be believed."""

    text: str  # the program, for people
    cost: float  # larger for longer programs
    exact: bool  # whether it reproduces every demonstration of its task
    agreement: float  # 0 to 1: share of the searched copies of the task (turned, recoloured) whose programs gave the same grid


@dataclass(frozen=True, eq=False)
class Candidate:
    """A predicted grid for a query: by the network, with the view undone that it was predicted under, or by a program."""

    grid: Grid
    view: str  # View.key; empty for a program
    logprob: float  # of the completion under that view, in nats, at temperature 1; -inf for a program
    origin: Literal["greedy", "sample", "search", "program"]
    adapter: str = ""  # the adapter's id; empty: the base model, or a program
    program: Program | None = None  # of origin "program"

    @staticmethod
    def of_program(grid: Grid, program: Program) -> Candidate:
        """The candidate that a program gives."""
        return Candidate(grid, "", -math.inf, "program", program=program)


@dataclass(frozen=True, eq=False)
class Score:
    """The negative log-likelihood of one candidate grid by one adapter under one view."""

    grid: Grid
    view: str  # View.key
    nll: float  # nats, >= 0, summed over the answer's tokens
    tokens: int
    adapter: str = ""  # the adapter's id; empty: the base model


@dataclass(frozen=True)
class TaskPlan:
    """What one pass does for one task."""

    steps: int  # optimizer steps; 0: no fit, infer with the adapter (or the base) that is there
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
    """One task of a work item: its plan, and what earlier waves left."""

    task: Task  # without answers
    plan: TaskPlan
    start: AdapterRef | None = None  # the newest adapter of the task
    known: tuple[tuple[KnownGrid, ...], ...] = ()  # for each query the candidates of earlier waves, which the new adapter scores
    max_tokens: int | None = None  # of a training sequence, and of a prompt; None: the model's context


@dataclass(frozen=True, eq=False)
class WorkItem:
    """What the supervisor gives to a worker: tasks to fit and to answer before `deadline_at` (monotonic seconds)."""

    id: str
    wave: int
    tasks: tuple[TaskWork, ...]
    deadline_at: float
    kind: Literal["solve", "shared"] = "solve"  # "shared": fit one adapter on all tasks of the item and answer none
    halvings: int = 0  # how often batch, views or context are halved after failed passes: see `budget.backoff`
    keep: tuple[float, float] | None = None  # seconds to keep for the phases after the fits, and for scoring alone; None: unknown


@dataclass(frozen=True, eq=False)
class QueryOutcome:
    """The results of a pass for one query of a task."""

    index: int
    candidates: tuple[Candidate, ...]
    scores: tuple[Score, ...]
    views: int = 0  # that were asked and had time to answer, with a candidate or without


@dataclass(frozen=True, eq=False)
class TaskOutcome:
    """The results of a pass for one task."""

    task_id: str
    wave: int
    status: Status
    fit: Fit | None
    queries: tuple[QueryOutcome, ...]
    seconds: dict[str, float] = field(default_factory=dict)  # used, by phase: "prepare", "fit", "infer", "score"
    planned: dict[str, float] = field(default_factory=dict)  # predicted seconds, by phase; the supervisor fills them in
    tokens: dict[str, int] = field(default_factory=dict)  # by kind: "trained", "prompt", "new", "scored"
    events: tuple[tuple[str, str], ...] = ()  # (kind, detail) for the ledger
    final: bool = True  # False: another outcome for the same task and wave follows, with scores


@dataclass(frozen=True)
class ProgramConfig:
    """The first message to a process that searches for programs."""

    memory: int  # bytes of address space that it may use


@dataclass(frozen=True)
class ProgramReady:
    """Such a process waits for work."""

    seconds: float  # of its start


@dataclass(frozen=True, eq=False)
class ProgramWork:
    """What the supervisor gives to a process that searches for programs: one task, and how long to search."""

    id: str
    task: Task  # without answers
    seconds: float  # from the moment at which the process begins with it
    deadline_at: float  # monotonic seconds, when it has to be over in any case


@dataclass(frozen=True, eq=False)
class ProgramOutcome:
    """The result of the program search for one task."""

    task_id: str
    status: Status  # "cut": its time was up, "failed": it ended with `error`
    answers: tuple[tuple[Candidate, ...], ...]  # for each query, best first
    seconds: float
    most: float = 0.0  # seconds that it was allowed
    error: str = ""
