"""How the rows of a static batch continue: with one token each, or with every token above a threshold. Device operations only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solver.infer.static.randomness import draw, uniform
from solver.infer.static.rules import TokenRules
from solver.infer.static.state import BatchState


@dataclass(frozen=True, eq=False)
class Choice:
    """The rows after a choice, (slots, width) each. Entries of rows that are not live mean nothing."""

    live: Tensor
    parent: Tensor | None  # the row that each continues; None: itself
    choice: Tensor  # index into the tokens of the rules
    logprob: Tensor


def choose_one(state: BatchState, rules: TokenRules, drawn: bool) -> Choice:
    """Every row continues with one token: the most probable, or, if `drawn`, one drawn at the temperature of its slot.

    Rows that end, or reach their limit, are recorded as finished.
    """
    allowed = rules.allowed(state.grammar)
    legal = state.choices if allowed is None else state.choices.masked_fill(~allowed, -torch.inf)
    if drawn:
        numbers = uniform(state.keys, state.length[:, None].expand_as(state.keys))
        picked = draw(legal, state.temperature, numbers)
    else:
        picked = legal.argmax(-1)
    logprob = legal.gather(-1, picked[..., None])[..., 0]
    closed = state.live & (rules.ends[picked] | _at_limit(state))
    _record(state, rules, closed, state.row_index, picked, logprob)
    return Choice(state.live & ~closed, None, picked, logprob)


def choose_all(state: BatchState, rules: TokenRules) -> Choice:
    """Rows continue with every token that keeps their probability above the threshold of their slot, and so may branch."""
    slots, width, choices = state.choices.shape
    kept = state.live[..., None] & (state.choices >= (state.threshold - state.total)[..., None])
    allowed = rules.allowed(state.grammar)
    if allowed is not None:
        kept = kept & allowed
    closed = (kept & (rules.ends | _at_limit(state)[..., None])).flatten(1)
    going = kept.flatten(1) & ~closed
    every = state.candidate_index
    row, column = every // choices, every % choices
    logprob = state.choices.flatten(1)
    _record(state, rules, closed, row, column, logprob)
    rank = going.cumsum(1)
    count = rank[:, -1:]
    state.crowded.logical_or_(count[:, 0] > width)
    place = torch.where(going & (rank <= width), rank - 1, width)
    source = torch.zeros(slots, width + 1, dtype=torch.int64, device=every.device).scatter_(1, place, every)[:, :width]
    parent, gained = source // choices, logprob.gather(1, source)
    state.total.copy_(state.total.gather(1, parent) + gained)
    return Choice(state.row_index < count, parent, source % choices, gained)


def _at_limit(state: BatchState) -> Tensor:
    """(slots, 1): whether the next token of a row is its last one."""
    return (state.length + 1 >= state.limit)[:, None]


def _record(state: BatchState, rules: TokenRules, closed: Tensor, row: Tensor, choice: Tensor, logprob: Tensor) -> None:
    """Record those candidates, (slots, candidates), that are `closed` as finished completions of the rows `row`."""
    done, spare = state.done, state.done.token.shape[1] - 1
    rank = closed.cumsum(1)
    place = torch.where(closed, (state.done_count[:, None] + rank - 1).clamp(max=spare), spare)
    done.parent.scatter_(1, place, row.to(done.parent.dtype))
    done.token.scatter_(1, place, rules.tokens[choice].to(done.token.dtype))
    done.logprob.scatter_(1, place, logprob)
    state.done_place.scatter_(1, place, state.length[:, None].expand_as(place))
    state.done_count.add_(rank[:, -1])
