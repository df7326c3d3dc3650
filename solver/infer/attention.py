"""A model's own modules over a shared-prefix cache: those of this package, and those of any architecture of transformers.

Models of transformers write to the cache through `past_key_values`, and read it through the attention function that is
registered here. So it works with every architecture that uses the attention interface of transformers, which is imported only
for such models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from solver.infer.cache import SharedPrefixCache
from solver.model.cell_decoder import CellDecoder
from solver.model.positions import for_model

ATTENTION = "solver_shared_prefix"  # the name to put in a model's config._attn_implementation

# ids (rows, new), positions (rows, new, axes), cache, columns to keep (kept,) or None for all -> logits (rows, kept, vocabulary)
Pass = Callable[[Tensor, Tensor, SharedPrefixCache, Tensor | None], Tensor]


def modules_pass(model: Any) -> Pass:
    """The forward pass through the modules of a causal language model. It sets the attention of models of transformers."""
    return _own_pass(model) if isinstance(model.get_decoder(), CellDecoder) else _transformers_pass(model)


def _own_pass(model: Any) -> Pass:
    def logits(ids: Tensor, positions: Tensor, cache: SharedPrefixCache, keep: Tensor | None) -> Tensor:
        out: Tensor = model(ids, positions, cache=cache, logits_to_keep=0 if keep is None else keep).logits
        return out

    return logits


def _transformers_pass(model: Any) -> Pass:
    from transformers import AttentionInterface, DynamicCache

    class Writer(DynamicCache):
        """What the layers write their keys and values to."""

        def __init__(self, cache: SharedPrefixCache) -> None:
            super().__init__()
            self._cache = cache

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            """Write them to the shared cache."""
            return self._cache.update(key_states, value_states, layer_idx)

    AttentionInterface.register(ATTENTION, _attention)
    model.config._attn_implementation = ATTENTION

    def logits(ids: Tensor, positions: Tensor, cache: SharedPrefixCache, keep: Tensor | None) -> Tensor:
        out: Tensor = model(
            input_ids=ids,
            position_ids=for_model(positions),
            past_key_values=Writer(cache),
            use_cache=True,
            logits_to_keep=0 if keep is None else keep,
            shared_cache=cache,
        ).logits
        return out

    return logits


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,  # None: transformers makes no mask for an attention function that it does not know
    *,
    scaling: float | None = None,
    shared_cache: SharedPrefixCache | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function for transformers' interface. Returns (batch, new, query heads, head size)."""
    if shared_cache is None:
        raise RuntimeError(f"{type(module).__name__} does not pass keyword arguments on to its attention function")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = shared_cache.attend(query, key, value, module.layer_idx, scale)  # type: ignore[arg-type]
    return out.transpose(1, 2), None
