"""One decoding step of a static batch: choose the next token of every row, and compute the log-probabilities after it.

A step reads and writes the tensors of the batch, and nothing else. It never waits for the device, and what it does depends on no
value in these tensors. So it can be captured once and repeated.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from solver.infer.static.choosing import Choice, choose_all, choose_one
from solver.infer.static.one_token_pass import OneTokenPass, Where
from solver.infer.static.rules import TokenRules
from solver.infer.static.state import BatchState
from solver.model.positions import Positions

Mode = Literal["greedy", "sample", "search"]


class DecodeStep:
    """The step of one batch in one mode; calling it advances every live row by one token."""

    def __init__(self, state: BatchState, model: OneTokenPass, rules: TokenRules, positions: Positions, mode: Mode) -> None:
        self._state, self._model, self._rules, self._positions, self._mode = state, model, rules, positions, mode

    def __call__(self, columns: int) -> None:
        """One step. It reads the first `columns` columns of keys and values, which must hold all that live rows see and write."""
        state, rules = self._state, self._rules
        started = state.live.any(1)
        state.broken.logical_or_((state.live & state.choices[..., 0].isnan()).any(1))
        state.live.logical_and_(~state.broken[:, None])
        choice = choose_all(state, rules) if self._mode == "search" else choose_one(state, rules, self._mode == "sample")
        tokens = rules.tokens[choice.choice]
        self._remember(choice, tokens, columns)
        where = self._place(choice, columns)
        rows = state.shape.rows
        positions = self._positions.follow(tokens.view(rows, 1), state.last.view(rows, -1))
        state.last.copy_(positions.view(state.last.shape))
        logits = self._model(tokens.view(rows, 1), positions, where, state.kv)
        state.choices.copy_(rules.logprobs(logits).view(state.choices.shape))
        state.length.add_(started)

    def _remember(self, choice: Choice, tokens: Tensor, columns: int) -> None:
        """Write the chosen tokens into the history, and move the rows' state to where they are now."""
        state, history, parent = self._state, self._state.history, choice.parent
        place = state.length.clamp(max=history.token.shape[1] - 1)[:, None, None].expand(-1, 1, tokens.shape[1])
        history.token.scatter_(1, place, tokens[:, None].to(history.token.dtype))
        history.logprob.scatter_(1, place, choice.logprob[:, None])
        grammar = state.grammar
        if parent is not None:
            history.parent.scatter_(1, place, parent[:, None].to(history.parent.dtype))
            grammar = grammar.gather(2, parent.expand_as(grammar))
            state.last.copy_(state.last.gather(1, parent[..., None].expand_as(state.last)))
            visible = state.visible[:, :, :columns]
            visible.copy_(visible.gather(1, parent[..., None].expand_as(visible)))
        state.grammar.copy_(self._rules.advance(grammar, choice.choice))

    def _place(self, choice: Choice, columns: int) -> Where:
        """Give every live row the next free column of its slot. Slots without enough columns are crowded, and stop."""
        state, model = self._state, self._model
        rank = choice.live.cumsum(1)
        count, first = rank[:, -1], state.prompt + state.used
        state.crowded.logical_or_(first + count > state.shape.columns)
        state.live.copy_(choice.live & ~state.crowded[:, None])
        column = torch.where(state.live, first[:, None] + rank - 1, state.unread)
        state.visible.scatter_(2, column[..., None], value=True)
        state.used.add_(count)
        seen = state.visible[:, None, None, :, :columns]
        slots, width = column.shape
        hidden = torch.zeros(slots, 1, 1, width, columns, dtype=model.dtype, device=column.device)
        hidden = hidden.masked_fill_(~seen, -torch.inf).expand(-1, -1, model.group, -1, -1)
        return Where(state.slot_index, column, hidden.reshape(slots, 1, -1, columns), columns)
