"""Applies an adapter to its base model, for inference; reads and writes adapters that are all weights of a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from solver.errors import InputError, one_line
from solver.model.load import Base, share
from solver.model.lora import load_stack
from solver.types import AdapterRef

_WEIGHTS = "model.safetensors"


def apply_adapter(base: Base, ref: AdapterRef | None) -> Any:
    """A causal language model in eval mode: the base with the adapter `ref`, or `base.model` itself for None.

    `base.model` is never changed. LoRA is merged into the weights where these are in fp32. Weights in other formats are shared
    with the base, and the LoRA matrices stay beside them. Raises InputError if the adapter's folder is missing or corrupt, or
    belongs to another model.
    """
    if ref is None:
        return base.model
    if not ref.path.is_dir():
        raise InputError(f"{ref.path}: adapter {ref.id} is missing")
    return _full(base, ref.path) if ref.kind == "full" else _lora(base, ref)


def save_full(base: Base, model: Any, folder: Path) -> None:
    """Write a model folder: all weights (tied ones once), and the base's configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.named_parameters()}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    for file in base.path.glob("*.json"):
        if not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)


def load_full(model: Any, folder: Path) -> None:
    """Copy weights that `save_full` wrote into `model`, in its dtype. Raises InputError unless names and shapes are the same."""
    own = dict(model.named_parameters())
    try:
        weights = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: corrupt adapter: {_WEIGHTS}: {one_line(error)}") from None
    for name in own.keys() | weights.keys():
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise InputError(f"{folder}: adapter does not fit the model: {name}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def own_weights(base: Base, dtype: torch.dtype) -> Any:
    """A copy of the base model with weights of its own, in `dtype`."""
    model = share(base.model)
    copies: dict[int, torch.nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if id(value) not in copies:
                copies[id(value)] = torch.nn.Parameter(value.detach().to(dtype, copy=True), requires_grad=False)
            setattr(module, name, copies[id(value)])
    return model


def _full(base: Base, folder: Path) -> Any:
    model = own_weights(base, base.dtype)
    load_full(model, folder)
    return model


def _lora(base: Base, ref: AdapterRef) -> Any:
    stack = load_stack(base, [ref])
    for name, layer in stack.layers.items():
        if layer.mergeable:
            linear = layer.base
            linear.weight = torch.nn.Parameter(layer.merged(), requires_grad=False)
            stack.model.set_submodule(name, linear)
    return stack.model
