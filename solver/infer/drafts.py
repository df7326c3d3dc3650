"""Drafts: guesses at completions, so that a row reads many tokens in one forward pass instead of one.

A draft only says which log-probabilities to have ready; what a row takes is chosen as ever, token by token, and where it
departs from the draft the rest of what was read is dropped. This is speculative decoding (Leviathan et al. 2023) with
given guesses, for samples and for threshold searches. A row that departed goes on along the same draft, place by place, since
an answer that differs in a cell may still have the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver.infer.cache import Index
from solver.types import TokenIds

LEAST_RUN = 4  # tokens a miss: a row that has agreed less with a draft does not follow it


def readable(draft: TokenIds, vocabulary: int, end: int) -> Index:
    """The tokens of a draft that may be read: those before `end` and before anything that is no token."""
    ids = np.asarray(draft, dtype=np.int64)
    stop = np.flatnonzero((ids == end) | (ids < 0) | (ids >= vocabulary))
    return ids[: stop[0]] if len(stop) else ids


def guess(drafts: Sequence[Index], tokens: NDArray[np.integer[Any]], room: int) -> Index:
    """At most `room` tokens that may follow `tokens`, from the draft that differs from them in the fewest places.

    As many as have agreed per miss so far, since that is how far the agreement may reach.
    """
    n = len(tokens)
    best, fewest = np.zeros(0, dtype=np.int64), n // LEAST_RUN + 1
    for draft in drafts:
        misses = int(np.count_nonzero(draft[:n] != tokens)) if len(draft) > n else n
        if misses < fewest:
            best, fewest = draft, misses
    return best[n : n + min(room, n // fewest if fewest else room)]
