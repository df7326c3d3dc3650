"""Checkpoints of pre-training: a model folder or an adapter that anyone can load, with the exact training state beside it.

`OUT/latest` is a link to the newest complete checkpoint. A checkpoint is written under a temporary name first, so a full disk or
a kill leaves the previous one in place. Weights and optimizer state are in shards of at most 15 MiB, unless one tensor is larger,
because some machines allow only small files to be copied. For a model of this package `state.json` and the shards are enough to
go on exactly.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from solver.codec import GRID_VOCABULARY, grid_codec
from solver.errors import InputError, one_line
from solver.model.cell_config import CellDecoderConfig
from solver.model.cell_decoder import CellDecoderForCausalLM
from solver.model.cell_folder import read_cell_decoder
from solver.model.folder import CELL_DECODER, check_folder
from solver.pretrain.target import LoraTarget, PretrainTarget

SHARD_BYTES = 15 * 2**20  # of a file at most; a larger tensor has a file of its own
_HEADER_BYTES = 160  # upper bound of a safetensors header's own size, and of its entry for a tensor without the name
KEPT_CHECKPOINTS = 2
_SHARDS = ("weights-*.safetensors", "optimizer-*.safetensors")


class CheckpointError(Exception):
    """A checkpoint could not be written; the previous one is unchanged."""


@dataclass(frozen=True)
class Position:
    """How far a training has come: optimizer steps, unpadded tokens, seconds, and the next (block, batch) of the data of `seed`.

    `by_source` has the tokens of each source. Older checkpoints did not count these, so their sum may be less than `tokens`.
    """

    steps: int = 0
    tokens: int = 0
    block: int = 0
    batch: int = 0
    seed: int = 0
    seconds: float = 0.0
    by_source: Mapping[str, int] = field(default_factory=dict)


def save_checkpoint(out: Path, target: PretrainTarget, optimizers: Iterable[torch.optim.Optimizer], position: Position) -> Path:
    """Write the model or adapter, fp32 weights, bf16 optimizer state and position to a new folder; point `OUT/latest` at it.

    Keeps the newest KEPT_CHECKPOINTS folders. Gives the new one. Raises CheckpointError if it cannot be written; the partial
    folder is deleted then, and `OUT/latest` is unchanged.
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
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise CheckpointError(f"{final}: the checkpoint cannot be written: {reason}") from error
    # sorted by age, not by steps: an earlier training in the same folder may have made more steps
    for old in sorted(out.glob("step-*"), key=lambda folder: folder.stat().st_mtime_ns)[:-KEPT_CHECKPOINTS]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_model(folder: Path) -> Any:
    """The model of a checkpoint in fp32, from the exact weights if the training state is there, else from the bf16 model folder.

    Raises InputError if the folder holds no grid model, or one of another codec version or architecture.
    """
    state = read_state(folder) or {}
    if state.get("kind", "grid") != "grid":
        raise InputError(f"{folder}: a checkpoint of a fine-tuning; give the model that it started from with --init")
    codec = state["codec"] if state else _codec_of(folder)
    if codec != grid_codec().name:
        raise InputError(f"{folder}: the model was made for codec {codec}; this version of the package has {grid_codec().name}")
    config = state["config"] if state else _json(folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{folder}: a model of architecture {kind}; the architectures that can be trained are {', '.join(ARCHITECTURES)}"
        )
    if config.get("vocab_size") != len(GRID_VOCABULARY):
        raise InputError(
            f"{folder}: a model with a vocabulary of {config.get('vocab_size')} tokens; codec {codec} has {len(GRID_VOCABULARY)}"
        )
    exact = _load_sharded(folder, "weights", state)
    make, read = ARCHITECTURES[kind]
    try:
        if not exact:
            check_folder(folder)
            return read(folder)
        model = make(config)
        _load_weights(model, exact, folder)
        return model
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(f"{folder}: cannot load the model: {one_line(error)}") from None


def _cell_decoder(config: Mapping[str, Any]) -> Any:
    return CellDecoderForCausalLM(CellDecoderConfig.from_dict(config)).float()


