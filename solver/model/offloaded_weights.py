"""Weights that move to host memory while another process or library uses the device, and back."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Rests(Protocol):
    """Something that holds a device's memory, and can do without it until it is used again."""

    def rest(self) -> None:
        """Give the memory up. Twice in a row is the same as once."""
        ...

    def wake(self) -> None:
        """Take it again, unless the next use does that by itself."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A trainer whose matrices can be elsewhere while it does not fit."""

    def move(self, device: torch.device) -> None:
        """Take them there, and keep them trained."""
        ...


class OffloadedWeights:
    """The frozen weights of a model, in host memory while they rest. No module that shares them can compute during that time.

    The host memory is pageable: pinned memory moves faster but takes more room than the weights. Without this class the weights
    would be read from disk again. Not run on a CUDA device yet.
    """

    def __init__(self, model: Any, device: torch.device, trainer: Movable | None = None) -> None:
        """`trainer`: has matrices of its own on the device; they move with the weights."""
        self._model, self._device, self._trainer = model, device, trainer
        self.resting = False

    def rest(self) -> None:
        """Move the weights to host memory and return the memory that the allocator has cached to the device."""
        if not self.resting:
            self.resting = True
            self._move(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Move the weights back to the device, if they are not there."""
        if self.resting:
            self._move(self._device)
            self.resting = False

    def _move(self, device: torch.device) -> None:
        move_weights(self._model, device)
        if self._trainer is not None:
            self._trainer.move(device)


def move_weights(model: Any, device: torch.device) -> None:
    """Move frozen weights and buffers in place: tensors stay the objects that others hold. Trained ones are left alone."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = _moved(parameter.data, device)
    states = {}
    for module in model.modules():
        for buffer in module.buffers(recurse=False):
            buffer.data = _moved(buffer.data, device)
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            states[id(state)] = state
    for state in states.values():  # of 4-bit weights: scales lie beside them
        state.to(device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Without the class of bitsandbytes, whose own `to` makes another parameter and moves its scales."""
    return tensor.as_subclass(Tensor).to(device)
