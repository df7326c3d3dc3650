"""The logits of one token along given completions, from which verifiers make values. The prompt is read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from solver.infer.cache import SharedPrefixCache, positions
from solver.infer.forward import Forward
from solver.infer.pace import Pace
from solver.types import Deadline, TokenIds


class LogitReader:
    """Reads completions with at most `budget` key/value positions in memory, though one completion always runs."""

    def __init__(self, forward: Forward, token: int, budget: int) -> None:
        self._forward, self._token, self._budget = forward, token, budget
        self._pace = Pace()

    @torch.inference_mode()
    def read(
        self, prompt: TokenIds, completions: Sequence[TokenIds], deadline: Deadline
    ) -> tuple[NDArray[np.float32], ...] | None:
        """For each completion the logits (tokens,) of the token after each of its tokens. None: the deadline came first.

        Raises MemoryError or RuntimeError if memory runs out.
        """
        if deadline.expired(self._pace.reach("prompt", len(prompt))):
            return None
        cache = SharedPrefixCache(self._forward.device, self._budget)
        with self._pace.measure("prompt", len(prompt), deadline.clock):
            self._forward.prefill(cache, [prompt], [0])
        # completions of similar length share a batch, so that little is padding
        waiting = sorted(range(len(completions)), key=lambda n: len(completions[n]))
        found: dict[int, NDArray[np.float32]] = {}
        while waiting:
            rows = self._rows(len(prompt), [len(completions[n]) for n in waiting])
            batch, waiting = waiting[:rows], waiting[rows:]
            logits = self._extend(cache, [completions[n] for n in batch], deadline)
            if logits is None:
                return None
            found.update(zip(batch, logits, strict=True))
            cache.set_rows(np.zeros(0, dtype=np.int64))
        return tuple(found[n] for n in range(len(completions)))

    def _rows(self, prompt: int, lengths: Sequence[int]) -> int:
        """How many of the first completions, sorted by length, fit the budget beside the prompt; at least one."""
        fitting = [n for n in range(1, len(lengths) + 1) if positions(1, prompt, n, lengths[n - 1]) <= self._budget]
        return max(fitting, default=1)

    def _extend(
        self, cache: SharedPrefixCache, completions: Sequence[TokenIds], deadline: Deadline
    ) -> list[NDArray[np.float32]] | None:
        width = max(map(len, completions))
        ids = np.zeros((len(completions), width), dtype=np.int64)
        for row, completion in zip(ids, completions, strict=True):
            row[: len(completion)] = completion
        logits = np.zeros(ids.shape, dtype=np.float32)
        if width:
            cache.add_rows(np.zeros(len(ids), dtype=np.int64))
            piece = self._forward.piece(cache)
            for start in range(0, width, piece):
                read = ids[:, start : start + piece]
                if deadline.expired(self._pace.reach("piece", read.size)):
                    return None
                with self._pace.measure("piece", read.size, deadline.clock):
                    out = self._forward.extend(cache, 0, read)[..., self._token]
                    logits[:, start : start + read.shape[1]] = out.float().cpu().numpy()
        return [row[: len(completion)].copy() for row, completion in zip(logits, completions, strict=True)]
