"""A training pass for small decoders of Qwen3's layers on a CPU. It computes the same as the modules of the model with less work:

- attention skips the blocks above the diagonal, and keeps its probabilities for the backward pass;
- projections that share an input are one product, with LoRA and the weight of the norm before it merged in;
- norm, rotation and attention of queries and keys are one function, with a backward pass written by hand;
- in the last layer, tokens without a weighted prediction only get keys and values.
It is fastest on one or two sequences of similar length at a time: a pass of about `BEST_TOKENS` tokens stays in the CPU's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from solver.model.cell_decoder import CellDecoderForCausalLM
from solver.model.lora import LoraLinear, MergedProduct
from solver.model.positions import from_start, positions_of, rotation

MAX_PARAMETERS = 64_000_000  # of a model, because every pass copies its weights to join them
BEST_TOKENS = 1024
QWEN3 = "transformers.models.qwen3.modeling_qwen3.Qwen3ForCausalLM"
States = Callable[[Tensor, Tensor], Tensor]  # ids (rows, tokens), places (kept,) in rows * tokens -> states (kept, hidden)
_BLOCK = 96  # queries in a block of attention: the fastest of 64, 80, 96, 112, 128, 192 on Zen 3
_KEPT_PROBABILITIES = 64 * 2**20  # bytes that a layer may keep for the backward pass; with more it computes them again
_THIN = 3  # see `_thin`. On the earlier embedded model rank-wide products were faster at rank 16 and not at rank 64


def decoder_states(model: Any) -> States:
    """A function that computes the final states of any causal language model by its own modules."""

    def states(ids: Tensor, places: Tensor) -> Tensor:
        hidden: Tensor = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, places)

    return states


def is_of(model: Any, *classes: str) -> bool:
    """Whether `model` is this package's own, or of one of the `classes`, which are named in full so that none is imported."""
    kind = type(model)
    return kind is CellDecoderForCausalLM or f"{kind.__module__}.{kind.__qualname__}" in classes


