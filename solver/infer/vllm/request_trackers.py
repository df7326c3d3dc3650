"""What becomes of one request: which generations it asks vLLM for, and what it makes of their tokens. Needs no vllm.

Sampling asks for one generation a sample and scoring for one a completion. Searching asks for one greedy generation and
branches: every token beside the chosen one that keeps a prefix above the threshold becomes a generation of its own, whose
prompt is in vLLM's prefix cache. A token of probability >= min_prob is among the 1 / min_prob most probable ones, so with
that many log-probabilities a token nothing is missed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from solver.infer.grammar import STATE, GridMachine, GridState
from solver.infer.token_choice import sample_keys
from solver.types import Completion, Request, Result, SampleRequest, ScoreRequest, SearchRequest, Status, TokenIds


@dataclass(frozen=True, eq=False)
class GenerationSpec:
    """One generation: at most `max_tokens` tokens after `prompt` + `written`."""

    prompt: TokenIds
    max_tokens: int
    written: tuple[int, ...] = ()  # the part of the answer that is there already
    temperature: float = 0.0
    key: int = 0  # what its random numbers are a function of, with the place in the answer
    top: int = 0  # log-probabilities a token to give, beside that of the token itself
    scored: bool = False  # give the log-probabilities of the prompt's tokens


@dataclass(frozen=True, eq=False)
class GenerationOutput:
    """What a step gave for one generation: new tokens, each with log-probabilities (nats) by token id."""

    tokens: Sequence[int]
    logprobs: Sequence[Mapping[int, float]]
    finished: bool
    prompt_logprobs: Sequence[float] = ()  # of `GenerationSpec.scored`, by place; nan for the first, which nothing predicts


@dataclass(frozen=True, eq=False)
class TrackerUpdate:
    """What follows from what was given: more generations, and whether this one is of no use any more."""

    specs: Sequence[GenerationSpec] = ()
    abort: bool = False


class RequestTracker(Protocol):
    """A request on its way; generations are numbered in the order they are asked for."""

    @property
    def request(self) -> Request:
        """What is answered."""
        ...

    def start(self) -> Sequence[GenerationSpec]:
        """The first generations, of a tracker that begins or begins anew; none: there is nothing to do."""
        ...

    def take(self, number: int, output: GenerationOutput) -> TrackerUpdate:
        """Take what generation `number` gave. Raises BrokenModel."""
        ...

    def result(self, status: Status, error: str = "") -> Result:
        """The answer as far as it is known."""
        ...


class BrokenModel(Exception):
    """The model gave something that is no log-probability."""


@dataclass(eq=False)
class SampleTracker:
    """`n` samples, or the greedy completion: the same ones as `token_choice.Sampler` draws, whatever else is in the batch."""

    request: SampleRequest
    max_tokens: int
    end: int
    open: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)
    done: list[Completion] = field(default_factory=list)
    new_tokens: int = 0

    def start(self) -> Sequence[GenerationSpec]:
        """One generation a sample."""
        request = self.request
        self.open, self.done, self.new_tokens = {}, [], 0
        return [
            GenerationSpec(request.prompt, self.max_tokens, (), request.temperature, int(key)) for key in sample_keys(request)
        ]

    def take(self, number: int, output: GenerationOutput) -> TrackerUpdate:
        """Collect tokens until the generation is finished."""
        tokens, logprobs = self.open.setdefault(number, ([], []))
        for token, table in zip(output.tokens, output.logprobs, strict=True):
            tokens.append(token)
            logprobs.append(_finite(table[token]))
        self.new_tokens += len(output.tokens)
        if output.finished:
            self.done.append(_completion(tokens, logprobs, self.end))
            del self.open[number]
        return TrackerUpdate()

    def result(self, status: Status, error: str = "") -> Result:
        """The finished samples, most probable first."""
        return _result(self.request, status, error, self.done, self.new_tokens)


@dataclass(frozen=True, eq=False)
class _Branch:
    """A prefix kept, and its grammar state."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    total: float
    state: GridState


