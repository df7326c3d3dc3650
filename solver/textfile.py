"""Reads text files of users: in UTF-8, UTF-16 or UTF-32, with a byte order mark or without, and compressed as .xz."""

from __future__ import annotations

import codecs
import io
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO, cast

from solver.errors import InputError

_MARKS = (  # UTF-32 first, because its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def open_text(path: Path, what: str) -> Iterator[TextIO]:
    """Open a text file: in UTF-8, or the encoding of its byte order mark; decompressed if its name ends with `.xz`.

    Raises InputError, which calls the file `what`, if it cannot be opened, and while it is read if it is damaged or not text.
    """
    packed = path.suffix == ".xz"
    try:
        # open once and do not seek, because the file may be a pipe
        with lzma.open(path) if packed else path.open("rb") as file:
            yield io.TextIOWrapper(cast(IO[bytes], file), encoding=_encoding(file.peek(4)))
    except OSError as error:
        raise InputError(f"{path}: cannot read the {what}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: cannot read the {what}: not UTF-8 text") from None
    except (lzma.LZMAError, EOFError):
        raise InputError(f"{path}: cannot read the {what}: truncated or not xz data") from None


def is_plain(path: Path) -> bool:
    """Whether a file has no byte order mark, so that libraries that only read UTF-8 can read it. Raises OSError."""
    with path.open("rb") as file:
        return _encoding(file.read(4)) == "utf-8"


def _encoding(head: bytes) -> str:
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def read_text(path: Path, what: str) -> str:
    """The whole text of a file that `open_text` can open. Raises InputError as `open_text` does."""
    with open_text(path, what) as file:
        return file.read()
