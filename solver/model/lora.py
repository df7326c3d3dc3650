"""Low-rank adapters on the linear layers of a model, one or many stacked in the same model, in PEFT's on-disk format.

The layers are chosen by what they are, not by what they are called: every linear layer but the head. PEFT's "all-linear" is the
same, but for experts that share one tensor, which only PEFT could serve.

A stack of n adapters holds its matrices as (n, rank, in) and (n, out, rank); every row of a batch uses its own adapter's.
The model's weights and modules are left alone: a stack lives on a second tree of modules over the same tensors.

Source: LoRA (Hu et al. 2021), section 4.1; rank-stabilised scaling (Kalajdzievski 2023), section 3.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from solver.errors import InputError
from solver.model.adapter_folder import CONFIG, PREFIX, WEIGHTS, LoraShape, check_layers_fit, read_shape
from solver.model.load import Base, share
from solver.types import AdapterRef


class RowSlots:
    """Which adapter each row of the running batch uses; shared by all layers of a stack. None: all use the only one."""

    index: Tensor | None = None  # (rows,) int64


class LoraLinear(nn.Module):
    """A frozen linear layer plus scaling * B A x, with A (n, rank, in) and B (n, out, rank) in fp32."""

    def __init__(self, base: nn.Module, shape: LoraShape, slots: int, rows: RowSlots, device: torch.device) -> None:
        super().__init__()
        self.base = base
        self.shape = shape
        self.rows = rows
        self.a = nn.Parameter(torch.zeros(slots, shape.rank, int(base.in_features), device=device))  # type: ignore[arg-type]
        self.b = nn.Parameter(torch.zeros(slots, int(base.out_features), shape.rank, device=device))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(rows, tokens, in) -> (rows, tokens, out), both in the dtype of the model."""
        dropped = functional.dropout(x, self.shape.dropout, self.training) if self.shape.dropout else x
        if self.rows.index is not None:
            a, b = (matrix.to(x.dtype)[self.rows.index] for matrix in (self.a, self.b))
            return torch.baddbmm(self.base(x), dropped @ a.mT, b.mT, alpha=self.shape.scaling)
        if self.mergeable and dropped is x:
            merged = MergedProduct.apply(x.flatten(0, -2), self.base.weight, self.a[0] * self.shape.scaling, self.b[0])
            out = merged.unflatten(0, x.shape[:-1])
            return out if self.base.bias is None else out + self.base.bias
        a, b = self.a[0].to(x.dtype), self.b[0].to(x.dtype)
        frozen = self.base(x)
        low = functional.linear(dropped, a).flatten(0, -2)
        return torch.addmm(frozen.flatten(0, -2), low, b.T, alpha=self.shape.scaling).view_as(frozen)

    @property
    def mergeable(self) -> bool:
        """Whether B A may be added to the weight itself: coarser formats would round small updates away."""
        weight = self.base.weight
        return isinstance(weight, Tensor) and weight.dtype == torch.float32

    def merged(self) -> Tensor:
        """(out, in): the weight of the layer that does the same without an adapter. For stacks of one."""
        assert isinstance(self.base.weight, Tensor)
        return torch.addmm(self.base.weight, self.b[0], self.a[0], alpha=self.shape.scaling)


class MergedProduct(torch.autograd.Function):
    """x W'^T with W' the frozen `weight` plus B_i A_i on the i-th part of its rows: one product over the tokens forward and
    one for dx, instead of three and three.

    The gradients of A and B need that of W', dy^T x, only through B^T (dy^T x) and (dy^T x) A^T, which are computed from the
    right end: rank-wide products, never an (out, in) one.

    x (tokens, in); weight (out, in); a (parts * rank, in); each b (out_i, rank), in the order of the rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, *bs: Tensor) -> Tensor:
        """(tokens, out)."""
        merged = torch.empty_like(weight)
        rank, at = bs[0].shape[1], 0
        for part, b in enumerate(bs):
            torch.addmm(weight[at : at + len(b)], b, a[part * rank : (part + 1) * rank], out=merged[at : at + len(b)])
            at += len(b)
        ctx.save_for_backward(x, merged, a, *bs)
        return functional.linear(x, merged)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, a and each b."""
        x, merged, a, *bs = ctx.saved_tensors
        grad, rank, at = grads[0], bs[0].shape[1], 0
        grad_x = grad @ merged if ctx.needs_input_grad[0] else None
        low = x @ a.T
        grad_low = torch.empty_like(low)
        grad_bs = []
        for part, b in enumerate(bs):
            mine, columns = grad[:, at : at + len(b)], slice(part * rank, (part + 1) * rank)
            torch.mm(mine, b, out=grad_low[:, columns])
            grad_bs.append(mine.T @ low[:, columns])
            at += len(b)
        return grad_x, None, grad_low.T @ x, *grad_bs