@dataclass(eq=False)
class SearchTracker:
    """Every completion of probability >= min_prob; tokens the grammar forbids are left out, as `token_choice.Searcher` does."""

    request: SearchRequest
    max_tokens: int
    end: int
    vocabulary: int
    machine: GridMachine | None
    branches: list[_Branch] = field(default_factory=list)  # by generation
    done: list[Completion] = field(default_factory=list)
    new_tokens: int = 0

    def start(self) -> Sequence[GenerationSpec]:
        """The greedy generation."""
        self.done, self.new_tokens = [], 0
        self.branches = [_Branch((), (), 0.0, np.zeros((1, STATE), dtype=np.int16))]
        return [self._spec(self.branches[0])]

    def take(self, number: int, output: GenerationOutput) -> TrackerUpdate:
        """Branch at every token, and go on along the chosen ones while these keep above the threshold."""
        specs: list[GenerationSpec] = []
        for token, table in zip(output.tokens, output.logprobs, strict=True):
            _finite(table[token])
            branch = self.branches[number]
            goes_on = None
            for other in self._kept(branch, table):
                self.new_tokens += 1
                child = self._child(branch, other, table[other])
                if other == self.end or len(child.tokens) >= self.max_tokens:
                    self.done.append(_completion(child.tokens, child.logprobs, self.end))
                elif other == token:
                    goes_on = child
                else:
                    self.branches.append(child)
                    specs.append(self._spec(child))
            if goes_on is None:
                return TrackerUpdate(specs, abort=not output.finished)
            self.branches[number] = goes_on
        return TrackerUpdate(specs)

    def result(self, status: Status, error: str = "") -> Result:
        """The completions found, most probable first."""
        return _result(self.request, status, error, self.done, self.new_tokens)

    def _spec(self, branch: _Branch) -> GenerationSpec:
        top = min(self.vocabulary, int(1 / self.request.min_prob) + 1)
        return GenerationSpec(self.request.prompt, self.max_tokens - len(branch.tokens), branch.tokens, top=top)

    def _kept(self, branch: _Branch, table: Mapping[int, float]) -> list[int]:
        needed = math.log(self.request.min_prob) - branch.total
        kept = [token for token, logprob in table.items() if logprob >= needed]
        if self.machine is None:
            return kept
        allowed = set(self.machine.columns[self.machine.allowed(branch.state)[0]].tolist())
        return [token for token in kept if token in allowed]

    def _child(self, branch: _Branch, token: int, logprob: float) -> _Branch:
        state = branch.state
        if self.machine is not None:
            state = state.copy()
            self.machine.advance(state, np.array([token]))
        return _Branch((*branch.tokens, token), (*branch.logprobs, logprob), branch.total + logprob, state)


@dataclass(eq=False)
class ScoreTracker:
    """The log-probabilities of given completions: each is read with its prompt."""

    request: ScoreRequest
    end: int
    logprobs: dict[int, Sequence[float]] = field(default_factory=dict)  # by generation, of those with any token
    scored: list[TokenIds] = field(default_factory=list)

    def start(self) -> Sequence[GenerationSpec]:
        """One generation for each completion that has tokens; the token it makes is of no interest."""
        self.logprobs = {}
        self.scored = [completion for completion in self.request.completions if len(completion)]
        return [GenerationSpec(np.concatenate([self.request.prompt, completion]), 1, scored=True) for completion in self.scored]

    def take(self, number: int, output: GenerationOutput) -> TrackerUpdate:
        """Keep what is said of the prompt's last tokens."""
        if len(output.prompt_logprobs):
            own = output.prompt_logprobs[len(self.request.prompt) :]
            self.logprobs[number] = [_finite(logprob) for logprob in own]
        return TrackerUpdate()

    def result(self, status: Status, error: str = "") -> Result:
        """The completions in their order; none unless all are there."""
        if status != "complete":
            return _result(self.request, status, error, [], 0)
        scores = (self.logprobs[number] for number in range(len(self.scored)))
        given = [
            Completion(
                np.asarray(ids, dtype=np.int32),
                np.array(next(scores) if len(ids) else [], dtype=np.float32),
                bool(len(ids)) and int(ids[-1]) == self.end,
            )
            for ids in self.request.completions
        ]
        tokens = sum(len(ids) for ids in self.request.completions)
        return Result(self.request.id, status, tuple(given), error, len(self.request.prompt), tokens)


def _finite(logprob: float) -> float:
    if not math.isfinite(logprob):
        raise BrokenModel("the model gave a log-probability that is not finite")
    return logprob


def _completion(tokens: Sequence[int], logprobs: Sequence[float], end: int) -> Completion:
    ids = np.array(tokens, dtype=np.int32)
    return Completion(ids, np.array(logprobs, dtype=np.float32), bool(len(ids)) and int(ids[-1]) == end)


def _result(request: Request, status: Status, error: str, done: Sequence[Completion], new_tokens: int) -> Result:
    best_first = tuple(sorted(done, key=lambda completion: -completion.logprob)) if status != "failed" else ()
    return Result(request.id, status, best_first, error, len(request.prompt), new_tokens)
