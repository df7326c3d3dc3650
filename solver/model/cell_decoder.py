"""The architecture of this package's base models: Qwen3's layers, with rotary embeddings by the cell that a token is in.

Its config.json says `model_type: cell_decoder`, and its weights have other names than Qwen3's (`decoder.layers...`). So a program
that only knows Qwen3 refuses the folder instead of rotating by the index in the sequence. The modules here are plain torch, which
starts seconds sooner than transformers; `model.transformers_registration` makes transformers know the type.

A layer (Qwen3 technical report, 2025, section 2): pre-normalisation by RMSNorm (Zhang and Sennrich 2019), attention with
normalised queries and keys, in which several query heads may share a key head (Ainslie et al. 2023), and SwiGLU (Shazeer 2020).

The rotary embedding: a head has pairs of dimensions (i, i + half). The first pairs turn by the grid, the next by the row, the
last by the column. The k-th of the n pairs of an axis turns by the angle position * base^(-k / n). Nothing depends on the length
of the sequence. Source: rotary embeddings (Su et al. 2021), section 3.2, applied once for each axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from solver.model.cell_config import CellDecoderConfig
from solver.model.positions import from_start, positions_of

Rotation = tuple[Tensor, Tensor]  # cos and sin, (rows, tokens, head size) each


class KeyValueCache(Protocol):
    """The keys and values of earlier tokens, and attention to them."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> Any:
        """Add the keys and values of new tokens, (rows, key heads, tokens, head size), to those of a layer."""
        ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer_idx: int, scaling: float) -> Tensor:
        """What the queries of the new tokens, (rows, query heads, tokens, head size), see. The same shape."""
        ...


class States(NamedTuple):
    """What a decoder gives."""

    last_hidden_state: Tensor  # (rows, tokens, hidden)


class Logits(NamedTuple):
    """What a causal language model gives."""

    logits: Tensor  # (rows, tokens, vocabulary)


class CellRotary(nn.Module):
    """The cos and sin by which every pair of dimensions turns, from the position of a token."""

    def __init__(self, config: CellDecoderConfig) -> None:
        super().__init__()
        self._axes, self._base = config.rotary_axes, config.rope_theta
        # whole numbers, because frequencies would be rounded when the model is converted to 16 bits
        self.pairs = nn.Buffer(torch.empty(3, sum(self._axes), dtype=torch.long), persistent=False)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Fill the buffer, which is in no file: for each pair its axis, its index among the pairs of that axis, their number."""
        pairs = [(axis, place, count) for axis, count in enumerate(self._axes) for place in range(count)]
        self.pairs.copy_(torch.tensor(pairs, device="cpu").T)  # "cpu": the default device may be "meta" while a model is built

    @torch.no_grad()
    def forward(self, x: Tensor, positions: Tensor) -> Rotation:
        """cos and sin (rows, tokens, head size) in the dtype of `x`, for `positions` (rows, tokens, 3).

        The angles are elementwise products, which autocast leaves in fp32. It would round a matrix product to bf16.
        """
        axis, place, count = self.pairs
        frequency = torch.pow(self._base, -(place.double() / count)).float()
        angles = positions[..., axis].float() * frequency
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, normalised in fp32 in every dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> the same shape."""
        exact = x.float()
        normalised = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normalised.to(x.dtype)


