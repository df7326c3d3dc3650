"""Checkpoints of a training: a model folder (or adapter) anyone can load, with the exact training state beside it.

`OUT/latest` is a link to the newest complete checkpoint; a checkpoint is written under another name first, so a full
disk or a kill leaves the previous one. Tensor files stay below 15 MiB each (a tensor that is larger by itself apart), so that
they travel through narrow doors; the files of `STATE_FILES` alone are enough to go on from with a model of this package.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from solver.codec import GRID_VOCABULARY, grid_codec
from solver.errors import InputError
from solver.model.cell_decoder import CellDecoderConfig, CellDecoderForCausalLM
from solver.model.folder import check_folder
from solver.pretrain.target import LoraTarget, PretrainTarget

SHARD_BYTES = 15 * 2**20  # of a file; a larger tensor has one of its own
_HEAD_BYTES = 160  # of a file's head at most: for itself, and for a tensor beside its name
KEEP = 2
# by model_type: the models that can be continued. New ones are of the first kind
ARCHITECTURES: Mapping[str, tuple[Any, type[PreTrainedModel]]] = {
    "cell_decoder": (CellDecoderConfig, CellDecoderForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
_SHARDS = ("weights-*.safetensors", "optimizer-*.safetensors")
STATE_FILES = ("state.json", *_SHARDS)


class CheckpointError(Exception):
    """A checkpoint could not be written; the one before is as it was."""


@dataclass(frozen=True)
class Position:
    """How far a run has come: optimizer steps, real tokens, and the next (block, batch) of the data.

    `by_source` are the tokens of each corpus; checkpoints from before these were counted have none, so they may sum to less.
    """

    steps: int = 0
    tokens: int = 0
    block: int = 0
    batch: int = 0
    seed: int = 0
    seconds: float = 0.0
    by_source: Mapping[str, int] = field(default_factory=dict)


def save_checkpoint(out: Path, target: PretrainTarget, optimizers: Iterable[torch.optim.Optimizer], position: Position) -> Path:
    """Write what was trained, fp32 weights, bf16 optimizer state and position; then point `OUT/latest` at them.

    Raises CheckpointError if the disk refuses; nothing of the attempt is left, and `OUT/latest` is what it was.
    """
    final = _unused(out, f"step-{position.steps:07d}")
    partial = out / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        target.write(partial)
        _save_sharded({name: value.detach() for name, value in target.weights().items()}, partial, "weights")
        _save_sharded(_optimizer_state(target, optimizers), partial, "optimizer")
        state = {
            "kind": target.kind,
            "codec": target.codec.name,
            "init": target.init,
            "position": asdict(position),
            "shards": sorted(file.name for pattern in _SHARDS for file in partial.glob(pattern)),
            "config": target.model.config.to_diff_dict(),
        }
        (partial / "state.json").write_text(json.dumps(state, indent=1, default=str) + "\n", encoding="utf-8")
        _sync(partial)
        partial.rename(final)
        link = out / ".latest.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        link.replace(out / "latest")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise CheckpointError(f"{final}: the checkpoint cannot be written: {reason}") from error
    # by age: a folder may hold later steps of an earlier training
    for old in sorted(out.glob("step-*"), key=lambda folder: folder.stat().st_mtime_ns)[:-KEEP]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_model(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint in fp32: exact weights if the training state is there, else the shipped bf16 ones.

    Raises InputError for a folder that is no grid model, or one of another codec version or architecture.
    """
    state = read_state(folder) or {}
    if state.get("kind", "grid") != "grid":
        raise InputError(f"{folder}: a fine-tuning of another model: give that model with --init")
    found = state["codec"] if state else _codec_of(folder)
    if found != grid_codec().name:
        raise InputError(f"{folder}: the model is written for codec {found}, this version has {grid_codec().name}")
    config = state["config"] if state else _json(folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise InputError(f"{folder}: a model of architecture {kind}; this version trains {', '.join(ARCHITECTURES)}")
    if config.get("vocab_size") != len(GRID_VOCABULARY):
        raise InputError(f"{folder}: a model of {config.get('vocab_size')} tokens, codec {found} has {len(GRID_VOCABULARY)}")
    exact = _load_sharded(folder, "weights", state)
    config_class, model_class = ARCHITECTURES[kind]
    try:
        if not exact:
            check_folder(folder)
            model, info = model_class.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            if info["missing_keys"]:
                raise InputError(f"{folder}: the weights do not fit the configuration: {min(info['missing_keys'])}")
            return model
        model = model_class(config_class.from_dict(config)).float()
        _load_weights(model, exact, folder)
        return model
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(f"{folder}: cannot load the model: {str(error).splitlines()[0]}") from None


def read_state(folder: Path) -> dict[str, Any] | None:
    """`state.json` of a checkpoint, or None if the folder holds a model alone. Raises InputError if it is damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint")
    file = folder / "state.json"
    if not file.is_file():
        if any(file for pattern in _SHARDS for file in folder.glob(pattern)):
            raise InputError(f"{file}: missing: the checkpoint is not whole")
        return None
    state = _json(file)
    missing = {"codec", "position", "config"} - state.keys()
    if missing:
        raise InputError(f"{file}: not the state of a training: {min(missing)} is missing")
    return state


def read_position(folder: Path) -> Position | None:
    """Where the training of a checkpoint stood, None for a model alone. Raises InputError if its state is damaged."""
    state = read_state(folder)
    if state is None:
        return None
    try:
        return Position(**state["position"])
    except TypeError as error:
        raise InputError(f"{folder / 'state.json'}: not the state of a training: position: {error}") from None


def load_state(folder: Path, target: PretrainTarget, optimizers: Iterable[torch.optim.Optimizer]) -> Position | None:
    """Restore what is trained and optimizer state; the position to go on from, or None if the folder holds a model alone.

    Raises InputError if the checkpoint is of another kind of training, codec, architecture or first model.
    """
    state = read_state(folder)
    if state is None:
        return None
    # checkpoints without a kind are from before there were several
    for what, found, wanted in (
        ("of the kind", state.get("kind", "grid"), target.kind),
        ("written for codec", state["codec"], target.codec.name),
        ("of architecture", state["config"].get("model_type"), target.model.config.model_type),
        ("fine-tuned from model", state.get("init", ""), target.init),
    ):
        if found != wanted:
            raise InputError(f"{folder}: the checkpoint is {what} {found!r}, this training {wanted!r}")
    if isinstance(target, LoraTarget):
        target.read(folder)
    elif target.kind == "full":
        _load_weights(target.model, _load_sharded(folder, "weights", state), folder)
    tensors = _load_sharded(folder, "optimizer", state)
    names = {p: n for n, p in target.parameters().items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                prefix = names[p] + ":"
                found_state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                if found_state:
                    optimizer.state[p] = {k: v if k == "step" else v.to(p) for k, v in found_state.items()}
    return read_position(folder)


def _load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    own = dict(model.named_parameters())  # the tied head once
    for name in own.keys() | weights.keys():
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise InputError(f"{folder}: the weights do not fit the configuration: {name}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)


def _codec_of(folder: Path) -> str:
    file = folder / "codec.json"
    if not file.is_file():
        raise InputError(f"{folder}: not a base model of this package (no codec.json)")
    return str(_json(file).get("codec"))


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: not an object")
    return found


def _unused(out: Path, name: str) -> Path:
    """A path of that name, or of one like it: what is there already may be the only good checkpoint."""
    path, number = out / name, 1
    while path.exists():
        path, number = out / f"{name}-{number}", number + 1
    return path


def _sync(folder: Path) -> None:
    """Have the disk take the files before anything points at them."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _optimizer_state(target: PretrainTarget, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {p: n for n, p in target.parameters().items()}
    return {
        f"{names[p]}:{key}": value if key == "step" else value.to(torch.bfloat16)
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def _save_sharded(tensors: Mapping[str, Tensor], folder: Path, prefix: str) -> None:
    if not tensors:
        return
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES - _HEAD_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size() + len(name.encode()) + _HEAD_BYTES
        if size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES - _HEAD_BYTES
        shards[-1][name] = tensor.contiguous().cpu()
        room -= size
    for place, shard in enumerate(shards):
        save_file(shard, folder / f"{prefix}-{place:02d}.safetensors")


def _load_sharded(folder: Path, prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of all shards, none if there are no shards. Raises InputError if one is damaged, or missing beside others."""
    tensors: dict[str, Tensor] = {}
    paths = sorted(folder.glob(f"{prefix}-*.safetensors"))
    for name in state.get("shards", ()) if paths else ():  # checkpoints from before shards were listed have none
        if name.startswith(f"{prefix}-") and folder / name not in paths:
            raise InputError(f"{folder / name}: missing: the checkpoint is not whole")
    for path in paths:
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: damaged: {str(error).splitlines()[0]}") from None
    return tensors
