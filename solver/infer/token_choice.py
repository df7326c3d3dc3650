"""How completions continue: with one sampled token, or with every token that keeps their probability above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solver.infer.cache import Index
from solver.infer.decode_rows import DecodeRows
from solver.infer.grammar import GridMachine
from solver.types import SampleRequest, SearchRequest, TokenForcer

SPLITMIX64 = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # its multipliers (Steele, Lea & Flood 2014)
SMALL_VOCABULARY = 64  # up to this size all log-probabilities are copied to the host


@dataclass(frozen=True)
class Choice:
    """Tokens to append to rows. `rows` ascends: a row that branches appears several times, and one without a token never."""

    rows: Index
    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]


class Chooser(Protocol):
    """Chooses the tokens with which rows continue."""

    def keys(self, job: int) -> NDArray[np.uint64]:
        """The keys (`DecodeRows.key`) of the completions that request number `job` starts with."""
        ...

    def choose(self, rows: DecodeRows, logprobs: Tensor) -> Choice:
        """The tokens to append, given the log-probabilities of the next token, (rows, vocabulary) float32."""
        ...


class TokenSampler:
    """Draws one token per row at its request's temperature (0: the most probable one), among those that the grammar allows.

    A token that the request's forcer wants takes the place of the one drawn. With a grammar it has to be one that this allows.

    Random numbers come from a counter-based generator. Its key depends on the request's seed and the number of the sample, and
    its counter is the place in the completion. So a sample depends neither on the other requests of the batch nor on the id of
    its own.
    """

    def __init__(self, requests: Sequence[SampleRequest], machine: GridMachine | None) -> None:
        self._requests = requests
        self._temperature = np.array([request.temperature for request in requests], dtype=np.float64)
        self._machine = machine
        # of the completions that have one, by request and key: the forcer, and how many tokens it has seen
        self._forcers: dict[tuple[int, int], tuple[TokenForcer, int]] = {}
        self._forcing = np.array([request.forcer is not None for request in requests], dtype=bool)

    def keys(self, job: int) -> NDArray[np.uint64]:
        """One key per sample."""
        return sample_keys(self._requests[job])

    def choose(self, rows: DecodeRows, logprobs: Tensor) -> Choice:
        """One token per row."""
        device = logprobs.device
        legal = logprobs
        if self._machine is not None:
            columns = torch.from_numpy(self._machine.columns).to(device)
            hidden = torch.from_numpy(~self._machine.allowed(rows.state)).to(device)
            legal = logprobs[:, columns].masked_fill_(hidden, -torch.inf)
        picked = draw(legal, self._temperature[rows.job], rows.key, rows.length)
        gained = legal.gather(1, picked[:, None])[:, 0].cpu().numpy()
        tokens = picked.cpu().numpy()
        if self._machine is not None:
            tokens = self._machine.columns[tokens]
        self._force(rows, logprobs, tokens, gained)
        return Choice(np.arange(len(tokens)), tokens, gained)

    def _force(self, rows: DecodeRows, logprobs: Tensor, tokens: NDArray[np.int64], gained: NDArray[np.float32]) -> None:
        """Put forced tokens, and their log-probabilities, in the place of those drawn."""
        forced: dict[int, int] = {}
        for row in np.flatnonzero(self._forcing[rows.job]):
            make = self._requests[rows.job[row]].forcer
            assert make is not None
            name, length = (int(rows.job[row]), int(rows.key[row])), int(rows.length[row])
            forcer, seen = self._forcers.get(name) or (make(), 0)
            token = forcer.follow(rows.tokens[row, seen:length].tolist())
            self._forcers[name] = forcer, length
            if token is not None:
                forced[int(row)] = token
        if forced:
            places, wanted = list(forced), list(forced.values())
            tokens[places] = wanted
            gained[places] = logprobs[places, wanted].cpu().numpy()


class Searcher:
    """Keeps every continuation whose probability is at least its request's `min_prob`.

    The prefixes that are kept for one request are disjoint events, so there are never more than 1 / min_prob of them. Tokens that
    the grammar forbids are dropped together with their probability: it is not distributed over the others.
    """

    def __init__(self, requests: Sequence[SearchRequest], machine: GridMachine | None) -> None:
        min_probs = np.array([request.min_prob for request in requests], dtype=np.float64)
        self._threshold = np.log(min_probs)
        self._max_kept = int(1 / min_probs.min()) + 1  # tokens that can follow one prefix, at most
        self._machine = machine

    def keys(self, job: int) -> NDArray[np.uint64]:  # noqa: ARG002
        """One key, which is not used: a search starts with one row and draws no random numbers."""
        return np.zeros(1, dtype=np.uint64)

    def choose(self, rows: DecodeRows, logprobs: Tensor) -> Choice:
        """All tokens that keep their row above the threshold."""
        machine, tokens = self._machine, None
        if machine is not None:
            logprobs = logprobs[:, torch.from_numpy(machine.columns).to(logprobs.device)]
        elif logprobs.shape[1] > max(SMALL_VOCABULARY, self._max_kept):
            logprobs, ids = logprobs.topk(self._max_kept, dim=-1)
            tokens = ids.cpu().numpy()
        block = logprobs.cpu().numpy()
        needed = self._threshold[rows.job] - rows.total
        kept = block >= needed[:, None]
        if machine is not None:
            kept &= machine.allowed(rows.state)
        row, column = np.nonzero(kept)
        chosen = tokens[row, column] if tokens is not None else machine.columns[column] if machine is not None else column
        return Choice(row, chosen, block[row, column])


def sample_keys(request: SampleRequest) -> NDArray[np.uint64]:
    """(n,): a key for the random numbers of each sample of a request."""
    return np.random.SeedSequence(request.seed).generate_state(request.n, np.uint64).astype(np.uint64)


def draw(logprobs: Tensor, temperature: NDArray[np.float64], keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> Tensor:
    """(rows,): the column drawn from each row of `logprobs`, (rows, columns); the largest one at temperature 0.

    Forbidden columns are -inf. Inverse-transform sampling: the first column whose cumulative probability exceeds the uniform
    random number of (key, counter).
    """
    picked = logprobs.argmax(-1)
    if not temperature.any():
        return picked
    device = logprobs.device
    scale = torch.from_numpy(np.where(temperature > 0, temperature, 1.0)).to(device)
    cumulative = torch.softmax(logprobs.double() / scale[:, None], -1).cumsum(-1)
    goal = torch.from_numpy(_uniform(keys, counters)).to(device)[:, None] * cumulative[:, -1:]
    return torch.where(torch.from_numpy(temperature > 0).to(device), (cumulative <= goal).sum(-1), picked)


def _uniform(keys: NDArray[np.uint64], counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1), (rows,): output `counter` of a splitmix64 generator seeded with `key`."""
    step, first, second = map(np.uint64, SPLITMIX64)
    with np.errstate(over="ignore"):
        z = keys + (counters.astype(np.uint64) + np.uint64(1)) * step
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
