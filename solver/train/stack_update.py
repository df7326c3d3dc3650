"""The optimizer step of a stack: clipping, checks and AdamW for all tasks at once, on the device, over flat buffers.

Nothing here reads a number back to the host. A task whose loss or gradient is not finite stops on the device at once; the host
finds that later in the records and counts the same (`train.stack_loop`).

Source: AdamW (Loshchilov and Hutter 2019, algorithm 2). Scaled losses: Micikevicius et al. 2018, section 3.2, with a scale for
each task.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from solver.train.weights import BETA1, BETA2, EPSILON, FlatWeights

SCALE_CUT = 4.0  # what a loss scale is divided by when a gradient overflows

Update = Callable[..., Tensor]  # `update_slots`, or the same function compiled


class StackState:
    """What the optimizer keeps on the device during one fit of a stack. `first_scale` multiplies the losses at first."""

    def __init__(self, weights: FlatWeights, clip: float, weight_decay: float, first_scale: float) -> None:
        slots, device = len(weights.values), weights.values.device
        self._weights, self._clip, self._weight_decay = weights, clip, weight_decay
        self._mean, self._square = torch.zeros_like(weights.values), torch.zeros_like(weights.values)
        self._snapshot = weights.values.clone()  # the weights before the last update
        self._steps = torch.zeros(slots, device=device)
        self._alive = torch.ones(slots, device=device)
        self.scale = torch.full((slots,), first_scale, device=device)
        self.losses = torch.zeros(slots, device=device)  # of the step in progress

    def begin_step(self) -> None:
        """Set losses and gradients to zero."""
        self._weights.grads.zero_()
        self.losses.zero_()

    def update(self, update: Update, rates: Tensor) -> Tensor:
        """Take the optimizer step. `rates` (2, slots): learning rates, and 1 for each slot that takes the step, else 0.

        Returns the losses, and the norms of the gradients before clipping, (2, slots), without waiting for the device.
        """
        norms = update(
            self._weights.values,
            self._weights.grads,
            self._mean,
            self._square,
            self._snapshot,
            self._steps,
            self._alive,
            self.scale,
            self.losses,
            rates[0],
            rates[1],
            self._clip,
            self._weight_decay,
        )
        return torch.stack([self.losses, norms])


@torch.no_grad()
def update_slots(
    values: Tensor,
    grads: Tensor,
    mean: Tensor,
    square: Tensor,
    snapshot: Tensor,
    steps: Tensor,
    alive: Tensor,
    scale: Tensor,
    losses: Tensor,
    rates: Tensor,
    taking: Tensor,
    clip: float,
    weight_decay: float,
) -> Tensor:
    """Update the weights of all slots in place. The first five are (slots, numbers) fp32; the next six (slots,) fp32.

    - A slot whose loss is not finite gets back the weights from before its last update, and stops.
    - A slot whose gradient is not finite keeps its weights. If its loss is scaled, the scale is cut, otherwise the slot stops.
    - Any other slot that takes the step is clipped to norm `clip` and updated; moments and step counts of the rest stay.
    `taking` is 1 for each slot that takes the step, else 0. Returns the norms of the gradients before clipping, (slots,).
    """
    grads.div_(scale[:, None])
    norms = torch.linalg.vector_norm(grads, dim=1)
    running = (alive * taking) > 0
    finite_loss = losses.isfinite()
    finite = finite_loss & norms.isfinite()
    overflow = running & finite_loss & ~finite & (scale > 1)
    applied = running & finite
    alive.mul_(~running | applied | overflow)
    scale.copy_(torch.where(overflow, (scale / SCALE_CUT).clamp(min=1.0), scale))
    values.copy_(torch.where((running & ~finite_loss)[:, None], snapshot, values))
    snapshot.copy_(values)
    steps.add_(applied)
    count = steps.clamp(min=1.0)
    grads.masked_fill_(~applied[:, None], 0.0)
    grads.mul_((clip / (norms + 1e-6)).clamp(max=1.0).where(applied, 0.0)[:, None])
    mean.lerp_(grads, ((1 - BETA1) * applied)[:, None])
    square.lerp_(grads * grads, ((1 - BETA2) * applied)[:, None])
    rate = rates * applied
    if weight_decay:
        values.mul_((1 - weight_decay * rate)[:, None])
    # 1 - beta^count; in fp32 the difference itself would be off by 1e-5 of it after the first step
    bias1, bias2 = (-torch.expm1(count * math.log(beta)) for beta in (BETA1, BETA2))
    root = (square / bias2[:, None]).sqrt_().add_(EPSILON)
    values.sub_(mean.div(root).mul_((rate / bias1)[:, None]))
    return norms
