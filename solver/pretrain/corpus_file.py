"""Writes a corpus file of families of pairs, which `solver pretrain --corpus` reads: {family: [pairs]}, packed or not."""

from __future__ import annotations

import contextlib
import json
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path

from solver.arc.grid import GridJson
from solver.errors import InputError

Pairs = list[dict[str, GridJson]]


def check_name(out: Path) -> None:
    """Raises InputError if the name is not one of a corpus file, or of a folder."""
    if out.is_dir() or not out.name.endswith((".json", ".json.xz")):
        raise InputError(f"{out}: a corpus is a file, .json or .json.xz")


@contextlib.contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A temporary file that becomes `out` at the end. Raises InputError, already at the start, if it cannot be written."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        yield partial
        partial.replace(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_families(partial: Path, out: Path, families: Mapping[str, Pairs]) -> None:
    """Write the families that have pairs to `partial`, in the form that the name of `out` says. Raises OSError."""
    text = json.dumps({name: family for name, family in families.items() if family}, separators=(",", ":")).encode()
    partial.write_bytes(lzma.compress(text) if out.suffix == ".xz" else text)
