"""Trains LoRA matrices that another library (peft, or unsloth through peft) put into a model, by the loop of `train.loop`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from solver.model.load import Base
from solver.model.lora import LoraShape, LoraStack, RowSlots
from solver.train.loop import Loop, fit_in_stacks
from solver.train.lora import LoraFitTarget
from solver.types import Deadline, Fit, FitJob

_NAME = "default"  # peft's name for a model's only adapter


class ExternalLoraFitTarget(LoraFitTarget):
    """The only adapter of a model that peft wrapped.

    It is trained in peft's own layers. It is initialised, loaded and saved by the code for this package's adapters, so the same
    seed gives the same matrices, and the files are the same.
    """

    def __init__(self, base: Base, shape: LoraShape, reentrant: bool = False) -> None:
        """`base.model`: the model inside peft's wrapper, in which peft replaced linear layers. `reentrant`: see `FitTarget`."""
        self.model: Any = base.model
        self.reentrant = reentrant
        self._modules = {name: module for name, module in base.model.named_modules() if hasattr(module, "lora_A")}
        layers: Any = {name: _Matrices(module) for name, module in self._modules.items()}
        self.slots = 1
        self._stack = LoraStack(base.model, layers, shape, self.slots, RowSlots(), base)

    def parameters(self) -> list[nn.Parameter]:
        """Every A and B."""
        return [side[_NAME].weight for module in self._modules.values() for side in (module.lora_A, module.lora_B)]


class ExternalLoraTrainer:
    """Fits one LoRA adapter after the other, by a loop over a wrapped model."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """Yield one fit for each job, in order, as soon as it is done."""
        return fit_in_stacks(lambda _: self._loop, jobs, 1, deadline)

    def move(self, device: Any) -> None:
        """Move the matrices to another device, between two fits."""
        self._loop.move(device)


class _Matrices:
    """The matrices of one of peft's layers in the form of a stack of one adapter.

    Properties, because a loop replaces the tensors when it moves them to another device.
    """

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
