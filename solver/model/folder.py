"""What can be said of a base model's folder without torch: whether it is one, and which one."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from solver.codec import GRID_VOCABULARY
from solver.errors import InputError
from solver.textfile import read_text

EMBEDDED = Path(__file__).parent / "embedded"  # the base model that ships with the package

_SMALL = (  # files that change what the ids of a text are, or what the model is
    "config.json",
    "codec.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_SAMPLED_ABOVE = 64 * 2**20  # bytes; of larger weight files only size, head and tail are hashed: 8 GB would take a minute
_SAMPLE = 2**20


def check_folder(folder: Path) -> None:
    """Raises InputError naming the folder if it is missing, has no readable config.json or no safetensors.

    A grid model (codec.json says so) must have the tokens of the grid vocabulary by its configuration, too.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: not a model folder: config.json is missing")
    try:
        config = json.loads(read_text(folder / "config.json", "model configuration"))
    except json.JSONDecodeError as error:
        raise InputError(f"{folder / 'config.json'}: not JSON (line {error.lineno})") from None
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'}: not a model configuration")
    tokens = config.get("vocab_size", len(GRID_VOCABULARY))
    if (folder / "codec.json").exists() and tokens != len(GRID_VOCABULARY):
        raise InputError(
            f"{folder}: wrong vocabulary: codec.json asks for {len(GRID_VOCABULARY)} tokens, config.json has {tokens}"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for f in folder.glob(pattern))
        if pickles:
            raise InputError(f"{folder}: holds pickled weights ({pickles[0]}); only safetensors are loaded")
        raise InputError(f"{folder}: holds no weights (*.safetensors)")


def folder_identity(folder: Path) -> str:
    """A digest of configuration, codec, tokenizer and weights: equal for equal models, wherever they lie."""
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
    """How many weights the safetensors of a folder hold, by their headers. Raises InputError naming a damaged file."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError):
            raise InputError(f"{file}: not a safetensors file") from None
    return total
