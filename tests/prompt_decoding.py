"""Reads an encoded prompt back: the inverse of `Codec.prompt`."""

from __future__ import annotations

import numpy as np

from solver.arc.grid import Grid
from solver.arc.task import Pair
from solver.codec import Codec
from solver.types import TokenIds


def decode_prompt(codec: Codec, ids: TokenIds) -> tuple[tuple[Pair, ...], Grid]:
    """The demonstrations and the query of an encoded prompt. Raises ValueError if `ids` is not a prompt of this codec."""
    rest = _strip(np.asarray(ids, dtype=np.int32), codec.begin)
    pairs: list[Pair] = []
    while True:
        rest = _strip(rest, codec.input_marker)
        shown, rest = _read_grid(codec, rest)
        rest = _strip(rest, codec.output_marker)
        if not len(rest):
            return tuple(pairs), shown
        output, rest = _read_grid(codec, rest)
        rest = _strip(rest, codec.closing)
        pairs.append(Pair(shown, output))


def _strip(ids: TokenIds, head: tuple[int, ...]) -> TokenIds:
    if tuple(ids[: len(head)]) != head:
        raise ValueError(f"expected the tokens {head}, not {tuple(ids[: len(head)])}")
    return ids[len(head) :]


def _read_grid(codec: Codec, ids: TokenIds) -> tuple[Grid, TokenIds]:
    inside = np.isin(ids, (*codec.cells, codec.newline))
    stop = len(ids) if inside.all() else int(np.argmin(inside))
    # an output marker may itself begin with the separator; a grid never ends with it
    while stop and ids[stop - 1] == codec.newline:
        stop -= 1
    grid = codec.decode_answer(np.append(ids[:stop], codec.closing))
    if grid is None:
        raise ValueError("not a grid")
    return grid, ids[stop:]
