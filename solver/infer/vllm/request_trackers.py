"""One tracker per request: it says which generations to ask vLLM for, and turns their tokens into a result. Needs no vllm.

Sampling asks for one generation per sample, and scoring for one per completion. Searching starts with one greedy generation.
Every other token that keeps the prefix above the threshold then starts a generation of its own, whose prompt is already in
vLLM's prefix cache. The search misses nothing: a token of probability >= min_prob is among the 1 / min_prob most probable
ones, and vLLM returns the log-probabilities of that many tokens at every place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from solver.infer.grammar import STATE, GridMachine, GridState
from solver.infer.token_choice import sample_keys
from solver.types import Completion, Request, Result, SampleRequest, ScoreRequest, SearchRequest, Status, TokenForcer, TokenIds


@dataclass(frozen=True, eq=False)
class GenerationSpec:
    """A generation to ask for: at most `max_tokens` new tokens after `prompt` + `written`."""

    prompt: TokenIds
    max_tokens: int
    written: tuple[int, ...] = ()  # the part of the answer that exists already
    temperature: float = 0.0  # 0: the most probable token
    key: int = 0  # random numbers are a function of this key and of the place in the answer
    top: int = 0  # return the log-probabilities of this many most probable tokens at every place
    scored: bool = False  # return the log-probabilities of the prompt's tokens
    forcer: Callable[[], TokenForcer] | None = None  # as in SampleRequest


@dataclass(frozen=True, eq=False)
class GenerationOutput:
    """The result of one step for one generation: new tokens, each with a table from token ids to log-probabilities (nats)."""

    tokens: Sequence[int]
    logprobs: Sequence[Mapping[int, float]]
    finished: bool
    prompt_logprobs: Sequence[float] = ()  # with `GenerationSpec.scored`: one per prompt token, NaN for the first


@dataclass(frozen=True, eq=False)
class TrackerUpdate:
    """What a tracker wants after a step."""

    specs: Sequence[GenerationSpec] = ()  # more generations
    abort: bool = False  # the generation that took the step is not needed any more


class RequestTracker(Protocol):
    """Follows one request. Its generations are numbered from 0, in the order in which it asks for them."""

    @property
    def request(self) -> Request:
        """The request that it follows."""
        ...

    def start(self) -> Sequence[GenerationSpec]:
        """Forget what was collected, and return the first generations; none if the request needs none."""
        ...

    def take(self, number: int, output: GenerationOutput) -> TrackerUpdate:
        """Collect the output of generation `number`. Raises BrokenModel."""
        ...

    def result(self, status: Status, error: str = "") -> Result:
        """The result with the completions that are known so far."""
        ...


class BrokenModel(Exception):
    """The model returned a log-probability that is NaN or infinite."""


@dataclass(eq=False)
class SampleTracker:
    """`n` samples, or the greedy completion: those that `token_choice.TokenSampler` draws, whatever else is in the batch."""

    request: SampleRequest
    max_tokens: int
    end: int
    open: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)
    done: list[Completion] = field(default_factory=list)
    new_tokens: int = 0

    def start(self) -> Sequence[GenerationSpec]:
        """One generation per sample."""
        request = self.request
        self.open, self.done, self.new_tokens = {}, [], 0
        return [
            GenerationSpec(request.prompt, self.max_tokens, (), request.temperature, int(key), forcer=request.forcer)
            for key in sample_keys(request)
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
    """A prefix above the threshold."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    total: float  # sum of `logprobs`
    state: GridState  # (1, STATE) of the grammar


@dataclass(eq=False)
class SearchTracker:
    """Every completion of probability >= min_prob, without tokens that the grammar forbids, as in `token_choice.Searcher`."""

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
        """Branch at every place, and follow the generation's own tokens as long as their prefix stays above the threshold."""
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
    """The log-probabilities of given completions. vLLM reads each of them as a part of its prompt."""

    request: ScoreRequest
    end: int
    logprobs: dict[int, Sequence[float]] = field(default_factory=dict)  # by generation
    scored: list[TokenIds] = field(default_factory=list)  # the completions that have tokens: generation i scores the i-th

    def start(self) -> Sequence[GenerationSpec]:
        """One generation for each completion that has tokens. The one new token that it has to make is not used."""
        self.logprobs = {}
        self.scored = [completion for completion in self.request.completions if len(completion)]
        return [GenerationSpec(np.concatenate([self.request.prompt, completion]), 1, scored=True) for completion in self.scored]

    def take(self, number: int, output: GenerationOutput) -> TrackerUpdate:
        """Keep the log-probabilities of the completion, which is the end of the prompt."""
        if len(output.prompt_logprobs):
            own = output.prompt_logprobs[len(self.request.prompt) :]
            self.logprobs[number] = [_finite(logprob) for logprob in own]
        return TrackerUpdate()

    def result(self, status: Status, error: str = "") -> Result:
        """The completions in the order of the request; none unless the status is "complete"."""
        if status != "complete":
            return _result(self.request, status, error, [], 0)
        scores = (self.logprobs[number] for number in range(len(self.scored)))
        completions = [
            Completion(
                np.asarray(ids, dtype=np.int32),
                np.array(next(scores) if len(ids) else [], dtype=np.float32),
                bool(len(ids)) and int(ids[-1]) == self.end,
            )
            for ids in self.request.completions
        ]
        tokens = sum(len(ids) for ids in self.request.completions)
        return Result(self.request.id, status, tuple(completions), error, len(self.request.prompt), tokens)


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
