"""Checks the folder of a base model without torch, and computes a digest that identifies the model."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import read_json
from solver.codec import GRID_VOCABULARY
from solver.errors import InputError
from solver.model.support import folder_quantization, read_config

# the folders of the base models that ship with the package, by the names that --model takes
SHIPPED = {f"embedded-{size}": Path(__file__).parent / "embedded" / size for size in ("base", "mid")}
EMBEDDED = SHIPPED["embedded-base"]  # the default where neither a model nor a device is known
CELL_DECODER = "cell_decoder"  # the model_type of base models with cell positions, see `model.cell_decoder`
_CELL_WEIGHTS = "decoder."  # the prefix of the names of their weights

_SMALL = (  # files that define the model's shape, its codec or its tokenizer
    "config.json",
    "codec.json",
    "format.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_SAMPLED_ABOVE = 64 * 2**20  # bytes; for larger files only size, head and tail are hashed, because 8 GB would take a minute
_SAMPLE = 2**20  # bytes of head and of tail


def check_folder(folder: Path) -> None:
    """Raises InputError, which names the folder, if a model cannot be loaded from it.

    - It has to exist, with a readable config.json and safetensors that are not quantised in an unsupported way.
    - If it has a codec.json, which marks a grid model, config.json must have the number of tokens of the grid vocabulary.
    - A model with cell positions must be a grid model, and its heads must be split among grid, row and column.
    - Weights of a model with cell positions need a configuration of one, and the reverse: they would load as nonsense.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: {_what_else(folder)}")
    config = read_config(folder)
    try:
        folder_quantization(config)
    except ValueError as error:
        raise InputError(f"{folder}: {error}") from None
    tokens = config.get("vocab_size", len(GRID_VOCABULARY))
    if (folder / "codec.json").exists() and tokens != len(GRID_VOCABULARY):
        raise InputError(
            f"{folder}: wrong vocabulary: codec.json asks for {len(GRID_VOCABULARY)} tokens, config.json has {tokens}"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for f in folder.glob(pattern))
        if pickles:
            raise InputError(f"{folder}: holds pickled weights ({pickles[0]}); only safetensors are loaded")
        raise InputError(f"{folder}: has no weights (*.safetensors)")
    _check_cells(folder, config)


def _check_cells(folder: Path, config: dict[str, Any]) -> None:
    """Raises InputError if weights, configuration and codec.json disagree on whether the model has cell positions."""
    by_cell = config.get("model_type") == CELL_DECODER
    names = weight_names(folder)
    ours = any(name.startswith(_CELL_WEIGHTS) for name in names)
    if by_cell and not ours:
        raise InputError(
            f"{folder}: config.json says {CELL_DECODER}, but the weights are of another architecture ({min(names, default='')})"
        )
    if not by_cell:
        if ours and (folder / "codec.json").exists():
            raise InputError(
                f"{folder}: the weights are of a {CELL_DECODER}, whose positions are cells, but config.json says "
                f"{config.get('model_type')!r}"
            )
        return
    if not (folder / "codec.json").exists():
        raise InputError(f"{folder}: a {CELL_DECODER} needs the grid vocabulary: codec.json is missing")
    axes, size = config.get("rotary_axes"), config.get("head_dim")
    if (
        not isinstance(axes, list)
        or len(axes) != 3
        or not all(isinstance(n, int) and n > 0 for n in axes)
        or 2 * sum(axes) != size
    ):
        raise InputError(
            f"{folder / 'config.json'}: heads of size {size} cannot be split by rotary_axes = {axes}: it needs three positive "
            f"whole numbers that add up to half of the size"
        )


def _what_else(folder: Path) -> str:
    """What a folder without config.json is, and what to give as --model instead."""
    if (folder / "adapter_config.json").is_file():
        try:
            adapter = read_json(folder / "adapter_config.json", "adapter configuration")
        except InputError:
            adapter = None
        base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
        of = base or "a base that it does not name"
        return f"an adapter of {of}, not a model: give its base as --model, and this folder as --adapter"
    snapshots = sorted((folder / "snapshots").glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    if snapshots:
        return f"a Hugging Face cache, not a model folder: give {snapshots[-1].parent}"
    models = sorted(folder.glob("models--*/snapshots/*/config.json"))
    if models:
        return f"a Hugging Face cache of several models, not a model folder: give one of them, for example {models[0].parent}"
    return "not a model folder: config.json is missing"


def folder_identity(folder: Path) -> str:
    """A digest of configuration, codec, tokenizer and weights. Copies of a model have the same one. Raises InputError."""
    digest = hashlib.sha256()
    for file in (*(folder / name for name in _SMALL), *sorted(folder.glob("*.safetensors"))):
        if not file.is_file():
            continue
        try:
            size = file.stat().st_size
            digest.update(f"{file.name}:{size}:".encode())
            with file.open("rb") as stream:
                if size <= _SAMPLED_ABOVE:
                    digest.update(stream.read())
                else:
                    digest.update(stream.read(_SAMPLE))
                    stream.seek(-_SAMPLE, 2)
                    digest.update(stream.read())
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def count_weights(folder: Path) -> int:
    """The number of weights in the safetensors of a folder, by their headers. Raises InputError naming a damaged file."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            header = _header(file)
            total += sum(_weights(name, entry, header) for name, entry in header.items())
        except (KeyError, TypeError):
            raise InputError(f"{file}: not a safetensors file") from None
    return total


def weight_names(folder: Path) -> list[str]:
    """The names of the tensors in the safetensors of a folder, by their headers. Raises InputError naming a damaged file."""
    return [name for file in sorted(folder.glob("*.safetensors")) for name in _header(file)]


def _header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: the entry of each tensor by its name. Raises InputError naming a damaged file."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        return dict(header)
    except (OSError, ValueError, TypeError, AttributeError, MemoryError, OverflowError):
        raise InputError(f"{file}: not a safetensors file") from None


def _weights(name: str, entry: Any, header: Any) -> int:
    """The number of weights that one entry of a header holds. bitsandbytes packs two 4-bit weights in a byte.

    Its scales are tensors of their own, and count as none.
    """
    stem, _, last = name.partition(".weight.")
    if last and f"{stem}.weight.absmax" in header:
        return 0
    return math.prod(entry["shape"]) * (2 if f"{name}.absmax" in header else 1)