class _LayerProducts:
    """The joined projections and the norm weights of one decoder layer."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = _Product([attention.q_proj, attention.k_proj, attention.v_proj], layer.input_layernorm)
        self.out = _Product([attention.o_proj])
        self.gate_up = _Product([mlp.gate_proj, mlp.up_proj], layer.post_attention_layernorm)
        self.down = _Product([mlp.down_proj])
        self.query_norm, self.key_norm = attention.q_norm.weight, attention.k_norm.weight


class FusedTrainingPass:
    """The decoder of `model` as a function of token ids. Gradients reach its parameters, LoRA matrices included."""

    def __init__(self, model: Any, residual_dropout: float = 0.0) -> None:
        """`residual_dropout`: the probability of dropping what a block adds to a state, while the model is in training mode."""
        config = model.config
        self._dropout = residual_dropout
        self._model = model.get_decoder()
        self._layers = [_LayerProducts(layer) for layer in self._model.layers]
        self._eps = float(config.rms_norm_eps)
        self._heads, self._size = int(config.num_key_value_heads), int(config.head_dim)
        self._query_heads = int(config.num_attention_heads)
        self._positions = positions_of(config)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is a small fp32 decoder of Qwen3's layers on the CPU, with plain linear layers or one LoRA adapter."""
        if not is_of(model, QWEN3) or model.config.hidden_act != "silu":
            return False
        parameters = list(model.parameters())
        if sum(p.numel() for p in parameters) > MAX_PARAMETERS:
            return False
        if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in parameters):
            return False
        if set(getattr(model.config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            return False
        return all(_plain(module) for name, module in model.get_decoder().named_modules() if name.endswith("_proj"))

    def __call__(self, ids: Tensor, keep: Tensor) -> Tensor:
        """Final states (kept, hidden) of the tokens `keep` (kept,): ascending indices into the flattened `ids` (rows, tokens)."""
        model = self._model
        rows, tokens = ids.shape
        x = model.embed_tokens(ids).flatten(0, 1)
        # positions by index are the same in every row, so one row is enough
        positioned = ids if self._positions.by_content else ids[:1]
        cos, sin = rotation(model.rotary_emb, x, from_start(self._positions, positioned))
        for layer in self._layers:
            scale = torch.cat([layer.query_norm.expand(self._query_heads, -1), layer.key_norm.expand(self._heads, -1)])
            last = layer is self._layers[-1]
            seen = _Attention.apply(
                layer.qkv(_Normalize.apply(x, self._eps)).view(rows, tokens, -1, self._size),
                scale,
                cos,
                sin,
                self._query_heads,
                self._eps,
                int((keep % tokens).min()) if last else 0,
            ).flatten(0, 1)
            if last:
                seen, x = seen.index_select(0, keep), x.index_select(0, keep)
            x = x + self._dropped(layer.out(seen))
            x = x + self._dropped(layer.down(_SwiGLU.apply(layer.gate_up(_Normalize.apply(x, self._eps)))))
        final: Tensor = _Normalize.apply(x, self._eps) * model.norm.weight
        return final

    def _dropped(self, added: Tensor) -> Tensor:
        """What a block adds to the states, after dropout."""
        if not self._dropout or not self._model.training:
            return added
        return functional.dropout(added, self._dropout)


def _plain(module: nn.Module) -> bool:
    if isinstance(module, LoraLinear):
        return module.a.shape[0] == 1 and not module.shape.dropout and _plain(module.base)
    return type(module) is nn.Linear and module.bias is None


class _Product:
    """Linear layers that share an input, as one product. `norm`: the RMS norm before them, whose weight is merged in."""

    def __init__(self, layers: list[Any], norm: Any = None) -> None:
        self._layers, self._scale = layers, norm.weight if norm is not None else None
        self._adapted = isinstance(layers[0], LoraLinear)
        self._thin = self._adapted and _thin(layers[0])
        # under adapters, the weights of the layers never change
        self._frozen = self._joined([layer.base.weight for layer in layers]).detach() if self._adapted else None

    def __call__(self, x: Tensor) -> Tensor:
        """(tokens, in) -> (tokens, sum of the layers' out)."""
        if self._frozen is None:
            return functional.linear(x, self._joined([layer.weight for layer in self._layers]))
        a = [layer.a[0] * layer.shape.scaling for layer in self._layers]
        if self._scale is not None:
            a = [matrix * self._scale for matrix in a]
        b = [layer.b[0] for layer in self._layers]
        if self._thin:
            product: Tensor = MergedProduct.apply(x, self._frozen, torch.cat(a), *b)
            return product
        return functional.linear(x, self._frozen + torch.cat([right @ left for right, left in zip(b, a, strict=True)]))

    def _joined(self, weights: list[Any]) -> Tensor:
        weight: Tensor = torch.cat(weights) if len(weights) > 1 else weights[0]
        return weight if self._scale is None else weight * self._scale


def _thin(layer: LoraLinear) -> bool:
    """Whether A and B are so small that rank-wide products give their gradients faster than the dense gradient of the weight.

    They are if a rank-wide pair of products costs less than 1 / `_THIN` of the dense one.
    """
    out, rank = layer.b.shape[1:]
    width = layer.a.shape[2]
    return _THIN * rank * (width + out) < width * out


class _Normalize(torch.autograd.Function):
    """x (tokens, width) divided by the root of its mean square: RMS norm without the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, inverse = ctx.saved_tensors
        grad = grads[0]
        mean = torch.linalg.vecdot(grad, y).unsqueeze_(-1).div_(-y.shape[-1])
        return torch.addcmul(grad, y, mean).mul_(inverse), None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up, (tokens, 2 * width) -> (tokens, width); the input holds gate and up side by side."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        opened = functional.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        both, opened = ctx.saved_tensors
        grad = grads[0]
        gate, up = both.chunk(2, -1)
        grad_both = torch.empty_like(both)
        grad_gate, grad_up = grad_both.chunk(2, -1)
        torch.mul(grad, opened, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return (grad_both,)


class _Attention(torch.autograd.Function):
    """Causal attention with normalised, rotated queries and keys, (rows, tokens, heads, size) -> (rows, tokens, width).

    `qkv` holds the query heads, then the key heads, then the value heads. A query or key y is normalised to
    z = y * scale / rms(y), then rotated to z * cos + roll(z, size / 2) * sin. `scale` (query and key heads, size) holds the
    weights of the norms; `cos` and `sin` are (rows or 1, tokens, 1, size). Outputs before the block of token `first` are zero.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor, query_heads: int, eps: float, first: int
    ) -> Tensor:
        rows, tokens, heads, size = qkv.shape
        key_heads = (heads - query_heads) // 2
        both = query_heads + key_heads
        plain = qkv[:, :, :both]
        inverse = _inverse_rms(plain, eps)
        scaled = plain * scale
        rotated = (scaled * cos).addcmul_(scaled.roll(size // 2, -1), sin)
        qk = torch.empty(rows, both, tokens, size)
        torch.mul(rotated, inverse, out=qk.transpose(1, 2))
        query = qk[:, :query_heads].reshape(-1, tokens, size).mul_(size**-0.5)
        key = _shared(qk[:, query_heads:], query_heads)
        value = _shared(qkv[:, :, both:].transpose(1, 2), query_heads)
        out = torch.empty(rows, tokens, query_heads, size)
        first -= first % _BLOCK
        out[:, :first] = 0
        by_head = out.transpose(1, 2)
        kept = []
        keeps = rows * query_heads * tokens * tokens * 2 <= _KEPT_PROBABILITIES
        for start in range(first, tokens, _BLOCK):
            end = min(start + _BLOCK, tokens)
            probabilities = _probabilities(query, key, start, end)
            by_head[:, :, start:end] = torch.bmm(probabilities, value[:, :end]).view(rows, query_heads, -1, size)
            if keeps:
                kept.append(probabilities)
        ctx.save_for_backward(qkv, scale, cos, sin, inverse, rotated, query, key, value, *kept)
        ctx.first, ctx.query_heads = first, query_heads
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv, scale, cos, sin, inverse, rotated, query, key, value, *kept = ctx.saved_tensors
        rows, tokens, heads, size = qkv.shape
        query_heads = ctx.query_heads
        key_heads = (heads - query_heads) // 2
        both = query_heads + key_heads
        grad = grads[0].view(rows, tokens, query_heads, size).transpose(1, 2).reshape(-1, tokens, size)
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        grad_query[:, : ctx.first] = 0
        for number, start in enumerate(range(ctx.first, tokens, _BLOCK)):
            end = min(start + _BLOCK, tokens)
            probabilities = kept[number] if kept else _probabilities(query, key, start, end)
            mine = grad[:, start:end]
            grad_value[:, :end].baddbmm_(probabilities.mT, mine)
            scores = torch._softmax_backward_data(torch.bmm(mine, value[:, :end].mT), probabilities, -1, probabilities.dtype)
            grad_query[:, start:end] = torch.bmm(scores, key[:, :end])
            grad_key[:, :end].baddbmm_(scores.mT, query[:, start:end])
        grad_qkv = torch.empty_like(qkv)
        grad_qkv[:, :, both:] = _by_token(grad_value, rows, key_heads)
        grad_rotated = torch.empty_like(rotated)
        grad_query.mul_(size**-0.5)
        torch.mul(_by_token(grad_query, rows, query_heads), inverse[:, :, :query_heads], out=grad_rotated[:, :, :query_heads])
        torch.mul(_by_token(grad_key, rows, key_heads), inverse[:, :, query_heads:], out=grad_rotated[:, :, query_heads:])
        plain, grad_plain = qkv[:, :, :both], grad_qkv[:, :, :both]
        along = torch.linalg.vecdot(grad_rotated, rotated).unsqueeze_(-1).mul_(inverse.square()).div_(-size)
        grad_scaled = (grad_rotated * cos).add_((grad_rotated * sin).roll(-(size // 2), -1))
        torch.mul(grad_scaled, scale, out=grad_plain)
        grad_plain.addcmul_(plain, along)
        grad_scale = (grad_scaled * plain).sum((0, 1)) if ctx.needs_input_grad[1] else None
        return grad_qkv, grad_scale, None, None, None, None, None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def _probabilities(query: Tensor, key: Tensor, start: int, end: int) -> Tensor:
    """Attention probabilities (heads, end - start, end) of the queries from `start` to `end` over the keys that they see."""
    scores = torch.bmm(query[:, start:end], key[:, :end].mT)
    later = torch.ones(end - start, end - start, dtype=torch.bool).triu_(1)
    scores[:, :, start:].masked_fill_(later, -torch.inf)
    return scores.softmax(-1)


def _shared(heads: Tensor, query_heads: int) -> Tensor:
    """(rows, key heads, tokens, size) -> (rows * query heads, tokens, size): key or value heads, repeated for query heads."""
    if heads.shape[1] != query_heads:
        heads = heads.repeat_interleave(query_heads // heads.shape[1], 1)
    return heads.reshape(-1, *heads.shape[2:])


def _by_token(heads: Tensor, rows: int, kept: int) -> Tensor:
    """(rows * query heads, tokens, size) -> (rows, tokens, `kept` heads, size), summed over query heads that share a key head."""
    tokens, size = heads.shape[1:]
    grouped = heads.view(rows, kept, -1, tokens, size)
    return (grouped[:, :, 0] if grouped.shape[2] == 1 else grouped.sum(2)).transpose(1, 2)
