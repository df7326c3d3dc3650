"""Moves a model's weights to host memory while another process or library uses the device, and back."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Rests(Protocol):
    """A trainer, an engine or weights that can give up the device's memory between two uses."""

    def rest(self) -> None:
        """Give up the device's memory. A second call has no effect."""
        ...

    def wake(self) -> None:
        """Take the memory again. May do nothing if the next use does it."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A trainer whose matrices can be moved between fits."""

    def move(self, device: torch.device) -> None:
        """Move the matrices to `device`; they stay the ones that are trained."""
        ...


class OffloadedWeights:
    """The frozen weights of a model, which are in host memory while they rest. Modules that share them cannot compute then.

    The host memory is pageable: pinned memory is faster to copy but takes more room than the weights. The alternative would be
    to read the weights from disk again. Not run on a CUDA device yet.
    """

    def __init__(self, model: Any, device: torch.device, trainer: Movable | None = None) -> None:
        """`trainer`: one whose own matrices on the device move with the weights."""
        self._model, self._device, self._trainer = model, device, trainer
        self.resting = False

    def rest(self) -> None:
        """Move the weights to host memory, and free the memory that torch's allocator keeps on the device."""
        if not self.resting:
            self.resting = True
            self._move(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Move the weights back to the device if they rest."""
        if self.resting:
            self._move(self._device)
            self.resting = False

    def _move(self, device: torch.device) -> None:
        move_weights(self._model, device)
        if self._trainer is not None:
            self._trainer.move(device)


def move_weights(model: Any, device: torch.device) -> None:
    """Move frozen weights and buffers in place, so other modules that hold the tensors see it. Trained weights stay."""
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
    for state in states.values():  # the scales of 4-bit weights
        state.to(device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`, as a plain tensor: `to` of bitsandbytes' class would make a new parameter."""
    return tensor.as_subclass(Tensor).to(device)
