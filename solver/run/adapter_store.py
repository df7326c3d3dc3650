"""The adapters of a run on its scratch disk: which may go, and which have to if there is no room for the next ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from solver.types import AdapterRef

SPARE = 2.0  # times the bytes of the largest adapter, for each one that may be written before somebody looks again


def free_bytes(folder: Path) -> int:
    """What a disk has left for this user."""
    return shutil.disk_usage(folder).free


class AdapterStore:
    """Deletes adapters. What cannot be deleted or measured stays, and costs the run nothing."""

    def __init__(self, keep: bool, free: Callable[[Path], int] = free_bytes) -> None:
        """`keep`: the user wants every adapter, so nothing is ever deleted; `free` gives the bytes left where a folder is."""
        self._keep = keep
        self._free = free
        self._largest = 0  # bytes
        self._waiting: dict[str, AdapterRef] = {}  # the newest of each task that may go on from it, oldest first

    def sort(self, task: str, adapters: Sequence[AdapterRef], final: bool, shared: AdapterRef | None) -> None:
        """Delete those of a task's `adapters` (oldest first) that nothing starts from: all if it is `final`, but not the shared.

        A fit without steps hands on the folder it started from, so several may be the same.
        """
        self._waiting.pop(task, None)
        newest = None if final or not adapters else adapters[-1]
        needed = {ref.path for ref in (newest, shared) if ref is not None}
        for ref in adapters:
            if ref.path not in needed:
                self._delete(ref)
        if newest is not None and (shared is None or newest.path != shared.path) and newest.path.is_dir():
            self._waiting[task] = newest
            self._largest = max(self._largest, _bytes_of(newest.path))

    def make_room(self, coming: int, busy: Callable[[str], bool]) -> list[str]:
        """Delete the oldest adapters until `coming` more have room, but none of a `busy` task; gives the tasks that lost theirs.

        Such a task begins its next pass from the base, as its first one did.
        """
        lost: list[str] = []
        for task, ref in [] if self._keep else list(self._waiting.items()):
            try:
                if self._free(ref.path.parent) >= SPARE * self._largest * coming:
                    break
            except OSError:
                break
            if not busy(task):
                self._delete(self._waiting.pop(task))
                lost.append(task)
        return lost

    def _delete(self, ref: AdapterRef) -> None:
        if not self._keep:
            shutil.rmtree(ref.path, ignore_errors=True)


def _bytes_of(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0
