"""Forward passes of a causal language model over a shared-prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solver.infer.attention import Pass, modules_pass
from solver.infer.cache import CachedPrompt, Index, SharedPrefixCache
from solver.infer.fused_decoding import FusedDecodingPass
from solver.model import threads
from solver.model.lora import LoraStack
from solver.model.positions import from_start, positions_of
from solver.types import TokenIds

PREFILL_TOKENS = {"cpu": 2048, "cuda": 32768}  # per pass: enough to use the device fully, and short enough to stop in time
# Maximum number of attention scores, or of logits, of a pass that reads several tokens per row. The value for CUDA is assumed.
PIECE_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
BUSY_ROWS = {"cpu": 16, "cuda": 256}  # decoding more rows than this at once saves little time per row


class Forward:
    """The model as two functions: `prefill` writes prompts into slots, `extend` appends tokens to rows. Both return logits."""

    def __init__(self, model: Any, device: torch.device, stack: LoraStack | None = None, keep_tokens: int = 0) -> None:
        """With a `stack` of adapters, every prompt uses the adapter of the number that comes with it.

        The keys and values of up to `keep_tokens` prompt tokens are kept for later caches.
        """
        self._stack = stack
        self.keep_tokens = keep_tokens
        # from an adapter's number and the bytes of a prompt to the prompt and the logits after it; oldest first
        self._kept: dict[tuple[int, bytes], tuple[CachedPrompt, Tensor]] = {}
        self.model = model
        self.device = device
        self._positions = positions_of(model.config)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        kind = "cuda" if device.type == "cuda" else "cpu"
        self.prefill_tokens, self.busy_rows = PREFILL_TOKENS[kind], BUSY_ROWS[kind]
        self._piece_elements = PIECE_ELEMENTS[kind]
        self._pass: Pass = FusedDecodingPass(model).logits if FusedDecodingPass.fits(model) else modules_pass(model)

    def prefill(
        self, cache: SharedPrefixCache, prompts: Sequence[TokenIds], adapters: Sequence[int], keep: bool = False
    ) -> Tensor:
        """Write the prompts into new slots of the cache. Returns the logits after each prompt, (prompts, vocabulary).

        Prompts that are kept from an earlier call are copied, not computed, and are not kept any longer. With `keep`, these
        prompts are kept; the oldest ones are dropped if all together have more than `keep_tokens` tokens.
        """
        names = [(adapter, prompt.tobytes()) for prompt, adapter in zip(prompts, adapters, strict=True)]
        known = [self._kept.get(name) for name in names]
        first = cache.slots
        logits: list[Tensor] = []
        for new, run in groupby(range(len(prompts)), lambda n: known[n] is None):
            places = list(run)
            if new:
                logits += self._prefill(cache, [prompts[n] for n in places], [adapters[n] for n in places])
                continue
            for n in places:
                prompt, after = known[n]  # type: ignore[misc]
                cache.add_prompt(prompt, adapters[n])
                logits.append(after)
        for n, name in enumerate(names):
            self._kept.pop(name, None)
            if keep:
                self._kept[name] = known[n] or (cache.prompt(first + n), logits[n])
        while sum(prompt.tokens for prompt, _ in self._kept.values()) > self.keep_tokens:
            del self._kept[next(iter(self._kept))]
        return torch.stack(logits)

    def unread(self, prompts: Sequence[TokenIds], adapters: Sequence[int]) -> int:
        """The number of tokens of those prompts that are not kept, and so have to be computed."""
        return sum(len(p) for p, adapter in zip(prompts, adapters, strict=True) if (adapter, p.tobytes()) not in self._kept)

    def forget(self) -> None:
        """Drop all prompts that are kept, to free their memory."""
        self._kept.clear()

    def _prefill(self, cache: SharedPrefixCache, prompts: Sequence[TokenIds], adapters: Sequence[int]) -> Tensor:
        lengths = np.array([len(prompt) for prompt in prompts])
        ids = np.zeros((len(prompts), lengths.max()), dtype=np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        positions = from_start(self._positions, torch.from_numpy(ids))
        cache.begin_prefill(lengths, np.asarray(adapters, dtype=np.int64), positions.numpy()[np.arange(len(ids)), lengths - 1])
        ends, place = np.unique(lengths - 1, return_inverse=True)
        self._use(cache.adapter_of[-len(prompts) :])
        logits = self._call(cache, self._tensor(ids), positions.to(self.device), self._tensor(ends))
        return logits[torch.arange(len(ids), device=self.device), self._tensor(place)]

    def extend(self, cache: SharedPrefixCache, first: int, ids: Index) -> Tensor:
        """Append `ids`, (rows, new), to the rows from `first` on. Returns the logits after each, (rows, new, vocabulary)."""
        positions = self._positions.follow(torch.from_numpy(ids), torch.from_numpy(cache.last[first:]))
        cache.begin_extend(first, ids.shape[1])
        self._use(cache.adapter_of[cache.slot_of[first:]])
        logits = self._call(cache, self._tensor(ids), positions.to(self.device), None)
        cache.end_extend(first, ids.shape[1], positions[:, -1].numpy())
        return logits

    def piece(self, cache: SharedPrefixCache) -> int:
        """How many tokens of each row of `cache` to read in one pass, so that attention scores and logits stay small."""
        heads = self.model.config.get_text_config().num_attention_heads
        widest = int(np.bincount(cache.slot_of).max(initial=0)) * cache.slots
        each = max(widest * cache.longest_prefix * heads, cache.rows * self.vocabulary, 1)
        return max(1, self._piece_elements // each)

    def _use(self, adapters: Index) -> None:
        """Set the adapter that each row of the coming pass uses."""
        if self._stack is not None:
            self._stack.set_rows(self._tensor(adapters))

    def _call(self, cache: SharedPrefixCache, ids: Tensor, positions: Tensor, keep: Tensor | None) -> Tensor:
        threads.adjust()
        return self._pass(ids, positions, cache, keep)

    def _tensor(self, array: Index) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
