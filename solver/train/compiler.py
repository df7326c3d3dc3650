"""Compiles the training pass of a stack by torch.compile, when that pays, and goes back to the plain pass if the compiler fails.

One function is compiled: the decoder layer, forward and backward, as one graph without breaks. All layers of a model use it, and
sizes are symbols in it, so it is compiled once and not once for each layer and shape: again only for passes of one task or of one
row, at most `MAX_GRAPHS` times. Embedding, rotation, head and loss stay as they are. The optimizer step is compiled, too.

torch takes sizes that are equal in its first example for one symbol, and a size that equals one of the model for a constant. So
the first example is a pass of padding in a shape of which no two sizes are equal (`example_shape`).

torch caches compiled kernels in a folder (TORCHINDUCTOR_CACHE_DIR) that a second worker or run finds. This module was not run on
a GPU yet: the tests trace the graphs on a CPU and run them as they are.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from solver.train.stack_update import Update, update_slots

log = logging.getLogger(__name__)

BACKEND: Any = "inductor"
COMPILE_SECONDS = 40.0  # assumed, of a first compilation without a cache; `solver pretrain` took 85 s for all layers on one H200
MAX_GRAPHS = 4  # of a layer: one task or many, times one row or many; and two of the optimizer step


@dataclass(eq=False)
class CompilerState:
    """What is known about compiling, for all stacks of a trainer."""

    plain_seconds: float = 0.0  # that plain steps have taken
    refusal: str = ""  # why nothing is compiled; empty: it may be

    @classmethod
    def of(cls, device: torch.device, wanted: bool | None) -> Self:
        """The state at the beginning. `wanted`: the setting `train.compile`."""
        return cls(refusal=refusal(device) if wanted is None else "" if wanted else "set by train.compile")


class PassCompiler:
    """Decides when the passes over `model` are compiled, and does it. `wanted`: at once, or (None) when it pays.

    It pays once plain steps have taken as long as compiling is assumed to. So a short run does not wait for the compiler at all,
    and, if the assumption holds, a long one takes at most twice as long as if it had known its length.
    """

    def __init__(self, model: Any, wanted: bool | None, state: CompilerState) -> None:
        self._layers = decoder_layers(model)
        self._wanted = wanted
        self._state = state
        self.compiled = False
        self._kinds: set[tuple[int, int, int]] = set()  # shapes of the examples that were compiled
        self.update: Update = update_slots

    def observe(self, seconds: float) -> None:
        """Take in that steps took `seconds`."""
        if not self.compiled:
            self._state.plain_seconds += seconds

    def compile_if_due(self, left: float) -> bool:
        """Compile if that pays and the `left` seconds of the fit are enough for it. Gives whether the next step will compile."""
        if self.compiled or self._state.refusal or not self._layers:
            return False
        if not self._wanted and (self._state.plain_seconds < COMPILE_SECONDS or left < 2 * COMPILE_SECONDS):
            return False
        try:
            compiled = torch.compile(call_layer, fullgraph=True, dynamic=True, backend=BACKEND)
            self.update = torch.compile(update_slots, fullgraph=True, dynamic=True, backend=BACKEND)
        except Exception as error:  # as on a version of Python that the compiler does not support
            self.give_up(error)
            return False
        for layer in self._layers:
            layer.forward = partial(_with_gradient, compiled, layer)
        self.compiled = True
        return True

    def example_shape(self, tasks: int, rows: int) -> tuple[int, int, int] | None:
        """The shape of a pass to compile before one of so many tasks and rows; None if there is nothing to compile."""
        shape = (1 if tasks == 1 else 13, 1 if rows == 1 else 3, 47)
        if not self.compiled or shape in self._kinds:
            return None
        self._kinds.add(shape)
        return shape

    def give_up(self, error: Exception) -> None:
        """Use the plain passes from now on, with a warning that says why."""
        for layer in self._layers:
            vars(layer).pop("forward", None)
        self.update = update_slots
        self.compiled = False
        self._state.refusal = next(iter(str(error).splitlines()), "") or "no message"
        log.warning("compiler: fits go on without it: %s: %s", type(error).__name__, self._state.refusal)


def refusal(device: torch.device) -> str:
    """Why nothing is compiled unless `train.compile` asks for it, in a few words; empty: it may be."""
    if device.type != "cuda":
        return "passes are compiled on CUDA devices"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not any(map(shutil.which, ("gcc", "cc", "clang"))):
        return "there is no C compiler, which triton needs"
    return ""


def decoder_layers(model: Any) -> list[Any]:
    """The layers of a causal language model's decoder; empty if it has no list of them."""
    return list(getattr(model.get_decoder(), "layers", ()))


def call_layer(layer: Any, x: Tensor, *arguments: Any, **named: Any) -> Any:
    """The layer's own forward pass, whatever `layer.forward` is at the moment."""
    return type(layer).forward(layer, x, *arguments, **named)


def _with_gradient(compiled: Any, layer: Any, x: Tensor, *arguments: Any, **named: Any) -> Any:
    """The compiled layer. Its input needs a gradient, also in the first layer: another graph would be compiled without."""
    if not x.requires_grad and torch.is_grad_enabled():
        x = x.detach().requires_grad_()
    return compiled(layer, x, *arguments, **named)
