"""Low-rank adapters on the linear layers of a model, one or many stacked in the same model, in PEFT's on-disk format.

Adapters change every linear layer except the head, whatever the layers are called. PEFT's "all-linear" is the same, except that
it adds experts that share one tensor, which only PEFT could serve.

A stack of n adapters holds matrices (n, rank, in) and (n, out, rank). Engines say for each row of a batch which adapter it uses.
Fits let the rows of a task lie together, and apply the adapters of all tasks by batched products, without a copy for each row.
The model's own modules are not changed: a stack has a second tree of modules over the same weight tensors.

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

from solver.errors import InputError, one_line
from solver.model.adapter_folder import CONFIG, PREFIX, WEIGHTS, LoraShape, check_layers_fit, read_shape
from solver.model.load import Base, share
from solver.types import AdapterRef


class RowSlots:
    """Which slot (adapter) each row of the current batch uses; shared by all layers of a stack. None: all use the only one."""

    index: Tensor | None = None  # (rows,) int64


class LoraLinear(nn.Module):
    """A frozen linear layer plus scaling * B A x, with A (slots, rank, in) and B (slots, out, rank) in fp32.

    `task_a` (tasks, rank, in) and `task_b` (tasks, out, rank), in the dtype of the model, are used instead if they are set. Then
    a batch has the same number of rows for each of these tasks, in their order.
    """

    task_a: Tensor | None = None
    task_b: Tensor | None = None

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
        if self.task_a is not None and self.task_b is not None:
            tasks = len(self.task_a)
            low = torch.bmm(dropped.reshape(tasks, -1, x.shape[-1]), self.task_a.mT)
            frozen = self.base(x).reshape(tasks, low.shape[1], -1)
            return torch.baddbmm(frozen, low, self.task_b.mT, alpha=self.shape.scaling).view(*x.shape[:-1], -1)
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
        """Whether B A may be added to the weight itself: it is in fp32. Coarser formats would lose small updates by rounding."""
        weight = self.base.weight
        return isinstance(weight, Tensor) and weight.dtype == torch.float32

    def merged(self) -> Tensor:
        """The weight (out, in) of a linear layer that computes the same without an adapter. For stacks of one."""
        assert isinstance(self.base.weight, Tensor)
        return torch.addmm(self.base.weight, self.b[0], self.a[0], alpha=self.shape.scaling)


class MergedProduct(torch.autograd.Function):
    """x W'^T, where W' is the frozen `weight` plus B_i A_i on the i-th part of its rows.

    This takes one product over the tokens forward and one for dx, where separate products with weight, A and B take three and
    three. The gradient of W' is dy^T x (out, in), and the gradients of A and B are B^T (dy^T x) and (dy^T x) A^T. They are
    computed as (B^T dy^T) x and dy^T (x A^T), whose products are rank-wide.

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
    """`slots` adapters on one model. `base.model` is not changed."""

    model: Any  # used like `base.model`, with the adapters
    layers: dict[str, LoraLinear]  # by the name of the layer in the base model
    shape: LoraShape
    slots: int
    rows: RowSlots
    base: Base

    def set_rows(self, index: Tensor | Sequence[int] | None) -> None:
        """Say which slot each row of the next batches uses: (rows,) ints. None: all use the only one, which is faster."""
        if index is None and self.slots != 1:
            raise ValueError(f"a stack of {self.slots} adapters needs to know which row uses which one")
        self.rows.index = None if index is None else torch.as_tensor(index, dtype=torch.long, device=self.base.device)

    def set_tasks(self, weights: Tensor | None) -> None:
        """Say which adapters the tasks of the next batches use: (tasks, numbers), all matrices of an adapter in one row.

        The order in a row is that of `parameters`. A batch has the same number of rows for each task, in the order of the tasks.
        None: adapters are chosen by `set_rows` again.
        """
        if weights is None:
            for layer in self.layers.values():
                layer.task_a = layer.task_b = None
            return
        matrices = self.parameters()
        parts = weights.split([matrix[0].numel() for matrix in matrices], dim=1)
        shaped = (part.view(-1, *matrix.shape[1:]) for part, matrix in zip(parts, matrices, strict=True))
        for layer in self.layers.values():
            layer.task_a, layer.task_b = next(shaped), next(shaped)

    def parameters(self) -> list[nn.Parameter]:
        """The matrices, each (slots, ...), in a fixed order."""
        return [matrix for layer in self.layers.values() for matrix in (layer.a, layer.b)]

    @torch.no_grad()
    def reset(self, slot: int, seed: int) -> None:
        """Initialise an adapter as PEFT does: A uniform in +-1/sqrt(in), drawn from `seed` alone, and B zero."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            bound = 1 / math.sqrt(layer.a.shape[2])
            layer.a[slot] = torch.empty(layer.a.shape[1:]).uniform_(-bound, bound, generator=generator).to(layer.a.device)
            layer.b[slot] = 0

    @torch.no_grad()
    def load(self, slot: int, folder: Path) -> None:
        """Read an adapter of this shape. Raises InputError if it does not fit.

        If the adapter leaves a layer out, B becomes 0 there, so it changes nothing. A stays as it is, so a fit can train it.
        """
        shape = read_shape(folder)
        if (shape.rank, shape.scaling) != (self.shape.rank, self.shape.scaling):
            raise InputError(
                f"{folder}: adapter has rank {shape.rank} and scaling {shape.scaling:g}, not {self.shape.rank} and "
                f"{self.shape.scaling:g}"
            )
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
    """The layers that adapters change, by name: every linear layer except the head, 4-bit ones of bitsandbytes included."""
    head = model.get_output_embeddings()
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head}


def target_names(model: Any) -> tuple[str, ...]:
    """The last parts of the names of the layers that adapters change, such as "q_proj"; sorted, each once."""
    return tuple(sorted({name.rpartition(".")[2] for name in linear_layers(model)}))


def check_layers(base: Base) -> str:
    """One line about the matrices that LoRA does not adapt, embeddings and head apart; empty if it adapts all others.

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
    """Check that an adapter fits the layers of `base`, by its headers alone, and give its rank. Raises InputError."""
    rank = read_shape(folder).rank
    layers = {name: (layer.in_features, layer.out_features) for name, layer in linear_layers(base.model).items()}
    check_layers_fit(folder, rank, layers)
    return rank


def attach(base: Base, shape: LoraShape, slots: int) -> LoraStack:
    """A stack of `slots` adapters on every linear layer except the head. They change nothing yet."""
    model = share(base.model)
    rows = RowSlots()
    layers: dict[str, LoraLinear] = {}
    for name, module in linear_layers(model).items():
        layers[name] = LoraLinear(module, shape, slots, rows, base.device)
        model.set_submodule(name, layers[name])
    return LoraStack(model.eval(), layers, shape, slots, rows, base)


def save_neutral(base: Base, folder: Path) -> None:
    """Write an adapter of rank 1 that changes nothing, on all layers that adapters of `base` change. `base` needs no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, layer in linear_layers(base.model).items():
        weights[f"{PREFIX}{name}.lora_A.weight"] = torch.zeros(1, layer.in_features)
        weights[f"{PREFIX}{name}.lora_B.weight"] = torch.zeros(layer.out_features, 1)
    _write(base, LoraShape(1, 1.0), weights, folder)


def load_stack(base: Base, refs: Sequence[AdapterRef | None]) -> LoraStack:
    """A stack of adapters of one shape for inference: slot i is refs[i], None the base alone. Raises InputError if one is bad."""
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
        raise InputError(f"{folder}: corrupt adapter: {WEIGHTS}: {one_line(error)}") from None
