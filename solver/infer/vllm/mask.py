"""The grammar of grids inside vLLM's sampler: tokens that may not follow get no probability.

vLLM takes log-probabilities before its logits processors, so those of a result are the model's own. Imports vllm: only the
shim imports this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from solver.codec import GridGrammar
from solver.infer.grammar import STATE, GridMachine, GridState

ARGUMENT = "solver_grid"  # in SamplingParams.extra_args: (the grammar, the tokens of the answer that the prompt ends with)


@dataclass(eq=False)
class _Row:
    machine: GridMachine
    state: GridState
    output: list[int]  # vLLM's own list, which it appends to
    read: int = 0

    def catch_up(self) -> None:
        for token in self.output[self.read :]:
            self.machine.advance(self.state, np.array([token]))
        self.read = len(self.output)


class GridMask(LogitsProcessor):
    """Masks the rows of those requests that carry a grammar; the others are left alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:  # noqa: ARG002
        self._device = device
        self._vocabulary = vllm_config.model_config.get_vocab_size()
        self._machines: dict[GridGrammar, GridMachine] = {}
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Greedy decoding is masked, too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow requests as they enter, leave and move within the batch."""
        process_dict_updates(self._rows, batch_update, self._enter)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary), masked in place."""
        if not self._rows:
            return logits
        index = np.array(sorted(self._rows))
        hidden = np.ones((len(index), logits.shape[1]), dtype=bool)
        for place, number in enumerate(index):
            row = self._rows[number]
            row.catch_up()
            hidden[place, row.machine.columns] = ~row.machine.allowed(row.state)[0]
        rows = torch.from_numpy(index).to(logits.device)
        logits[rows] = logits[rows].masked_fill(torch.from_numpy(hidden).to(logits.device), -torch.inf)
        return logits

    def _enter(self, params: Any, prompt: list[int] | None, output: list[int]) -> _Row | None:  # noqa: ARG002
        if not params.extra_args or ARGUMENT not in params.extra_args:
            return None
        grammar, written = params.extra_args[ARGUMENT]
        machine = self._machines.setdefault(grammar, GridMachine(grammar, self._vocabulary))
        row = _Row(machine, np.zeros((1, STATE), dtype=np.int16), list(written))
        row.catch_up()
        row.output, row.read = output, 0
        return row
