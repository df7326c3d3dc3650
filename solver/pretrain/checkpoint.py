"""Checkpoints of a pre-training run: a model folder anyone can load, with the exact training state beside it.

`OUT/latest` is a link to the newest complete checkpoint; a checkpoint is written under another name first, so a full
disk or a kill leaves the previous one. Tensor files stay below 15 MiB each, so that they travel through narrow doors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3ForCausalLM

from solver.codec import grid_codec
from solver.errors import InputError
from solver.model.build import save_model

SHARD_BYTES = 15 * 2**20
KEEP = 2


@dataclass(frozen=True)
class Position:
    """How far a run has come: optimizer steps, real tokens, and the next (block, batch) of the data."""

    steps: int = 0
    tokens: int = 0
    block: int = 0
    batch: int = 0
    seed: int = 0
    seconds: float = 0.0


def save_checkpoint(out: Path, model: Qwen3ForCausalLM, optimizers: Iterable[torch.optim.Optimizer], position: Position) -> Path:
    """Write model (bf16), fp32 weights, bf16 optimizer state and position; then point `OUT/latest` at them."""
    final = out / f"step-{position.steps:07d}"
    partial = out / f".{final.name}.partial"
    for stale in (partial, final):
        if stale.exists():
            shutil.rmtree(stale)
    save_model(model, partial)
    _save_sharded({n: p.detach() for n, p in model.named_parameters()}, partial, "weights")
    _save_sharded(_optimizer_state(model, optimizers), partial, "optimizer")
    state = {"codec": grid_codec().name, "position": asdict(position), "config": model.config.to_diff_dict()}
    (partial / "state.json").write_text(json.dumps(state, indent=1, default=str) + "\n", encoding="utf-8")
    partial.rename(final)
    link = out / ".latest.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    link.replace(out / "latest")
    for old in sorted(out.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """The model of a checkpoint in fp32: exact weights if the training state is there, else the shipped bf16 ones.

    Raises InputError for a folder that is no grid model of this codec version.
    """
    codec = folder / "codec.json"
    if not codec.is_file():
        raise InputError(f"{folder}: not a base model of this package (no codec.json)")
    found = json.loads(codec.read_text(encoding="utf-8"))["codec"]
    if found != grid_codec().name:
        raise InputError(f"{folder}: the model is written for codec {found}, this version has {grid_codec().name}")
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    exact = _load_sharded(folder, "weights")
    if exact:
        model.load_state_dict(exact, strict=False)  # the tied head is not stored twice
    return model


def load_state(folder: Path, model: Qwen3ForCausalLM, optimizers: Iterable[torch.optim.Optimizer]) -> Position | None:
    """Restore optimizer state; the position to go on from, or None if the folder holds a model alone."""
    state = folder / "state.json"
    if not state.is_file():
        return None
    tensors = _load_sharded(folder, "optimizer")
    names = {p: n for n, p in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                prefix = names[p] + ":"
                found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                if found:
                    optimizer.state[p] = {k: v if k == "step" else v.to(p) for k, v in found.items()}
    return Position(**json.loads(state.read_text(encoding="utf-8"))["position"])


def _optimizer_state(model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {
        f"{names[p]}:{key}": value if key == "step" else value.to(torch.bfloat16)
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def _save_sharded(tensors: Mapping[str, Tensor], folder: Path, prefix: str) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor.contiguous().cpu()
        room -= size
    for place, shard in enumerate(shards):
        save_file(shard, folder / f"{prefix}-{place:02d}.safetensors")


def _load_sharded(folder: Path, prefix: str) -> dict[str, Tensor]:
    return {k: v for path in sorted(folder.glob(f"{prefix}-*.safetensors")) for k, v in load_file(path).items()}
