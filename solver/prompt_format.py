"""How a model of others wants a task written: what stands before, between and after grids, as texts or token ids.

A format is a file `format.json` beside a model, or one of the ready ones by name (`model.format`). Keys of the file, each a
text, a token id, or a list of both; `{bos}` and `{eos}` stand for the tokenizer's own tokens:

    begin   before the first pair; `{bos}` if missing
    input   before an input grid
    output  before an output grid
    end     after an output grid: one token, or the row separator and one token; `{eos}` if missing
    row     between rows, one token; a line break if missing
    pad     one token; the tokenizer's own if missing
    cells   the ten colours, one token each; the digits if missing
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import kind, read_json
from solver.errors import InputError

FORMAT_FILE = "format.json"
Part = str | int  # a text, or a token id


@dataclass(frozen=True)
class PromptFormat:
    """A format by its parts, see above. Each part is tokenised for itself, as it is inside a text."""

    name: str
    input: tuple[Part, ...]
    output: tuple[Part, ...]
    begin: tuple[Part, ...] = ("{bos}",)
    end: tuple[Part, ...] = ("{eos}",)
    row: tuple[Part, ...] = ("\n",)
    pad: tuple[Part, ...] = ()
    cells: tuple[Part, ...] = tuple("0123456789")


TEXT = PromptFormat("text", input=("Input:", "\n"), output=("\n", "Output:", "\n"))
READY: Mapping[str, PromptFormat] = {
    "text": TEXT,
    # NVARC's Qwen3-4B of 16 tokens (ARC Prize 2025): user and assistant take turns, a pair is two of them
    "nvarc": PromptFormat(
        "nvarc",
        begin=(),
        input=("<|im_start|>", "user", "\n"),
        output=("<|im_end|>", "<|im_start|>", "assistant", "\n"),
        end=("<|im_end|>",),
    ),
    # the ARChitects' models of some 80 single characters (ARC Prize 2024): letters before the task, I and +/-=O before grids
    "architects": PromptFormat(
        "architects",
        begin=("{bos}", "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjklmnpqrstuvwxyz"),
        input=("I",),
        output=("\n", "+/-=O"),
        end=("\n", "{eos}"),
    ),
}


def format_of(folder: Path, name: str = "auto") -> PromptFormat:
    """The format called `name`; "auto": that of the file beside the model, or the text format. Raises InputError."""
    if name != "auto":
        return READY[name]
    file = folder / FORMAT_FILE
    return read_format(file) if file.is_file() else TEXT


def read_format(file: Path) -> PromptFormat:
    """The format that a file describes, or names: {"format": "nvarc"}. Raises InputError naming the file and the key."""
    parts = read_json(file, "prompt format")
    if not isinstance(parts, dict):
        raise InputError(f"{file}: not a prompt format: it is {kind(parts)}, not an object")
    if set(parts) == {"format"}:
        name = parts["format"]
        if not isinstance(name, str) or name not in READY:
            raise InputError(f"{file}: unknown format {name!r}; there are: {', '.join(READY)}")
        return READY[name]
    keys = [field.name for field in fields(PromptFormat) if field.name != "name"]
    for key in parts:
        if key not in keys:
            raise InputError(f"{file}: unknown key {key!r}; there are: {', '.join(keys)}")
    for key in ("input", "output"):
        if key not in parts:
            raise InputError(f"{file}: {key!r} is missing")
    return PromptFormat("described", **{key: _parts(file, key, value) for key, value in parts.items()})


def _parts(file: Path, key: str, value: Any) -> tuple[Part, ...]:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) or (type(part) is int and part >= 0) for part in parts):
        raise InputError(f"{file}: {key!r} is neither a text, nor a token id, nor a list of these")
    return tuple(part for part in parts if part != "")
