"""The trained weights of all slots as one matrix, and AdamW on it: a few kernels a step, however many tensors there are.

Source: AdamW (Loshchilov and Hutter 2019, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class FlatWeights:
    """Parameters of shape (slots, ...), or of any shape if there is one slot, moved into `values` (slots, numbers) in fp32.

    The parameters become views of `values`, so a change on one side is seen on the other. `add_gradients` fills `grads`.
    `reentrant` says that the model recomputes layers in nested backward passes, as reentrant checkpointing does. Such passes
    add gradients to `parameter.grad`, and `torch.autograd.grad` would return 0 for them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], slots: int, reentrant: bool = False) -> None:
        self._parameters = list(parameters)
        self._reentrant = reentrant
        self.values = torch.cat([p.detach().reshape(slots, -1).float() for p in parameters], dim=1)
        self.grads = torch.zeros_like(self.values)
        self._point()

    def move(self, device: torch.device) -> None:
        """Move values and gradients to another device. The parameters become views of the moved tensors."""
        self.values, self.grads = self.values.to(device), self.grads.to(device)
        self._point()

    def _point(self) -> None:
        at = 0
        for parameter in self._parameters:
            columns = slice(at, at + parameter.numel() // len(self.values))
            parameter.grad = None  # the old one may be on another device
            parameter.data = self.values[:, columns].view(parameter.shape)
            parameter.requires_grad_(True)
            parameter.grad = self.grads[:, columns].view(parameter.shape) if self._reentrant else None
            at = columns.stop

    def add_gradients(self, loss: Tensor) -> None:
        """Add the gradients of the scalar `loss` to `grads`."""
        if self._reentrant:
            loss.backward()
            return
        gradients = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        self.grads += torch.cat([gradient.reshape(len(self.grads), -1) for gradient in gradients], dim=1)


class AdamW:
    """AdamW with its state, for one fit of every slot. Each slot has its own learning rate."""

    def __init__(self, weights: FlatWeights, weight_decay: float) -> None:
        self.weights = weights
        self.weight_decay = weight_decay
        self._mean = torch.zeros_like(weights.values)
        self._square = torch.zeros_like(weights.values)
        self._steps = 0

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """Update the weights with the learning rates `lr` (slots,). A slot with rate 0 keeps its values.

        A slot that once had rate 0 must have it from then on: its moments are updated all the same.
        """
        self._steps += 1
        values, grads = self.weights.values, self.weights.grads
        self._mean.lerp_(grads, 1 - BETA1)
        self._square.mul_(BETA2).addcmul_(grads, grads, value=1 - BETA2)
        update = self._square.div(1 - BETA2**self._steps).sqrt_().add_(EPSILON).reciprocal_().mul_(self._mean)
        update.div_(1 - BETA1**self._steps)
        if self.weight_decay:
            update.add_(values, alpha=self.weight_decay)
        values.sub_(update.mul_(lr[:, None]))


@torch.no_grad()
def clip_gradients(weights: FlatWeights, limit: float) -> Tensor:
    """Scale each slot's gradient down to norm `limit`. Returns the norms (slots,) before; not finite where a gradient is not."""
    norms = torch.linalg.vector_norm(weights.grads, dim=1)
    weights.grads.mul_((limit / (norms + 1e-6)).clamp(max=1.0)[:, None])
    return norms