@dataclass(frozen=True, eq=False)
class LoraStack:
    """`slots` adapters on one model. `model` is used like the base's; `base.model` itself stays as it is."""

    model: Any
    layers: dict[str, LoraLinear]  # by the name of the layer in the base model
    shape: LoraShape
    slots: int
    rows: RowSlots
    base: Base

    def set_rows(self, index: Tensor | Sequence[int] | None) -> None:
        """Say which slot each row of the coming batches uses: (rows,) ints. None: the only one, the fast path of one."""
        if index is None and self.slots != 1:
            raise ValueError(f"a stack of {self.slots} adapters has to be told which row uses which")
        self.rows.index = None if index is None else torch.as_tensor(index, dtype=torch.long, device=self.base.device)

    def parameters(self) -> list[nn.Parameter]:
        """The matrices, each (slots, ...), in a fixed order."""
        return [matrix for layer in self.layers.values() for matrix in (layer.a, layer.b)]

    @torch.no_grad()
    def reset(self, slot: int, seed: int) -> None:
        """A fresh adapter: A uniform in +-1/sqrt(in) from `seed` alone, B zero, as PEFT draws them."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            bound = 1 / math.sqrt(layer.a.shape[2])
            layer.a[slot] = torch.empty(layer.a.shape[1:]).uniform_(-bound, bound, generator=generator).to(layer.a.device)
            layer.b[slot] = 0

    @torch.no_grad()
    def load(self, slot: int, folder: Path) -> None:
        """Read an adapter of this shape. Raises InputError if it does not fit.

        A layer that it leaves out changes nothing: its B is 0, and its A stays as it is, so that a fit may go on from there.
        """
        found = read_shape(folder)
        if (found.rank, found.scaling) != (self.shape.rank, self.shape.scaling):
            raise InputError(f"{folder}: adapter has rank {found.rank} and scaling {found.scaling:g}, not {self.shape}")
        weights = _read_weights(folder)
        for name, layer in self.layers.items():
            for letter, matrix in (("A", layer.a), ("B", layer.b)):
                value = weights.pop(f"{PREFIX}{name}.lora_{letter}.weight", None)
                if value is not None and value.shape != matrix.shape[1:]:
                    raise InputError(f"{folder}: adapter does not fit the model: {name} is {tuple(value.shape)}")
                if value is not None:
                    matrix[slot] = value.to(matrix.device, matrix.dtype)
                elif letter == "B":
                    matrix[slot] = 0
        if weights:
            raise InputError(f"{folder}: adapter does not fit the model: it changes {min(weights)}")

    def save(self, slot: int, folder: Path) -> None:
        """Write one adapter as PEFT does (fp32); PEFT, vLLM and `load` read it."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            f"{PREFIX}{name}.lora_{letter}.weight": matrix[slot].detach().cpu().contiguous()
            for name, layer in self.layers.items()
            for letter, matrix in (("A", layer.a), ("B", layer.b))
        }
        _write(self.base, self.shape, weights, folder)


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """The layers that adapters change, by name: every linear layer of a model but its head, 4-bit ones of bitsandbytes too."""
    head = model.get_output_embeddings()
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head}


def target_names(model: Any) -> tuple[str, ...]:
    """What the layers that adapters change are called inside their blocks, such as "q_proj"; sorted, each name once."""
    return tuple(sorted({name.rpartition(".")[2] for name in linear_layers(model)}))


def check_layers(base: Base) -> str:
    """One line about the matrices that LoRA leaves as they are; empty if it adapts all but embeddings and head.

    Raises InputError if the model has no linear layer that LoRA can adapt.
    """
    kept = [base.model.get_output_embeddings(), *linear_layers(base.model).values()]
    others = [
        (f"{name}.{parameter}", type(module).__name__)
        for name, module in base.model.named_modules()
        if not isinstance(module, nn.Embedding) and not any(module is one for one in kept)
        for parameter, value in module.named_parameters(recurse=False)
        if value.dim() > 1
    ]
    if len(kept) == 1:
        kinds = ", ".join(sorted({kind for _, kind in others}))
        raise InputError(f"{base.path}: LoRA adapts nn.Linear layers and the model has none ({kinds}): set train.trainer=full")
    if not others:
        return ""
    return f"LoRA adapts {len(kept) - 1} linear layers and leaves {len(others)} matrices as they are, the first {others[0][0]}"


def check_fits(base: Base, folder: Path) -> int:
    """The rank of an adapter whose layers are those of `base`, by the heads of its files. Raises InputError."""
    rank = read_shape(folder).rank
    layers = {name: (layer.in_features, layer.out_features) for name, layer in linear_layers(base.model).items()}
    check_layers_fit(folder, rank, layers)
    return rank


def attach(base: Base, shape: LoraShape, slots: int) -> LoraStack:
    """A stack of `slots` adapters that change nothing yet, on every linear layer but the head."""
    model = share(base.model)
    rows = RowSlots()
    layers: dict[str, LoraLinear] = {}
    for name, module in linear_layers(model).items():
        layers[name] = LoraLinear(module, shape, slots, rows, base.device)
        model.set_submodule(name, layers[name])
    return LoraStack(model.eval(), layers, shape, slots, rows, base)


def save_neutral(base: Base, folder: Path) -> None:
    """Write an adapter of rank 1 that changes nothing, on all layers that adapters of this base change; for descriptions, too."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, layer in linear_layers(base.model).items():
        weights[f"{PREFIX}{name}.lora_A.weight"] = torch.zeros(1, layer.in_features)
        weights[f"{PREFIX}{name}.lora_B.weight"] = torch.zeros(layer.out_features, 1)
    _write(base, LoraShape(1, 1.0), weights, folder)


def load_stack(base: Base, refs: Sequence[AdapterRef | None]) -> LoraStack:
    """Adapters of one shape, ready to infer: slot i is refs[i], None is the bare base. Raises InputError for a bad folder."""
    shapes = [read_shape(ref.path) for ref in refs if ref is not None]
    stack = attach(base, shapes[0] if shapes else LoraShape(1, 1.0), len(refs))
    for slot, ref in enumerate(refs):
        if ref is not None:
            stack.load(slot, ref.path)
    for matrix in stack.parameters():
        matrix.requires_grad_(False)
    return stack


def _write(base: Base, shape: LoraShape, weights: dict[str, Tensor], folder: Path) -> None:
    layers = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in weights}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.path),
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "use_rslora": shape.rslora,
        "lora_dropout": shape.dropout,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
        "inference_mode": True,
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: corrupt adapter: {WEIGHTS}: {str(error).splitlines()[0]}") from None
