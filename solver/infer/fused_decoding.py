"""A fused forward pass for small Llama-like decoders.

With a few million parameters, most of a decoding step is the overhead of launching operations. Here projections of the same
input are one matrix product, normalisation is one call, and queries and keys are rotated together. That halves the number of
operations of the model's own modules and gives the same numbers up to rounding (tested). Other and larger models use their
modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from solver.infer.cache import SharedPrefixCache
from solver.model.fused_training import MAX_PARAMETERS, QWEN3, is_of
from solver.model.positions import rotation

FAMILIES = ("transformers.models.llama.modeling_llama.LlamaForCausalLM", QWEN3)  # beside this package's own


@dataclass(frozen=True, eq=False)
class _Block:
    """The weights of one decoder layer."""

    qkv: Tensor  # ((query heads + 2 * heads) * head size, hidden), multiplied by the weights of the norm before it
    qk_scale: Tensor | None  # (query heads + heads, head size): the weights of the norms of queries and keys, if there are any
    out: Tensor  # (hidden, query heads * head size)
    gate_up: Tensor  # (2 * ffn, hidden), multiplied by the weights of the norm before it
    down: Tensor  # (hidden, ffn)


class FusedDecodingPass:
    """The forward pass of a model over a shared-prefix cache, for models that pass `fits`."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self._eps = float(config.rms_norm_eps)
        self._heads, self._query_heads = config.num_key_value_heads, config.num_attention_heads
        decoder = model.get_decoder()
        self._size = decoder.layers[0].self_attn.head_dim
        self._blocks = [self._block(layer) for layer in decoder.layers]
        self._embed, self._rotary = decoder.embed_tokens, decoder.rotary_emb
        self._epsilon = torch.tensor(self._eps, device=model.device)
        self._norm, self._head = decoder.norm.weight, model.lm_head

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this pass computes `model`: this package's own or one of FAMILIES, small, gated by SiLU, with linear layers."""
        if not is_of(model, *FAMILIES) or model.config.hidden_act != "silu":
            return False
        projections = [m for name, m in model.get_decoder().layers.named_modules() if name.endswith("_proj")]
        plain = all(type(m) is nn.Linear and m.bias is None for m in projections)
        return plain and sum(p.numel() for p in model.parameters()) <= MAX_PARAMETERS

    def logits(self, ids: Tensor, positions: Tensor, cache: SharedPrefixCache, keep: Tensor | None) -> Tensor:
        """Logits, (rows, kept, vocabulary), after the columns `keep` of `ids`, (rows, new), at `positions`, (rows, new, axes).

        Only a prefill may pass `keep`; None keeps all columns. In the last layer, only keys and values are computed for columns
        that are not kept.
        """
        x = self._embed(ids)
        rows, new, _ = x.shape
        cos, sin = rotation(self._rotary, x, positions)
        half = self._size // 2
        both = self._query_heads + self._heads
        for number, block in enumerate(self._blocks):
            qkv = functional.linear(self._normed(x), block.qkv).view(rows, new, -1, self._size)
            qk, value = qkv[:, :, :both], qkv[:, :, both:].transpose(1, 2)
            if block.qk_scale is not None:
                qk = self._normed(qk) * block.qk_scale
            qk = torch.addcmul(qk * cos, qk.roll(half, -1), sin).transpose(1, 2)
            query, key = qk[:, : self._query_heads], qk[:, self._query_heads :]
            cache.update(key, value, number)
            columns = keep if number == len(self._blocks) - 1 else None
            if columns is not None:
                query, x = query[:, :, columns], x[:, columns]
            seen = cache.attend(query, key, value, number, self._size**-0.5, columns).transpose(1, 2).flatten(2)
            x = x + functional.linear(seen, block.out)
            gate, up = functional.linear(self._normed(x), block.gate_up).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate).mul_(up), block.down)
        logits: Tensor = self._head(self._normed(x) * self._norm)
        return logits

    def _normed(self, x: Tensor) -> Tensor:
        """RMS normalisation without weights, which are multiplied into the projection that follows."""
        if x.dtype != torch.float32:
            return functional.rms_norm(x, x.shape[-1:], None, self._eps)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # half as many passes over memory as rms_norm on a CPU
        return x * torch.addcmul(self._epsilon, size, size, value=1 / x.shape[-1]).rsqrt_()

    def _block(self, layer: Any) -> _Block:
        attention, mlp = layer.self_attn, layer.mlp
        scale = None
        if hasattr(attention, "q_norm"):
            scale = torch.cat(
                [
                    attention.q_norm.weight.expand(self._query_heads, -1),
                    attention.k_norm.weight.expand(self._heads, -1),
                ]
            ).detach()
        projections = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        return _Block(
            qkv=(projections * layer.input_layernorm.weight).detach(),
            qk_scale=scale,
            out=attention.o_proj.weight,
            gate_up=(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * layer.post_attention_layernorm.weight).detach(),
            down=mlp.down_proj.weight,
        )
