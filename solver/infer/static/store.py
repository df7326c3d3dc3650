"""Static batches that are kept for later calls, so that their captured steps are used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from solver.codec import GridGrammar
from solver.infer.static.batch import StaticBatch
from solver.infer.static.rules import TokenRules
from solver.infer.static.shapes import BatchShape
from solver.infer.static.step import Mode
from solver.model.lora import LoraLinear
from solver.model.positions import positions_of

SPARE = 2  # a kept batch may have at most so many times the positions that are needed
KEPT_SHARE = 0.1  # of the device's memory: more than that is not kept beside fits; assumed


@dataclass(frozen=True)
class _Key:
    """What the captured steps of a batch depend on besides its shape."""

    weights: tuple[int, ...]  # ids of tensors of the base model
    lora: tuple[int, float] | None  # rank and scaling
    mode: Mode


class BatchStore:
    """Makes static batches for the models of one engine. Those with the same base weights are kept; the oldest go first."""

    def __init__(self, model: Any, grammar: GridGrammar | None, end: int, vocabulary: int, device: torch.device) -> None:
        self.rules = TokenRules(grammar, end, vocabulary, device)
        self._positions = positions_of(model.config)
        self._device = device
        self._kept: list[tuple[_Key, StaticBatch]] = []

    def get(self, model: Any, shape: BatchShape, mode: Mode, budget: int) -> StaticBatch:
        """A batch that serves `model` (of a supported kind) and is at least as large as `shape`, without live rows.

        The key/value positions of all batches together are at most `budget`, or those of this one.
        """
        key = _Key(_weights(model), _lora(model), mode)
        self._kept = [(other, batch) for other, batch in self._kept if other.weights == key.weights]
        most = min(SPARE * shape.positions, max(budget, shape.positions))
        for place, (other, batch) in enumerate(self._kept):
            if other == key and batch.shape.covers(shape) and batch.shape.positions <= most:
                self._kept.append(self._kept.pop(place))
                batch.clear()
                return batch
        while self._kept and sum(batch.shape.positions for _, batch in self._kept) + shape.positions > budget:
            del self._kept[0]
        batch = StaticBatch(model, shape, mode, self.rules, self._positions)
        self._kept.append((key, batch))
        return batch

    def clear(self) -> None:
        """Drop all batches, to free their memory."""
        self._kept.clear()

    def trim(self) -> None:
        """Drop batches that would leave too little memory to fits."""
        if self._device.type != "cuda":
            return
        room = KEPT_SHARE * torch.cuda.get_device_properties(self._device).total_memory
        while self._kept and sum(batch.memory for _, batch in self._kept) > room:
            del self._kept[0]


def _weights(model: Any) -> tuple[int, ...]:
    """Names the base weights of a model. They are not freed, and their ids not given to others, while a batch uses them."""
    decoder = model.get_decoder()
    layers = [decoder.layers[0].self_attn.q_proj, decoder.layers[-1].mlp.down_proj]
    plain = [layer.base if isinstance(layer, LoraLinear) else layer for layer in layers]
    return tuple(id(module.weight) for module in (decoder.embed_tokens, *plain, model.get_output_embeddings()))


def _lora(model: Any) -> tuple[int, float] | None:
    layer = model.get_decoder().layers[0].self_attn.q_proj
    return (layer.shape.rank, layer.shape.scaling) if isinstance(layer, LoraLinear) else None
