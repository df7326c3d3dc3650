"""Writes the weights that an NF4 base computes with to an ordinary model folder, for engines that cannot read 4-bit weights.

An adapter is fitted to the quantised weights, so it has to be served on these and not on the original ones. Every 4-bit matrix
is dequantised once, to the base's dtype, which is what bitsandbytes multiplies by. All other weights stay as they are. The name
of the folder is a digest of what it was made from, so workers share it. It is written beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solver.arc.jsonfile import read_json
from solver.errors import InputError
from solver.file_lock import exclusive_lock
from solver.model.folder import folder_identity
from solver.model.load import Base
from solver.model.support import read_config

RECORD = "dequantised.json"  # what the folder was made from, and the sizes of its weight files; written last
SHARD = 2 << 30  # bytes of a weight file, roughly; so many are in host memory at once
_INDEX = "model.safetensors.index.json"
_NOT_COPIED = (".safetensors", _INDEX, ".gguf", ".bin", ".pt", ".pth")  # the original weights in any form


def dequantised_folder(base: Base, cache: Path) -> Path:
    """The folder in `cache`. It is made if it is missing, which takes as long as writing the weights in the base's dtype.

    Waits if another worker is making it. Raises InputError if it cannot be written or the disk has no room for it.
    """
    if not base.quantized:
        raise ValueError(f"{base.path}: the base is not quantised")
    made_from = _made_from(base)
    folder = cache / f"nf4-{hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(cache / f"{folder.name}.lock"):
            if not _is_whole(folder, made_from):
                _make(base, folder, made_from)
    except OSError as error:
        raise InputError(f"{folder}: the dequantised weights cannot be written: {error.strerror or error}") from None
    return folder


def _made_from(base: Base) -> dict[str, str]:
    return {
        "model": folder_identity(base.path),
        "dtype": str(base.dtype),
        "device": base.device.type,  # devices may round ties differently
        "bitsandbytes": metadata.version("bitsandbytes"),
    }


def _is_whole(folder: Path, made_from: dict[str, str]) -> bool:
    """Whether the folder was made from `made_from`, and every weight file is there with its full size."""
    try:
        record = read_json(folder / RECORD, "record")
        files = record["files"]
        return record["from"] == made_from and all((folder / name).stat().st_size == size for name, size in files.items())
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        return False


def _make(base: Base, folder: Path, made_from: dict[str, str]) -> None:
    part = folder.with_name(f".{folder.name}.part")  # this process has the lock: an existing one was left by a killed process
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    part.mkdir()
    try:
        files = _write_weights(base, part)
        if base.device.type == "cuda":
            torch.cuda.empty_cache()  # the weights may have been loaded only to be written
        for file in base.path.iterdir():
            if file.is_file() and not file.name.endswith(_NOT_COPIED) and file.name != "config.json":
                shutil.copyfile(file, part / file.name)
        config = read_config(base.path)
        config.pop("quantization_config", None)
        (part / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        record = {"from": made_from, "files": {file.name: file.stat().st_size for file in files}}
        (part / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        for file in part.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_weights(base: Base, folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    model = base.with_weights().model
    needed = model.num_parameters() * base.dtype.itemsize
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder.parent}: dequantised weights need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    shards: list[Path] = []
    places: dict[str, str] = {}
    held: dict[str, Tensor] = {}

    def write() -> None:
        shards.append(folder / f"model-{len(shards) + 1:05d}.safetensors")
        save_file(held, shards[-1], metadata={"format": "pt"})
        places.update(dict.fromkeys(held, shards[-1].name))
        held.clear()

    for name, weight in _weights(model, base):
        if held and sum(tensor.nbytes for tensor in held.values()) + weight.nbytes > SHARD:
            write()
        held[name] = weight
    write()
    total = sum(file.stat().st_size for file in shards)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / _INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return [*shards, folder / _INDEX]


def _weights(model: Any, base: Base) -> Iterator[tuple[str, Tensor]]:
    """Every weight once, on the host, by its name in the base's own files. Tied weights come under the first of their names."""
    from bitsandbytes.functional import dequantize_4bit

    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        plain = weight.data if state is None else dequantize_4bit(weight.data, state)
        yield name, plain.as_subclass(Tensor).to(device="cpu", dtype=base.dtype).contiguous()
