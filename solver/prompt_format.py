"""Prompt formats: what a model was trained to see before, between and after grids, as texts or token ids.

A format is described by a file `format.json` in the model's folder, or it is one of the named ones (`model.format`). A value in
the file is a text, a token id, or a list of both. In texts, `{bos}` and `{eos}` are the tokenizer's own tokens. The keys:

    begin   before the first pair; default `{bos}`
    input   before an input grid; required
    output  before an output grid; required
    end     after an output grid: one token, or the row separator and one token; default `{eos}`
    row     between rows, one token; default a line break
    pad     one token; default the tokenizer's own
    cells   the ten colours, one token each; default the digits
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
    """The parts of a format, see above. Each part is tokenised by itself, as if it stood inside a text."""

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
    # NVARC's Qwen3-4B with 16 tokens (ARC Prize 2025): a pair is a message of the user and one of the assistant
    "nvarc": PromptFormat(
        "nvarc",
        begin=(),
        input=("<|im_start|>", "user", "\n"),
        output=("<|im_end|>", "<|im_start|>", "assistant", "\n"),
        end=("<|im_end|>",),
    ),
    # the ARChitects' models, whose some 80 tokens are single characters (ARC Prize 2024): letters before the task, I and
    # +/-=O before grids
    "architects": PromptFormat(
        "architects",
        begin=("{bos}", "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjklmnpqrstuvwxyz"),
        input=("I",),
        output=("\n", "+/-=O"),
        end=("\n", "{eos}"),
    ),
}


def format_of(folder: Path, name: str = "auto") -> PromptFormat:
    """The format called `name`. "auto": that of format.json in the model's `folder`, else the text format. Raises InputError."""
    if name != "auto":
        return READY[name]
    file = folder / FORMAT_FILE
    return read_format(file) if file.is_file() else TEXT


def read_format(file: Path) -> PromptFormat:
    """The format that a file describes, or names as in {"format": "nvarc"}. Raises InputError naming the file and the key."""
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
