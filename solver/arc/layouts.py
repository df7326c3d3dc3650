"""Finds the files that hold tasks, and reads all layouts in which tasks are published into entries of one kind.

    {"train": [...], "test": [...]}                     a task, named as its file
    [{"input": grid, "output": grid}, ...]              a family of pairs, named as its file (RE-ARC)
    {"examples": [[input, output], ...]}                the same in BARC's words; its whole numbers may be written as 3.0
    {id: any of these, ...}                             Kaggle's challenges, and corpora of generators
    [row, ...], or a row in each line of a .jsonl       the rows of a data set: any of these, named by "task_id", "id" or "name"

Further keys are ignored. Every file may begin with a byte order mark and be packed (.xz). A task has test inputs of its own; a
family of pairs, read as a task, asks for the output of its last pair.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import RepeatedKeys, kind, read_json, read_json_lines
from solver.errors import InputError

SUFFIXES = (".json", ".jsonl", ".json.xz", ".jsonl.xz")
REPEATED = "the id occurs more than once in this file"

_NAMES = ("task_id", "id", "name")  # keys of a row that say what its task is called
_SHOWN = 3  # keys or suffixes that a message names
_TRIED = 100  # rows: if none of the first ones is a task, the file counts as holding none


class OtherForm(InputError):
    """A JSON file that holds neither tasks nor pairs; the message says what it holds instead."""


@dataclass(frozen=True)
class Entry:
    """One task or family from a file, not checked: an object with train and test, or a list of pairs."""

    id: str
    value: Any
    where: str  # the file, with the line if it has lines: how a message about the entry begins
    flaw: str = ""  # why it cannot be used, for example because its id is repeated


def data_files(folder: Path) -> list[Path]:
    """The files in and below a folder that can hold tasks, sorted. Hidden files (.DS_Store, ._1.json) are ignored."""
    return [path for path in _visible(folder) if path.name.lower().endswith(SUFFIXES)]


def describe_folder(folder: Path) -> str:
    """A description of a folder that has no such files, for a message."""
    suffixes = sorted({path.suffix or path.name for path in _visible(folder)})
    names = ", ".join(suffixes[:_SHOWN]) + (", ..." if len(suffixes) > _SHOWN else "")
    return f"no .json or .jsonl file (packed as .xz or not), {f'only {names}' if names else 'nor any other file'}"


def _visible(folder: Path) -> list[Path]:
    paths = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            paths += [Path(place) / name for name in files if not name.startswith(".")]
        seen.add(real)  # symbolic links may form a cycle
    return sorted(paths)


def stem(path: Path) -> str:
    """The name of a file without its suffixes: that of its task, if it holds one."""
    return Path(path.name.removesuffix(".xz")).stem


def is_lines(path: Path) -> bool:
    """Whether a file has a row in each line, by its name."""
    return path.name.lower().removesuffix(".xz").endswith(".jsonl")


def read_entries(path: Path, what: str) -> Iterator[Entry]:
    """The tasks and families of a file; of a .jsonl one at a time.

    Raises InputError naming file and line if it cannot be read as a whole, OtherForm if nothing in it is a task or a pair.
    """
    if is_lines(path):
        yield from _rows(path, read_json_lines(path, what), "line")
        return
    value = read_json(path, what)
    if is_single(value):
        yield _entry(stem(path), value, str(path))
    elif isinstance(value, list) and any(map(is_single, value)):
        yield from _rows(path, enumerate(value), "row")
    elif isinstance(value, dict) and any(map(is_single, value.values())):
        repeated = value.repeated if isinstance(value, RepeatedKeys) else ()
        for id_, entry in value.items():
            yield _entry(id_, entry, str(path), REPEATED if id_ in repeated else "")
    else:
        raise OtherForm(f"{path}: {_refusal(value)}")


def is_single(value: Any) -> bool:
    """Whether a parsed value is one task or one family of pairs, sound or not."""
    if isinstance(value, dict):
        return "train" in value or "test" in value or isinstance(value.get("examples"), list)
    return isinstance(value, list) and any(isinstance(pair, dict) and ("input" in pair or "output" in pair) for pair in value)


def holds_solutions(value: Any) -> bool:
    """Whether a parsed value has the form of Kaggle's solutions: {id: [grid, ...]}."""
    return isinstance(value, dict) and any(
        isinstance(outputs, list) and bool(outputs) and isinstance(outputs[0], list) for outputs in value.values()
    )


def _rows(path: Path, rows: Iterator[tuple[int, Any]], unit: str) -> Iterator[Entry]:
    """The entries of rows. Raises OtherForm if none of the first `_TRIED` rows is a task."""
    waiting: list[tuple[int, Any]] = []
    has_task = False
    for number, row in rows:
        waiting.append((number, row))
        has_task = has_task or is_single(row)
        if not has_task and len(waiting) == _TRIED:
            break
        while has_task and waiting:
            yield _row(path, unit, *waiting.pop(0))
    if not has_task:
        head = f"{path}: {unit} {waiting[0][0]}" if waiting else str(path)
        raise OtherForm(f"{head}: {_refusal(waiting[0][1] if waiting else [])}")


def _row(path: Path, unit: str, number: int, row: Any) -> Entry:
    named = [row[key] for key in _NAMES if key in row] if isinstance(row, dict) else []
    name = next((str(one) for one in named if type(one) in (str, int) and one != ""), f"{stem(path)}-{number}")
    return _entry(name, row, f"{path}: {unit} {number}")


def _entry(id_: str, value: Any, where: str, flaw: str = "") -> Entry:
    if isinstance(value, dict) and isinstance(value.get("examples"), list) and not ("train" in value or "test" in value):
        value = [_pair(example) for example in value["examples"]]
    return Entry(id_, value, where, flaw)


def _pair(example: Any) -> Any:
    """A pair of BARC's, [input, output], in the form of all others."""
    if not isinstance(example, list) or len(example) != 2:
        return example
    return {"input": _whole(example[0]), "output": _whole(example[1])}


def _whole(grid: Any) -> Any:
    """The grid with integers in place of whole floats (3.0)."""
    if not isinstance(grid, list):
        return grid
    return [
        [int(cell) if type(cell) is float and cell.is_integer() else cell for cell in row] if isinstance(row, list) else row
        for row in grid
    ]


def _refusal(value: Any) -> str:
    return "holds no tasks" if value in ({}, []) else f"must hold tasks or pairs of grids, not {_described(value)}"


def _described(value: Any) -> str:
    if holds_solutions(value):
        return "solutions ({id: [grid, ...]})"
    if isinstance(value, dict):
        entries = [entry for entry in value.values() if isinstance(entry, list) and entry]
        if any(isinstance(entry[0], dict) and "attempt_1" in entry[0] for entry in entries):
            return "a submission ({id: [{attempt_1, attempt_2}, ...]})"
        keys = ", ".join(repr(key)[:40] for key in list(value)[:_SHOWN]) + (", ..." if len(value) > _SHOWN else "")
        return f"an object with the keys {keys}" if value else "an empty object"
    if isinstance(value, list) and value:
        return f"a list that begins with {_described(value[0]) if isinstance(value[0], dict) else kind(value[0])}"
    return kind(value)
