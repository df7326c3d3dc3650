"""The gain and bias with which a verifier begins: its first values lie around the mean of the labels.

A new value head sees the mean logit of the vocabulary, which may be -5 where values are to be 0 or 1. From a gain of 1 and a bias
of 0, training first has to bring the values there. It does so by making gain and row smaller, until the values are almost equal
for all solutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from solver.model.fused_training import decoder_states
from solver.model.head import OutputHead
from solver.model.load import Base
from solver.model.value_head import Loss
from solver.train.batches import value_places
from solver.types import TokenSequence

MAX_SEQUENCES = 64  # that gain and bias are computed from
SPREADS = {"mse": 0.2, "bce": 1.0}  # standard deviation of the first values, in nats for "bce"


@torch.no_grad()
def starting_scale(base: Base, token: int, loss: Loss, sequences: Sequence[TokenSequence]) -> tuple[float, float]:
    """Gain and bias with which gain * logit + bias of `token` has the mean of the value targets and the deviation of SPREADS.

    They are computed from some of the `sequences` that have value targets, of which there has to be one.
    """
    states, head = decoder_states(base.model), OutputHead.of(base.model)
    judged = [one for one in sequences if one.values is not None]
    logits, targets = [], []
    for one in judged[:: -(-len(judged) // MAX_SEQUENCES)]:
        assert one.values is not None
        places = torch.from_numpy(value_places(one))
        ids = torch.from_numpy(one.ids.astype("int64"))[None].to(base.device)
        logits.append(head.logit(states(ids, places.to(base.device)), token).float().cpu())
        targets.append(torch.from_numpy(one.values)[places])
    found = torch.cat(logits)
    mean = float(torch.cat(targets).mean().clamp(0.01, 0.99))
    if loss == "bce":
        mean = math.log(mean / (1 - mean))
    gain = SPREADS[loss] / max(1e-6, float(found.std(unbiased=False)))
    return gain, mean - gain * float(found.mean())
