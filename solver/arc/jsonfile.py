"""JSON files: reads those of users, with an InputError of one line for every flaw, and writes files atomically."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from solver.errors import InputError
from solver.textfile import open_text, read_text


class RepeatedKeys(dict[str, Any]):
    """A JSON object in which the keys `repeated` occur more than once; the last value of a key is the one kept."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def read_json(path: Path, what: str) -> Any:
    """The parsed file; objects with a repeated key come back as `RepeatedKeys`.

    Raises InputError naming file, line and column if it cannot be read or is not JSON.
    """
    text = read_text(path, what)
    if not text.strip():
        raise InputError(f"{path}: the {what} is empty")
    try:
        return _parsed(text)
    except json.JSONDecodeError as error:
        hint = ""
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            hint = "; the file seems to be cut off"
        elif error.msg.startswith("Extra data") and error.lineno > 1:
            hint = "; if every line is JSON of its own, name the file .jsonl"
        raise InputError(f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}{hint}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not usable JSON: {error}") from None


def read_json_lines(path: Path, what: str) -> Iterator[tuple[int, Any]]:
    """The number, from 1, and the parsed value of every line that is not blank, one line in memory at a time.

    Raises InputError as `read_json`, naming the line.
    """
    with open_text(path, what) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, _parsed(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: line {number}: not valid JSON at column {error.colno}: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}: line {number}: not usable JSON: {error}") from None


def cut_incomplete_line(path: Path) -> bool:
    """Cut off what follows the last line break, which a kill left. False: no complete line is there. Raises OSError."""
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
    return end > 0


def _parsed(text: str) -> Any:
    # ValueError and RecursionError: a number of thousands of digits, thousands of nested lists
    return json.loads(text, object_pairs_hook=_object)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by the JSON of `value`. At any moment, even in a power cut, the old or the new file is there as a whole.

    Only one process may write a path at a time. Raises OSError (full or read-only disk) with the old file untouched.
    """
    replace_file(path, compact_json(value).encode())


def compact_json(value: Any) -> str:
    """The JSON of `value` without spaces. Raises ValueError for numbers that are not finite."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of `path`, as `write_json` does."""
    # always the same name: a killed writer leaves at most one such file, which the next write replaces
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def kind(value: Any) -> str:
    """The JSON name of a parsed value's type."""
    names = {dict: "an object", RepeatedKeys: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else RepeatedKeys(pairs)


def _sync_folder(folder: Path) -> None:
    # the new name is on disk once its folder is; a file system that cannot sync folders has replaced the file nevertheless
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
