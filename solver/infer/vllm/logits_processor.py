"""Chooses the next token inside vLLM: draws samples, and leaves out what the grammar of grids forbids.

vLLM decodes greedily. This processor chooses a token and sets the logits of all others to minus infinity, so vLLM has to take
it. That makes samples equal to those of the HF engine, on every device and whatever else is in the batch. vLLM takes
log-probabilities before it calls logits processors, so those of a result are the model's own. This module imports vllm: only
the shim may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from solver.codec import GridGrammar
from solver.infer.grammar import STATE, GridMachine, GridState
from solver.infer.token_choice import draw
from solver.types import TokenForcer

ARGUMENT = "solver_choice_params"  # the key of the ChoiceParams in SamplingParams.extra_args


@dataclass(frozen=True)
class ChoiceParams:
    """How to choose the tokens of one generation."""

    grammar: GridGrammar | None
    written: tuple[int, ...]  # the part of the answer that the prompt ends with
    temperature: float  # 0: the most probable token
    key: int  # random numbers are a function of this key and of the place in the answer
    forcer: Callable[[], TokenForcer] | None = None  # as in SampleRequest

    def __deepcopy__(self, memo: dict[int, Any]) -> ChoiceParams:
        """Itself, as nothing in it can change: vLLM copies the parameters of every request deeply, which took a millisecond."""
        return self


@dataclass(eq=False)
class _Generation:
    params: ChoiceParams
    state: GridState
    output: list[int]  # vLLM's own list of new tokens, to which it appends
    read: int = 0  # how many tokens of `output` the state includes
    forcer: TokenForcer | None = None
    followed: int = 0  # how many tokens of `output` the forcer has seen

    def next_forced(self) -> int | None:
        """The token that must come next, after the forcer has seen what vLLM appended since the last call."""
        if self.forcer is None:
            return None
        new = self.output[self.followed :]
        self.followed += len(new)
        return self.forcer.follow(new)


def catch_up(rows: Sequence[_Generation], machine: GridMachine) -> GridState:
    """(rows, STATE): the grammar's states, after they were advanced by the tokens that vLLM has appended since the last call.

    All rows advance by a token at once, because vLLM appends one to each in a step.
    """
    states = np.concatenate([row.state for row in rows])
    while behind := [place for place, row in enumerate(rows) if row.read < len(row.output)]:
        moved = states[behind]
        machine.advance(moved, np.array([rows[place].output[rows[place].read] for place in behind]))
        states[behind] = moved
        for place in behind:
            rows[place].read += 1
    for place, row in enumerate(rows):
        row.state = states[place : place + 1]
    return states


class TokenChoiceProcessor(LogitsProcessor):
    """Chooses the next token of every request that carries a `ChoiceParams`; leaves the logits of other requests alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._vocabulary = vllm_config.model_config.get_vocab_size()
        self._machines: dict[GridGrammar, GridMachine] = {}
        self._rows: dict[int, _Generation] = {}

    def is_argmax_invariant(self) -> bool:
        """False: it changes which token greedy decoding takes."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow requests as they enter, leave and move within the batch."""
        process_dict_updates(self._rows, batch_update, self._enter)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Change the logits, (rows, vocabulary), in place."""
        for grammar in {row.params.grammar for row in self._rows.values()}:
            numbers = [number for number, row in self._rows.items() if row.params.grammar == grammar]
            self._choose(logits, numbers, self._machine(grammar))
        return logits

    def _choose(self, logits: torch.Tensor, numbers: list[int], machine: GridMachine | None) -> None:
        rows = [self._rows[number] for number in numbers]
        index = torch.tensor(numbers, device=logits.device)
        legal = torch.log_softmax(logits[index].float(), -1)
        if machine is not None:
            columns = torch.from_numpy(machine.columns).to(logits.device)
            hidden = torch.from_numpy(~machine.allowed(catch_up(rows, machine))).to(logits.device)
            legal = legal[:, columns].masked_fill_(hidden, -torch.inf)
        picked = draw(
            legal,
            np.array([row.params.temperature for row in rows]),
            np.array([row.params.key for row in rows], dtype=np.uint64),
            np.array([len(row.params.written) + len(row.output) for row in rows], dtype=np.int64),
        )
        if machine is not None:
            picked = columns[picked]
        for place, row in enumerate(rows):
            if (forced := row.next_forced()) is not None:
                picked[place] = forced
        chosen = logits[index, picked]
        logits[index] = -torch.inf
        logits[index, picked] = chosen

    def _machine(self, grammar: GridGrammar | None) -> GridMachine | None:
        if grammar is not None and grammar not in self._machines:
            self._machines[grammar] = GridMachine(grammar, self._vocabulary)
        return None if grammar is None else self._machines[grammar]

    def _enter(self, sampling: Any, prompt: list[int] | None, output: list[int]) -> _Generation | None:  # noqa: ARG002
        params = (sampling.extra_args or {}).get(ARGUMENT)
        if params is None:
            return None
        row = _Generation(params, np.zeros((1, STATE), dtype=np.int16), list(params.written))
        machine = self._machine(params.grammar)
        if machine is not None:
            catch_up([row], machine)
        row.forcer = None if params.forcer is None else params.forcer()
        row.output, row.read = output, 0
        return row
