"""LoRA adapters with random matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from solver.model.load import Base
from solver.model.lora import LoraShape, attach
from solver.types import AdapterRef


def random_lora(base: Base, folder: Path, seed: int, shape: LoraShape, spread: float) -> AdapterRef:
    """An adapter of `base` in `folder`, B drawn with the standard deviation `spread`."""
    stack = attach(base, shape, 1)
    stack.reset(0, seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in stack.layers.values():
        layer.b.data.copy_(torch.empty(layer.b.shape).normal_(0, spread, generator=generator))  # the same on every device
    stack.save(0, folder)
    return AdapterRef(f"lora-{seed}", folder, "lora")


def random_loras(base: Base, rank: int, count: int, folder: Path, spread: float) -> Iterator[AdapterRef]:
    """`count` such adapters of this rank, each in its own folder in `folder`."""
    for number in range(count):
        name = f"rank{rank}-{number}"
        yield replace(random_lora(base, folder / name, number, LoraShape(rank, float(rank)), spread), id=name)
