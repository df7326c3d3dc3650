"""A static batch as the host sees it: it writes prompts into slots, lets the device step, and reads finished completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solver.infer.cache import SharedPrefixCache
from solver.infer.static.graphs import Repeater
from solver.infer.static.one_token_pass import OneTokenPass
from solver.infer.static.requests import Part
from solver.infer.static.rules import TokenRules
from solver.infer.static.shapes import BatchShape, rounded_columns
from solver.infer.static.state import BatchState
from solver.infer.static.step import DecodeStep, Mode
from solver.model.positions import Positions
from solver.types import Completion

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Report:
    """What the host sees of all slots when it looks, (slots,) each."""

    live: Counts  # rows
    done: Counts  # finished completions
    broken: Counts  # not 0: the model gave NaN
    crowded: Counts  # not 0: rows or columns were not enough
    length: Counts  # new tokens of every live row
    used: Counts  # columns after the prompt, one for each token that was chosen and did not finish a completion


class StaticBatch:
    """The buffers of one shape, and the steps that were captured for them. Serves one set of requests after the other."""

    def __init__(self, model: Any, shape: BatchShape, mode: Mode, rules: TokenRules, positions: Positions) -> None:
        device = model.get_output_embeddings().weight.device
        self.shape, self._mode, self._rules, self._device = shape, mode, rules, device
        self._pass = OneTokenPass(model, shape)
        self._state = BatchState(shape, self._pass, len(rules), len(positions.start), device)
        self._repeater = Repeater(DecodeStep(self._state, self._pass, rules, positions, mode), device)
        self._prompt = np.zeros(shape.slots, dtype=np.int64)  # tokens of the prompt in each slot
        self._reach = np.zeros(shape.slots, dtype=np.int64)  # columns that each live slot had used at the last look

    @property
    def memory(self) -> int:
        """Bytes of the keys and values."""
        return sum(buffer.numel() * buffer.element_size() for pair in self._state.kv for buffer in pair)

    def clear(self) -> None:
        """End all rows."""
        self._state.live.zero_()
        self._reach[:] = 0

    def load(self, model: Any, adapters: Sequence[int]) -> None:
        """Give lane i the adapter number `adapters[i]` of the stack in `model`."""
        self._pass.load(model, adapters)

    def admit(
        self, slots: Sequence[int], parts: Sequence[Part], cache: SharedPrefixCache, logits: Tensor, places: Sequence[int]
    ) -> None:
        """Start parts in free slots.

        The prompt of part i is in slot `places[i]` of `cache`, and row `places[i]` of `logits` has the logits after it.
        """
        state, width = self._state, self.shape.width
        into, source = (torch.tensor(list(index), device=self._device) for index in (slots, places))
        longest = max(len(part.prompt) for part in parts)
        for buffers, states in zip(state.kv, cache.prefixes(), strict=True):
            for buffer, some in zip(buffers, states, strict=True):
                buffer.index_fill_(0, into, 0)  # there may be NaN, and NaN times 0 is NaN
                buffer[:, :, :longest].index_copy_(0, into, some[source, :, :longest])
        keys = np.zeros((len(parts), width), dtype=np.uint64)
        rows = np.array([len(part.keys) for part in parts])
        for row, part in zip(keys, parts, strict=True):
            row[: len(part.keys)] = part.keys
        lengths = np.array([len(part.prompt) for part in parts], dtype=np.int64)
        columns = np.arange(state.visible.shape[2])

        def write(target: Tensor, values: NDArray[Any]) -> None:
            target[into] = torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

        write(state.prompt, lengths)
        write(state.limit, np.array([part.limit for part in parts], dtype=np.int64))
        write(state.temperature, np.array([[part.temperature] for part in parts]))
        write(state.threshold, np.array([[part.threshold] for part in parts]))
        write(state.keys, keys.view(np.int64))
        write(state.live, np.arange(width) < rows[:, None])
        write(state.last, np.repeat(cache.prefix_last[list(places), None], width, 1))
        write(state.visible, np.repeat((columns < lengths[:, None])[:, None], width, 1))
        for counter in (state.length, state.used, state.broken, state.crowded, state.total, state.done_count):
            counter[into] = 0
        state.grammar[:, into] = 0
        state.choices[into] = self._rules.logprobs(logits)[source, None].expand(-1, width, -1)
        self._prompt[list(slots)] = self._reach[list(slots)] = lengths

    def captured(self, steps: int) -> bool:
        """Whether `run(steps)` needs no capture."""
        return self._repeater.captured(self._columns(steps))

    def run(self, steps: int) -> None:
        """Advance every live row by at most `steps` tokens."""
        self._repeater.run(self._columns(steps), steps)

    def look(self) -> Report:
        """Wait for the device, and see how far it is."""
        report = Report(*self._state.report().cpu().numpy())
        self._reach = np.where(report.live > 0, self._prompt + report.used, 0)
        return report

    def read(self, slots: Sequence[int]) -> list[list[Completion]]:
        """The finished completions of some slots."""
        if not slots:
            return []
        state, index = self._state, torch.tensor(list(slots), device=self._device)
        count = max(1, int(state.done_count[index].max()))
        places = state.done_place[index, :count]
        longest = int(places.max())

        def host(tensor: Tensor, columns: int) -> NDArray[Any]:
            return tensor[:, :columns].index_select(0, index).cpu().numpy()

        done = [host(tensor, count) for tensor in (state.done.parent, state.done.token, state.done.logprob)]
        history = [host(t, longest) for t in (state.history.parent, state.history.token, state.history.logprob)]
        counts, place = state.done_count[index].cpu().numpy(), places.cpu().numpy()
        return [
            [
                self._completion([array[n] for array in history], int(place[n, at]), *(array[n, at] for array in done))
                for at in range(counts[n])
            ]
            for n in range(len(slots))
        ]

    def _completion(self, history: Sequence[NDArray[Any]], place: int, row: Any, token: Any, logprob: Any) -> Completion:
        """The completion that ends with `token` at `place`, after the tokens of a row."""
        parents, tokens, logprobs = history
        rows = np.full(place, row, dtype=np.int64)
        if self._mode == "search":
            for at in range(place - 1, 0, -1):
                rows[at - 1] = parents[at, rows[at]]
        places = np.arange(place)
        ids = np.append(tokens[places, rows], token).astype(np.int32)
        return Completion(ids, np.append(logprobs[places, rows], logprob).astype(np.float32), bool(token == self._rules.end))

    def _columns(self, steps: int) -> int:
        """The columns to read in the next steps."""
        need = int(self._reach.max(initial=0)) + steps * self.shape.width
        return min(rounded_columns(need), self.shape.columns)
