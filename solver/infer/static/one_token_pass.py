"""The forward pass of a decoding step: one token of every row of a static batch, with the adapter of the row's lane.

It reads the modules of a model by their names, so it computes decoders of Llama's shape, with or without norms of queries and
keys, biases, 4-bit weights, or LoRA layers of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from solver.infer.static.shapes import BatchShape
from solver.model.lora import LoraLinear
from solver.model.positions import rotation

KINDS = ("cell_decoder", "llama", "mistral", "qwen2", "qwen3")  # model types whose layers have this shape
STATIC_ROTARY = (None, "default", "linear", "llama3", "yarn")  # kinds whose frequencies do not depend on the positions
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")

KeysValues = list[tuple[Tensor, Tensor]]  # by layer, each (slots, heads, columns, head size)


def unsupported(model: Any) -> str:
    """Why this pass cannot compute a model, in a few words; empty if it can."""
    config = model.config
    if config.model_type not in KINDS:
        return f"models of the kind {config.model_type} have layers of another shape"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    kind = getattr(model.get_decoder().rotary_emb, "rope_type", None)
    return "" if kind in STATIC_ROTARY else f"its rotary frequencies ({kind}) depend on the length"


@dataclass(frozen=True)
class Where:
    """Where the tokens of a step stand in the buffers, the same for all layers."""

    slot: Tensor  # (slots, 1) int64
    column: Tensor  # (slots, width) int64: the columns to write
    hidden: Tensor  # (slots, 1, query heads per head * width, columns): 0 for what a row sees, -inf for the rest
    columns: int  # to read


class LaneLinear:
    """A linear layer with one low-rank update per lane: x W^T + scaling * x A^T B^T, with A and B of the lane.

    Source: LoRA (Hu et al. 2021), section 4.1, as batched products over the lanes.
    """

    def __init__(self, layer: nn.Module, lanes: int, dtype: torch.dtype) -> None:
        self._base: nn.Module = layer.base if isinstance(layer, LoraLinear) else layer
        self._scaling = 1.0
        self._a = self._b = None
        if isinstance(layer, LoraLinear):
            (_, rank, inner), outer = layer.a.shape, layer.b.shape[1]
            self._scaling = layer.shape.scaling
            self._a = torch.zeros(lanes, inner, rank, dtype=dtype, device=layer.a.device)
            self._b = torch.zeros(lanes, rank, outer, dtype=dtype, device=layer.a.device)

    def load(self, layer: nn.Module, numbers: Tensor) -> None:
        """Give lane i the adapter `numbers[i]` of the stack in `layer`."""
        if self._a is not None and self._b is not None:
            assert isinstance(layer, LoraLinear)
            self._a.copy_(layer.a[numbers].mT)
            self._b.copy_(layer.b[numbers].mT)

    def __call__(self, x: Tensor) -> Tensor:
        """(lanes, rows of a lane, in) -> (lanes, rows of a lane, out)."""
        out: Tensor = self._base(x)
        if self._a is None or self._b is None:
            return out
        return torch.baddbmm(out, x @ self._a, self._b, alpha=self._scaling)


@dataclass(frozen=True, eq=False)
class _Layer:
    attention_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None  # (head size,)
    key_norm: Tensor | None
    scaling: float
    linear: dict[str, LaneLinear]


class OneTokenPass:
    """The pass for batches of one shape. It keeps references to the modules of the model, and copies of adapters by lane."""

    def __init__(self, model: Any, shape: BatchShape) -> None:
        config, decoder = model.config, model.get_decoder()
        self._shape = shape
        self.layers, self.heads = len(decoder.layers), int(config.num_key_value_heads)
        self.head_size = int(decoder.layers[0].self_attn.head_dim)
        self.group = int(config.num_attention_heads) // self.heads  # query heads per head
        self.dtype = decoder.embed_tokens.weight.dtype
        self._eps = float(config.rms_norm_eps)
        self._embed, self._rotary, self._norm = decoder.embed_tokens, decoder.rotary_emb, decoder.norm.weight
        self._head = model.get_output_embeddings()
        self._layers = [self._layer(layer) for layer in decoder.layers]

    def load(self, model: Any, numbers: Sequence[int]) -> None:
        """Give lane i the adapter `numbers[i]` of the stack in `model`, which has the weights and shape of the first model."""
        device = self._embed.weight.device
        index = torch.tensor(list(numbers), device=device)
        for mine, layer in zip(self._layers, model.get_decoder().layers, strict=True):
            for name, module in _projections(layer).items():
                mine.linear[name].load(module, index)

    def __call__(self, ids: Tensor, positions: Tensor, where: Where, kv: KeysValues) -> Tensor:
        """Logits (rows, vocabulary) after `ids` (rows, 1) at `positions` (rows, 1, axes), whose keys and values are written."""
        x = self._embed(ids[:, 0]).view(self._shape.lanes, -1, self._embed.weight.shape[1])
        cos, sin = (part[:, 0] for part in rotation(self._rotary, x, positions))  # (rows, 1, head size)
        for layer, (keys, values) in zip(self._layers, kv, strict=True):
            normed = self._normed(x, layer.attention_norm)
            query, key, value = (layer.linear[name](normed) for name in _ATTENTION[:3])
            query = self._turned(query, layer.query_norm, cos, sin)
            key = self._turned(key, layer.key_norm, cos, sin)
            keys[where.slot, :, where.column] = self._by_slot(key)
            values[where.slot, :, where.column] = self._by_slot(value)
            seen = self._attend(self._by_slot(query), keys, values, where, layer.scaling)
            x = x + layer.linear["o_proj"](seen.reshape(*x.shape[:2], -1))
            normed = self._normed(x, layer.mlp_norm)
            gate = functional.silu(layer.linear["gate_proj"](normed))
            x = x + layer.linear["down_proj"](gate * layer.linear["up_proj"](normed))
        logits: Tensor = self._head(self._normed(x, self._norm))
        return logits.flatten(0, 1)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, where: Where, scaling: float) -> Tensor:
        """Attention of the queries (slots, width, query heads, head size) to what they see; same shape."""
        slots, width, _, size = query.shape
        # rows of a slot, and query heads that share a head, are queries of one product with the slot's keys
        asked = query.view(slots, width, self.heads, self.group, size).permute(0, 2, 3, 1, 4)
        asked = asked.reshape(slots, self.heads, self.group * width, size)
        read = slice(0, where.columns)
        seen = functional.scaled_dot_product_attention(
            asked, keys[:, :, read], values[:, :, read], attn_mask=where.hidden, scale=scaling
        )
        return seen.view(slots, self.heads, self.group, width, size).permute(0, 3, 1, 2, 4)

    def _turned(self, x: Tensor, norm: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys with their norm and rotation: (rows, heads, head size)."""
        x = x.reshape(self._shape.rows, -1, self.head_size)
        if norm is not None:
            x = self._normed(x, norm)
        return torch.addcmul(x * cos, x.roll(self.head_size // 2, -1), sin)

    def _by_slot(self, x: Tensor) -> Tensor:
        return x.reshape(self._shape.slots, self._shape.width, -1, self.head_size)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self._eps)

    def _layer(self, layer: Any) -> _Layer:
        attention = layer.self_attn
        return _Layer(
            attention_norm=layer.input_layernorm.weight,
            mlp_norm=layer.post_attention_layernorm.weight,
            query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
            key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
            scaling=self.head_size**-0.5,
            linear={n: LaneLinear(module, self._shape.lanes, self.dtype) for n, module in _projections(layer).items()},
        )


def _projections(layer: Any) -> dict[str, nn.Module]:
    return {name: getattr(layer.self_attn, name) for name in _ATTENTION} | {name: getattr(layer.mlp, name) for name in _MLP}
