"""The weighted next-token loss of a batch, and the loss of its value targets. Logits are computed only where they are used."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from solver.model.fused_training import States
from solver.train.batches import MicroBatch

_LOGITS = 2**26  # numbers in memory at once, 256 MiB in fp32; more are computed in chunks, and again in the backward pass


class ValueLoss(Protocol):
    """Predicts a value for every token, and compares it with the target."""

    def losses(self, head: Any, states: Tensor, targets: Tensor) -> Tensor:
        """(values,) fp32: the losses of predictions from final states (values, hidden) of a model with the output head `head`."""
        ...


def slot_losses(states: States, head: Any, batch: MicroBatch, slots: int, value_loss: ValueLoss | None = None) -> Tensor:
    """(slots,) fp32: the sum of weighted cross-entropies (nats) of each slot's predictions, plus that of its value losses.

    `value_loss` is needed if the batch has value targets.
    """
    valued = batch.values
    if valued is None or value_loss is None:
        return _weighted(states(batch.ids, batch.places), head, batch, slots)
    places, at = torch.unique(torch.cat([batch.places, valued.places]), return_inverse=True)  # sorted, as `States` wants them
    hidden = states(batch.ids, places)
    predicting, judging = at.split([len(batch.places), len(valued.places)])
    losses = value_loss.losses(head, hidden.index_select(0, judging), valued.values) * valued.weights
    of_values = torch.zeros(slots, device=losses.device).index_add(0, valued.owners, losses)
    if not len(predicting):
        return of_values
    return of_values + _weighted(hidden.index_select(0, predicting), head, batch, slots)


def _weighted(hidden: Tensor, head: Any, batch: MicroBatch, slots: int) -> Tensor:
    """(slots,) fp32: the sum of weighted cross-entropies of each slot's predictions, from their states (predictions, hidden)."""

    def weighted(states: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return functional.cross_entropy(head(states).float(), targets, reduction="none") * weights

    chunk = max(1, _LOGITS // head.weight.shape[0])
    if len(hidden) <= chunk:
        losses = weighted(hidden, batch.targets, batch.weights)
    else:
        parts = zip(*(t.split(chunk) for t in (hidden, batch.targets, batch.weights)), strict=True)
        losses = torch.cat([checkpoint(weighted, *part, use_reentrant=False) for part in parts])
    return torch.zeros(slots, device=losses.device).index_add(0, batch.owners, losses)
