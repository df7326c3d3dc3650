"""Which tokens may come next, for all rows of a static batch, by operations of the device alone."""

from __future__ import annotations

import torch
from torch import Tensor

from solver.codec import GridGrammar


class TokenRules:
    """The tokens among which completions choose (`tokens`), and the state machine of `infer.grammar.GridMachine` over them.

    Without a grammar all tokens of the vocabulary may come next at any time.
    """

    def __init__(self, grammar: GridGrammar | None, end: int, vocabulary: int, device: torch.device) -> None:
        self._grammar = grammar
        ids = list(range(vocabulary)) if grammar is None else [*grammar.cells, grammar.newline, grammar.end]
        cells = len(ids) if grammar is None else len(grammar.cells)
        self.end = end
        self.tokens = torch.tensor(ids, device=device)  # (choices,) int64
        self.ends = self.tokens == end  # (choices,) bool
        self._kind = torch.tensor([max(0, place - cells + 1) for place in range(len(ids))], device=device)  # cell, newline, end

    def __len__(self) -> int:
        return len(self.tokens)

    def logprobs(self, logits: Tensor) -> Tensor:
        """(..., choices) float32: the log-probabilities of `tokens`, from logits (..., vocabulary)."""
        everything = torch.log_softmax(logits.float(), -1)
        return everything if self._grammar is None else everything.index_select(-1, self.tokens)

    def allowed(self, state: Tensor) -> Tensor | None:
        """(slots, width, choices) bool: what may come next in `state` (`grammar.STATE`, slots, width); None: everything."""
        if self._grammar is None:
            return None
        width, column, line = state
        first, side = width == 0, self._grammar.max_side
        full = torch.where(first, column >= 1, column == width)  # whether the line may end here
        closes = self._grammar.closes_rows
        cell = (column < torch.where(first, side, width)) & (line < side)
        newline = full & (line < (side if closes else side - 1))
        end = (column == 0) & (line > 0) if closes else full
        return torch.stack([cell, newline, end], -1).index_select(-1, self._kind)

    def advance(self, state: Tensor, choice: Tensor) -> Tensor:
        """The states, (`grammar.STATE`, slots, width), after the choices (slots, width), which are indices into `tokens`."""
        if self._grammar is None:
            return state
        width, column, line = state
        closed = self._kind[choice] > 0
        return torch.stack(
            [
                torch.where(closed & (width == 0), column, width),
                torch.where(closed, 0, column + 1),
                line + closed,
            ]
        )
