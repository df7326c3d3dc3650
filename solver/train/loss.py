"""The weighted next-token loss of a batch. Logits are computed only where a prediction has a weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from solver.model.fused_training import States
from solver.train.batches import MicroBatch

_LOGITS = 2**26  # numbers in memory at once, 256 MiB in fp32; more are computed in chunks, and again in the backward pass


def slot_losses(states: States, head: Any, batch: MicroBatch, slots: int) -> Tensor:
    """(slots,) fp32: the sum of weighted cross-entropies (nats) of each slot's predictions in the batch."""
    hidden = states(batch.ids, batch.places)

    def weighted(states: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return functional.cross_entropy(head(states).float(), targets, reduction="none") * weights

    chunk = max(1, _LOGITS // head.weight.shape[0])
    if len(hidden) <= chunk:
        losses = weighted(hidden, batch.targets, batch.weights)
    else:
        parts = zip(*(t.split(chunk) for t in (hidden, batch.targets, batch.weights)), strict=True)
        losses = torch.cat([checkpoint(weighted, *part, use_reentrant=False) for part in parts])
    return torch.zeros(slots, device=losses.device).index_add(0, batch.owners, losses)
