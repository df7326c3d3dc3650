"""A lock between processes, by a file."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Hold the lock of `file`, which is made if it is missing. Waits while another process holds it. Raises OSError.

    The system releases the lock of a process that ends, however it ends.
    """
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
