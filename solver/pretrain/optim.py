"""The optimizers of pre-training: Muon for the weight matrices of a new model, AdamW for everything else.

Muon orthogonalises the momentum of each matrix by a Newton-Schulz iteration (Jordan et al. 2024, "Muon: an optimizer
for hidden layers"); its step is scaled to the root-mean-square of AdamW's as in "Muon is scalable for LLM training"
(Liu et al. 2025, section 2.2). Matrices of equal shape are iterated in one batch. On CPUs
they are in fp32, because bf16, in which torch.optim.Muon always computes, can be tens of times slower there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MIN_GRAM_RATIO = 2  # of long to short side, from which iterating the Gram matrix takes fewer operations


def orthogonalise(matrices: Tensor) -> Tensor:
    """Near-orthogonal matrices with the singular vectors of `matrices` (n, rows, columns), by Newton-Schulz iteration.

    Every iteration multiplies x by a polynomial of its Gram matrix, and these polynomials commute. So for oblong matrices in fp32
    only the small square Gram matrices are iterated, and x is multiplied once at the end. bf16 is too inexact for that.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    oblong = x.shape[-1] >= _MIN_GRAM_RATIO * x.shape[-2]
    x = _by_gram(x) if oblong and x.dtype == torch.float32 else _by_iteration(x)
    return (x.mT if tall else x).to(matrices.dtype)


def _by_iteration(x: Tensor) -> Tensor:
    """The iteration on x itself."""
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    """The same as `_by_iteration`, by iterating the Gram matrix and the product of its polynomials."""
    a, b, c = _COEFFICIENTS
    gram = x @ x.mT
    product: Tensor | None = None
    for iteration in range(_ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if iteration + 1 < _ITERATIONS:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for two-dimensional parameters."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape].append(p)
            for shape, params in by_shape.items():
                directions = []
                for p in params:
                    assert p.grad is not None
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                    momentum = self.state[p]["momentum"]
                    momentum.lerp_(p.grad, 1 - group["momentum"])
                    directions.append(p.grad.lerp(momentum, group["momentum"]))
                updates = orthogonalise(torch.stack(directions))
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)


def make_optimizers(model: torch.nn.Module, lr: float, weight_decay: float) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices of the layers, AdamW without weight decay for embeddings, head and norms."""
    hidden: list[Tensor] = []
    rest: list[Tensor] = []
    for name, p in model.named_parameters():
        matrix = p.ndim == 2 and "embed" not in name and "lm_head" not in name
        (hidden if matrix else rest).append(p)
    return Muon(hidden, lr, weight_decay=weight_decay), torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)


def make_adamw(parameters: Iterable[Tensor], lr: float) -> torch.optim.AdamW:
    """AdamW without weight decay, for models that are already trained."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
