"""The unfinished completions of a decoding batch, as arrays with one row per completion."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver.infer.cache import Index
from solver.infer.grammar import STATE
from solver.types import Completion

FIRST_WIDTH = 64  # tokens


@dataclass(eq=False)
class DecodeRows:
    """Unfinished completions. Only the first `length` columns of a row of `tokens` and `logprobs` are valid."""

    job: NDArray[np.int64]  # (rows,) the number of the request among those of the batch
    key: NDArray[np.uint64]  # (rows,) random numbers are a function of this key and of the place in the completion
    length: NDArray[np.int64]  # (rows,) tokens so far
    total: NDArray[np.float64]  # (rows,) log-probability of these tokens, nats
    state: NDArray[np.int16]  # (rows, STATE) state of the grammar
    tokens: NDArray[np.int32]  # (rows, columns)
    logprobs: NDArray[np.float32]  # (rows, columns)

    @staticmethod
    def start(job: int, keys: NDArray[np.uint64]) -> DecodeRows:
        """Empty completions of one request, one per key."""
        n = len(keys)
        return DecodeRows(
            job=np.full(n, job, dtype=np.int64),
            key=keys,
            length=np.zeros(n, dtype=np.int64),
            total=np.zeros(n, dtype=np.float64),
            state=np.zeros((n, STATE), dtype=np.int16),
            tokens=np.zeros((n, FIRST_WIDTH), dtype=np.int32),
            logprobs=np.zeros((n, FIRST_WIDTH), dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.job)

    def take(self, index: Index | NDArray[np.bool_] | slice) -> DecodeRows:
        """Copies of the rows at `index`, in its order."""
        return DecodeRows(**{f.name: getattr(self, f.name)[index].copy() for f in fields(self)})

    def extend(self, *others: DecodeRows) -> None:
        """Append the rows of `others`."""
        parts = (self, *others)
        width = max(part.tokens.shape[1] for part in parts)
        for part in parts:
            part._widen(width)
        for f in fields(self):
            setattr(self, f.name, np.concatenate([getattr(part, f.name) for part in parts]))

    def append(self, tokens: NDArray[np.int64], logprobs: NDArray[np.float32]) -> None:
        """Append one token to each row."""
        if self.length.max(initial=0) >= self.tokens.shape[1]:
            self._widen(2 * self.tokens.shape[1])
        every = np.arange(len(self))
        self.tokens[every, self.length] = tokens
        self.logprobs[every, self.length] = logprobs
        self.total += logprobs
        self.length += 1

    def completion(self, row: int, token: int, logprob: float, finished: bool) -> Completion:
        """The completion of a row with one more token."""
        n = self.length[row]
        ids = np.append(self.tokens[row, :n], np.int32(token))
        return Completion(ids, np.append(self.logprobs[row, :n], np.float32(logprob)), finished)

    def _widen(self, width: int) -> None:
        for name in ("tokens", "logprobs"):
            array: NDArray[Any] = getattr(self, name)
            if array.shape[1] < width:
                setattr(self, name, np.pad(array, ((0, 0), (0, width - array.shape[1]))))