def _read_cell_decoder(folder: Path) -> Any:
    return read_cell_decoder(folder, torch.float32, torch.device("cpu"))


def _qwen3(config: Mapping[str, Any]) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config.from_dict(config)).float()


def _read_qwen3(folder: Path) -> Any:
    from transformers import Qwen3ForCausalLM

    model, info = Qwen3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if info["missing_keys"]:
        raise InputError(f"{folder}: the weights do not fit the configuration: {min(info['missing_keys'])}")
    return model


# Model types that can be continued, and what makes a model of a configuration and reads that of a folder. New models are of the
# first type.
ARCHITECTURES: Mapping[str, tuple[Callable[[Mapping[str, Any]], Any], Callable[[Path], Any]]] = {
    CELL_DECODER: (_cell_decoder, _read_cell_decoder),
    "qwen3": (_qwen3, _read_qwen3),
}


def read_state(folder: Path) -> dict[str, Any] | None:
    """`state.json` of a checkpoint; None for a folder with a model alone. Raises InputError if it is missing or damaged."""
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
    """The position of a checkpoint; None for a folder with a model alone. Raises InputError if its state is damaged."""
    state = read_state(folder)
    if state is None:
        return None
    try:
        return Position(**state["position"])
    except TypeError as error:
        raise InputError(f"{folder / 'state.json'}: not the state of a training: position: {error}") from None


def load_state(folder: Path, target: PretrainTarget, optimizers: Iterable[torch.optim.Optimizer]) -> Position | None:
    """Load trained parameters and optimizer state; gives the position to go on from, None for a folder with a model alone.

    A grid model is loaded by `load_model` instead. Raises InputError if the checkpoint belongs to a training of another kind,
    codec or architecture, or to one that started from another model.
    """
    state = read_state(folder)
    if state is None:
        return None
    # older checkpoints have no kind: all of them were of grid models
    for what, saved, wanted in (
        ("of the kind", state.get("kind", "grid"), target.kind),
        ("written for codec", state["codec"], target.codec.name),
        ("of architecture", state["config"].get("model_type"), target.model.config.model_type),
        ("fine-tuned from model", state.get("init", ""), target.init),
    ):
        if saved != wanted:
            raise InputError(f"{folder}: the checkpoint is {what} {saved!r}, this training {wanted!r}")
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
                saved_state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                if saved_state:
                    optimizer.state[p] = {k: v if k == "step" else v.to(p) for k, v in saved_state.items()}
    return read_position(folder)


def _load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    own = dict(model.named_parameters())  # named_parameters gives tied weights once
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
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: not a JSON object")
    return value


def _unused(out: Path, name: str) -> Path:
    """A path below `out` that does not exist, called `name` or `name-N`. An existing folder may be the only good checkpoint."""
    path, number = out / name, 1
    while path.exists():
        path, number = out / f"{name}-{number}", number + 1
    return path


def _sync(folder: Path) -> None:
    """Write all files of a folder through to the disk."""
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
    """Write tensors to files `PREFIX-NN.safetensors` of at most SHARD_BYTES; a larger tensor has a file of its own."""
    if not tensors:
        return
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES - _HEADER_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size() + len(name.encode()) + _HEADER_BYTES
        if size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES - _HEADER_BYTES
        shards[-1][name] = tensor.contiguous().cpu()
        room -= size
    for place, shard in enumerate(shards):
        save_file(shard, folder / f"{prefix}-{place:02d}.safetensors")


def _load_sharded(folder: Path, prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of all shards; empty without shards. Raises InputError if one is damaged, or if some but not all are there."""
    tensors: dict[str, Tensor] = {}
    paths = sorted(folder.glob(f"{prefix}-*.safetensors"))
    for name in state.get("shards", ()) if paths else ():  # older checkpoints do not list their shards
        if name.startswith(f"{prefix}-") and folder / name not in paths:
            raise InputError(f"{folder / name}: missing: the checkpoint is not whole")
    for path in paths:
        try:
            tensors |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: damaged: {one_line(error)}") from None
    return tensors
