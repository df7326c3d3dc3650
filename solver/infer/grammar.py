"""The grammar of grid answers as a state machine that runs on many rows at once: it says which tokens may come next."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solver.codec import GridGrammar

STATE = 3  # numbers per row: the width of the grid (0 in its first line), the column and the line of the next token
GridState = NDArray[np.int16]  # (rows, STATE)


class GridMachine:
    """Accepts grids: lines of equal width with `newline` between them and `end` after them, at most `max_side` wide and high.

    With `GridGrammar.closes_rows`, the last line has a `newline`, too, before `end`.
    """

    def __init__(self, grammar: GridGrammar, vocabulary: int) -> None:
        self.max_side, self._closes_rows = grammar.max_side, grammar.closes_rows
        self.columns = np.array([*grammar.cells, grammar.newline, grammar.end], dtype=np.int64)  # all tokens of the grammar
        self._cells = len(grammar.cells)
        kind = np.full(vocabulary, -1, dtype=np.int64)
        kind[self.columns] = np.arange(len(self.columns))
        self._kind = kind

    def allowed(self, state: GridState) -> NDArray[np.bool_]:
        """(rows, len(columns)): whether each token of `columns` may come next. In every row at least one may."""
        width, column, line = state.T
        first = width == 0
        full = np.where(first, column >= 1, column == width)  # whether the line may end here
        mask = np.empty((len(state), len(self.columns)), dtype=bool)
        lines = self.max_side if self._closes_rows else self.max_side - 1  # the maximum number of newlines
        mask[:, : self._cells] = ((column < np.where(first, self.max_side, width)) & (line < self.max_side))[:, None]
        mask[:, self._cells] = full & (line < lines)
        mask[:, self._cells + 1] = (column == 0) & (line > 0) if self._closes_rows else full
        return mask

    def advance(self, state: GridState, tokens: NDArray[np.int64]) -> None:
        """Advance every row's state, in place, by one token. The tokens must be allowed, and no row may have ended."""
        cell = self._kind[tokens] < self._cells
        closed = ~cell
        state[cell, 1] += 1
        open_width = closed & (state[:, 0] == 0)
        state[open_width, 0] = state[open_width, 1]
        state[closed, 1] = 0
        state[closed, 2] += 1
