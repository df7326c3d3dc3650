"""Targets: what pre-training changes. All weights of a grid model, all weights of a causal language model, or LoRA matrices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from solver.codec import Codec, grid_codec
from solver.config import ModelSettings
from solver.model.build import save_model
from solver.model.folder import folder_identity
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape, LoraStack, attach
from solver.pretrain.optim import make_adamw, make_optimizers
from solver.textfile import read_text

Kind = Literal["grid", "full", "lora"]
Optimizers = tuple[torch.optim.Optimizer, ...]

_COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt")  # files of a model folder beside its weights: configuration, tokenizer


class PretrainTarget(Protocol):
    """What pre-training changes, and how it is written to disk."""

    kind: Kind
    model: Any  # a causal language model: `CellDecoderForCausalLM`, or one of transformers
    codec: Codec
    init: str  # identity of the model that it started from; empty for a grid model
    lr: float  # usual peak learning rate

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, tied weights once."""
        ...

    def optimizers(self, lr: float, weight_decay: float) -> Optimizers:
        """New optimizers for the parameters."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The fp32 tensors that a checkpoint needs beside what `write` writes, so that a training can go on exactly."""
        ...

    def write(self, folder: Path) -> None:
        """Write the part of a checkpoint that others can use: a model folder or an adapter."""
        ...

    def finish(self, out: Path, report: Any) -> None:
        """Called after the last checkpoint: write what is only made once."""
        ...


class GridTarget:
    """All weights of a base model of this package."""

    kind: Kind = "grid"
    init = ""
    lr = 3e-3

    def __init__(self, model: Any) -> None:
        self.model = model
        self.codec = grid_codec()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every weight."""
        return dict(self.model.named_parameters())

    def optimizers(self, lr: float, weight_decay: float) -> Optimizers:
        """Muon for the matrices, AdamW for the rest."""
        return make_optimizers(self.model, lr, weight_decay)

    def weights(self) -> Mapping[str, Tensor]:
        """Every weight."""
        return self.parameters()

    def write(self, folder: Path) -> None:
        """Write the model folder, in bf16."""
        save_model(self.model, folder)

    def finish(self, out: Path, report: Any) -> None:
        """Nothing: every checkpoint is a model folder."""


class FullTarget:
    """All weights of a model in Hugging Face format, in fp32. A checkpoint is a model folder in the dtype of the original one."""

    kind: Kind = "full"
    lr = 2e-5

    def __init__(self, init: Path, device: str) -> None:
        self._base = load_base(init, ModelSettings(dtype="float32", device=device))
        self.model, self.codec, self.init = self._base.model, self._base.codec, folder_identity(init)
        self.model.requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Every weight."""
        return dict(self.model.named_parameters())

    def optimizers(self, lr: float, weight_decay: float) -> Optimizers:
        """AdamW, with which such models are usually trained, without weight decay."""
        del weight_decay  # it would pull the weights towards zero, away from what the model has learnt
        return (make_adamw(self.parameters().values(), lr),)

    def weights(self) -> Mapping[str, Tensor]:
        """Every weight."""
        return self.parameters()

    def write(self, folder: Path) -> None:
        """Write the model folder."""
        write_model(self._base, self.parameters(), folder)

    def finish(self, out: Path, report: Any) -> None:
        """Nothing: every checkpoint is a model folder."""


class LoraTarget:
    """LoRA matrices on the linear layers, except the head, of a model in Hugging Face format.

    A checkpoint has the adapter alone, in PEFT's format in `adapter/`. After the training `OUT/model` is the model with the
    adapter merged into its weights.
    """

    kind: Kind = "lora"
    lr = 1e-4

    def __init__(self, init: Path, rank: int, device: str, seed: int) -> None:
        self._base = load_base(init, ModelSettings(device=device))
        self._stack = attach(self._base, LoraShape(rank, float(rank)), 1)
        self._stack.reset(0, seed)
        self._stack.set_rows(None)
        self.model, self.codec, self.init = self._stack.model, self._base.codec, folder_identity(init)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The matrices A and B of every layer."""
        layers = self._stack.layers.items()
        return {f"{name}.{letter}": getattr(layer, letter) for name, layer in layers for letter in ("a", "b")}

    def optimizers(self, lr: float, weight_decay: float) -> Optimizers:
        """AdamW without weight decay."""
        del weight_decay
        return (make_adamw(self.parameters().values(), lr),)

    def weights(self) -> Mapping[str, Tensor]:
        """No tensors: `write` writes the adapter in fp32."""
        return {}

    def write(self, folder: Path) -> None:
        """Write the adapter."""
        self._stack.save(0, folder / "adapter")

    def read(self, folder: Path) -> None:
        """Load the adapter of a checkpoint. Raises InputError if it does not fit."""
        self._stack.load(0, folder / "adapter")

    def finish(self, out: Path, report: Any) -> None:
        """Write the model with the adapter merged to `OUT/model`."""
        final, partial = out / "model", out / ".model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_model(self._base, merged_weights(self._base, self._stack), partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        report(f"{final}: the model with the adapter merged into its weights")


@torch.no_grad()
def merged_weights(base: Base, stack: LoraStack) -> dict[str, Tensor]:
    """The weights of a base model with the first adapter of a stack merged into them, each in its present dtype."""
    weights: dict[str, Tensor] = dict(base.model.named_parameters())
    for name, layer in stack.layers.items():
        before = weights[f"{name}.weight"]
        change = layer.shape.scaling * (layer.b[0] @ layer.a[0])
        weights[f"{name}.weight"] = (before.float() + change).to(before.dtype)
    return weights


def write_model(base: Base, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write a model folder: weights in the dtype of the base's configuration, and the base's configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(read_text(base.path / "config.json", "model configuration"))
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"), torch.bfloat16)
    whole = {name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    for file in base.path.iterdir():
        if file.suffix in _COPIED_SUFFIXES and file.is_file() and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
