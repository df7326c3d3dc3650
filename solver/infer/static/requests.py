"""What a static batch needs to know about a request, and the parts in which a request takes slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solver.infer.token_choice import sample_keys
from solver.types import SampleRequest, SearchRequest, TokenIds

MAX_WIDTH = 16  # rows in a slot that a request gets at first; more samples are divided among slots
MAX_COMPLETIONS = 1024  # completions that a search may have (1 / min_prob); a smaller probability is left to the other decoder
EXPECTED_TOKENS = 256  # columns that a row needs, as long as nothing else is known
EXPECTED_BRANCHES = 3  # rows of a search whose columns are reckoned with at first


@dataclass(eq=False)
class Part:
    """Completions that one slot makes for a request: some of its samples, or its search."""

    request: int  # number of the request among those of the call
    prompt: TokenIds
    limit: int  # new tokens of a row at most
    adapter: int  # number in the stack of the forward pass
    keys: NDArray[np.uint64]  # (rows at the start,), of their random numbers
    temperature: float
    threshold: float  # log-probability of a search, nats
    completions: int  # at most
    width: int  # rows that it needs at the same time
    columns: int  # for its new tokens

    @property
    def max_columns(self) -> int:
        """The columns for new tokens that it can need at most."""
        return self.completions * self.limit

    def enlarge(self) -> None:
        """Take more rows and columns the next time: those of the slot were not enough."""
        self.width = min(self.completions, 2 * self.width)
        self.columns = min(self.max_columns, 4 * self.columns)


def servable(request: SampleRequest | SearchRequest) -> bool:
    """Whether a static batch serves it: no search for too many completions, and no forcer, which would make the host wait."""
    if isinstance(request, SearchRequest):
        return request.min_prob * MAX_COMPLETIONS >= 1
    return request.forcer is None


def parts_of(number: int, request: SampleRequest | SearchRequest, limit: int, adapter: int) -> list[Part]:
    """The parts of request `number`, whose rows may have `limit` new tokens."""
    if isinstance(request, SearchRequest):
        most = int(1 / request.min_prob) + 1
        width, threshold = min(most, MAX_WIDTH), float(np.log(request.min_prob))
        columns = min(most * limit, EXPECTED_BRANCHES * EXPECTED_TOKENS)
        one = np.zeros(1, dtype=np.uint64)
        return [Part(number, request.prompt, limit, adapter, one, 0.0, threshold, most, width, columns)]
    keys = sample_keys(request)
    pieces: Sequence[NDArray[np.uint64]] = np.array_split(keys, -(-len(keys) // MAX_WIDTH))
    return [
        Part(
            number, request.prompt, limit, adapter, piece, request.temperature, 0.0, len(piece), len(piece),
            len(piece) * min(limit, EXPECTED_TOKENS),
        )
        for piece in pieces
    ]  # fmt: skip