class Attention(nn.Module):
    """Causal attention of rotated, normalised queries and keys."""

    def __init__(self, config: CellDecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.scaling, self.attention_dropout = config.head_dim**-0.5, config.attention_dropout
        self._shared = config.num_key_value_heads != config.num_attention_heads
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, cache: KeyValueCache | None) -> Tensor:
        """(rows, tokens, hidden) -> the same shape. Without a cache the tokens see each other and nothing else."""
        heads = (*x.shape[:-1], -1, self.head_dim)
        query = _rotated(self.q_norm(self.q_proj(x).view(heads)).transpose(1, 2), rotation)
        key = _rotated(self.k_norm(self.k_proj(x).view(heads)).transpose(1, 2), rotation)
        value = self.v_proj(x).view(heads).transpose(1, 2)
        if cache is not None:
            cache.update(key, value, self.layer)
            seen = cache.attend(query, key, value, self.layer, self.scaling)
        else:
            seen = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                dropout_p=self.attention_dropout if self.training else 0.0,
                is_causal=True,
                scale=self.scaling,
                enable_gqa=self._shared,
            )
        out: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: CellDecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) -> the same shape."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Attention and MLP, each normalised before and added to the residual stream."""

    def __init__(self, config: CellDecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotation: Rotation, cache: KeyValueCache | None = None) -> Tensor:
        """(rows, tokens, hidden) -> the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class CellDecoder(nn.Module):
    """Token ids -> final states."""

    def __init__(self, config: CellDecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = CellRotary(config)
        self.positions = positions_of(config)
        self.gradient_checkpointing = False
        _draw_weights(self, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
        use_cache: bool = False,  # noqa: ARG002  # as callers of any causal language model say it; `cache` alone decides
    ) -> States:
        """Final states of `input_ids` (rows, tokens). Attention is causal without a mask, so padding must be on the right.

        `position_ids` (rows, tokens, 3) are needed if `cache` holds earlier tokens. Otherwise they follow from the ids.
        """
        if position_ids is None:
            if cache is not None:
                raise ValueError("tokens that continue a cache need their positions (position_ids)")
            position_ids = from_start(self.positions, input_ids)
        x = self.embed_tokens(input_ids)
        rotation = self.rotary_emb(x, position_ids)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, rotation, use_reentrant=False)
            else:
                x = layer(x, rotation, cache)
        return States(self.norm(x))


class CellDecoderForCausalLM(nn.Module):
    """Token ids -> logits of the next token. It has those methods of transformers' models that this package and PEFT call."""

    def __init__(self, config: CellDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = CellDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        _draw_weights(self.lm_head, config.initializer_range)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make embedding and head one matrix, if the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.decoder.embed_tokens.weight

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> Logits:
        """Logits (rows, kept, vocabulary) of the last `logits_to_keep` tokens (0: all), or of the indices that it holds.

        What else PEFT passes on, such as an attention mask, changes nothing.
        """
        return Logits(kept_logits(self, input_ids, position_ids, cache, logits_to_keep))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Any]:
        """The arguments of `forward`. PEFT asks for this method when it wraps a model."""
        return {"input_ids": input_ids}

    def get_decoder(self) -> CellDecoder:
        """The model without its head."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The embedding."""
        return self.decoder.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """The head."""
        return self.lm_head

    def num_parameters(self) -> int:
        """The number of weights, tied ones once."""
        return sum(weight.numel() for weight in self.parameters())

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:  # noqa: ARG002
        """Compute the layers again in the backward pass, instead of keeping what they need for it."""
        self.decoder.gradient_checkpointing = True

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return self.decoder.gradient_checkpointing

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.lm_head.weight.dtype


def kept_logits(
    model: Any, input_ids: Tensor, position_ids: Tensor | None, cache: KeyValueCache | None, logits_to_keep: int | Tensor
) -> Tensor:
    """The logits that `CellDecoderForCausalLM.forward` gives, of a `model` with a `CellDecoder` and a head."""
    states = model.decoder(input_ids, position_ids, cache).last_hidden_state
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    logits: Tensor = model.lm_head(states[:, kept])
    return logits


@torch.no_grad()
def _draw_weights(module: nn.Module, deviation: float) -> None:
    """Draw the weights of linear layers and embeddings from a normal distribution around 0. The padding token gets zeros."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            part.weight.normal_(0.0, deviation)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            part.weight[part.padding_idx] = 0.0


def _rotated(heads: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys (rows, heads, tokens, size), turned by cos and sin."""
    cos, sin = (part[:, None] for part in rotation)
    left, right = heads.chunk(2, -1)
    return heads * cos + torch.cat([-right, left], -1) * sin
