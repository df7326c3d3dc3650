"""LoRA matrices that a library put into a model, in the names and shapes of the peft package, as what a loop trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from solver.model.load import Base
from solver.model.lora import LoraShape, LoraStack, RowSlots
from solver.train.loop import Loop, fit_in_stacks
from solver.train.lora import LoraFitTarget
from solver.types import Deadline, Fit, FitJob

_NAME = "default"  # what peft calls the only adapter of a model


class ExternalLoraFitTarget(LoraFitTarget):
    """The adapter of a model that peft wrapped: begun and saved as those of a stack, number by number, trained in place."""

    def __init__(self, base: Base, shape: LoraShape, reentrant: bool = False) -> None:
        """`base.model` is the model below peft's wrapper, its linear layers replaced; `reentrant`: see `FitTarget`."""
        self.model: Any = base.model
        self.reentrant = reentrant
        self._modules = {name: module for name, module in base.model.named_modules() if hasattr(module, "lora_A")}
        layers: Any = {name: _Matrices(module) for name, module in self._modules.items()}
        self.slots = 1
        self._stack = LoraStack(base.model, layers, shape, self.slots, RowSlots(), base)

    def parameters(self) -> list[nn.Parameter]:
        """Every A and B."""
        return [side[_NAME].weight for module in self._modules.values() for side in (module.lora_A, module.lora_B)]

    def use(self, rows: Tensor) -> None:
        """All rows are the one adapter's."""


class ExternalLoraTrainer:
    """A LoRA adapter per job, by a loop over a wrapped model."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, in order, as each completes."""
        return fit_in_stacks(lambda _: self._loop, jobs, 1, deadline)

    def move(self, device: Any) -> None:
        """Take the matrices elsewhere between two fits."""
        self._loop.move(device)


class _Matrices:
    """A layer's matrices as a stack of one: views of what is trained, wherever a loop has moved it."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @property
    def a(self) -> Tensor:
        """(1, rank, in)."""
        return self._module.lora_A[_NAME].weight.detach()[None]

    @property
    def b(self) -> Tensor:
        """(1, out, rank)."""
        return self._module.lora_B[_NAME].weight.detach()[None]
