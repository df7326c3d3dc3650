"""Weights that rest: moved to the host while another process or library uses the device, and back."""

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


class Parked:
    """The frozen weights of a model, which all trees of modules over them share: while parked, none of these can compute.

    Moving pageable memory is slower than pinned memory, but costs the host no more than the weights themselves, and these are
    read from disk otherwise. Not run on a CUDA device yet.
    """

    def __init__(self, model: Any, device: torch.device, trainer: Movable | None = None) -> None:
        """`trainer` has matrices of its own beside them, which move, too."""
        self._model, self._device, self._trainer = model, device, trainer
        self.resting = False

    def rest(self) -> None:
        """To the host; what the allocator then has in store goes back to the device."""
        if not self.resting:
            self.resting = True
            self._move(torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Back to the device, if they are not there."""
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
