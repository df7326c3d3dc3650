"""Residual dropout: while a model is trained, parts of what its blocks add to a state are dropped.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 5.4: dropout on the output of each sub-layer, before it is added.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from solver.errors import InputError

_BLOCKS = ("self_attn", "mlp")  # the names of attention and feed-forward block in the layers of transformers' decoders


def add_residual_dropout(model: Any, probability: float) -> None:
    """Drop numbers of what the blocks of `model` add, with `probability`, while it is in training mode.

    Raises InputError for a model whose layers have no blocks of the usual names.
    """
    layers = getattr(model.get_decoder(), "layers", ())
    blocks = [getattr(layer, name, None) for layer in layers for name in _BLOCKS]
    if not blocks or None in blocks:
        raise InputError(f"a model of type {model.config.model_type} has no blocks that residual dropout is known for")

    def drop(block: nn.Module, _: Any, output: Any) -> Any:
        if not block.training:
            return output
        if isinstance(output, Tensor):
            return functional.dropout(output, probability)
        first, *others = output
        return (functional.dropout(first, probability), *others)

    for block in blocks:
        assert block is not None
        block.register_forward_hook(drop)
