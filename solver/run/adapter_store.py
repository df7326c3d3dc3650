"""The adapters on the scratch disk of a run: deletes those no longer needed, and more if there is no room for new ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from solver.types import AdapterRef

SPARE = 2.0  # times the largest adapter: the free space kept for each one that may be written before the next check


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write on the disk of `folder`."""
    return shutil.disk_usage(folder).free


class AdapterStore:
    """Deletes adapters. An adapter that cannot be deleted or measured stays, without an error."""

    def __init__(self, keep: bool, free: Callable[[Path], int] = free_bytes) -> None:
        """With `keep` nothing is ever deleted: the user wants every adapter. `free` gives the free bytes of a folder's disk."""
        self._keep = keep
        self._free = free
        self._largest = 0  # bytes
        self._deleted: set[Path] = set()  # names of adapters are never used again
        self._waiting: dict[str, AdapterRef] = {}  # for each task with passes to come, the adapter they start from; oldest first

    def sort(self, task: str, adapters: Sequence[AdapterRef], final: bool, shared: AdapterRef | None) -> None:
        """Delete those of a task's `adapters` (oldest first) that no later pass starts from: all if the task is `final`.

        The `shared` adapter of the run is never deleted. Several adapters may be the same folder: a fit without steps hands on
        the one that it started from.
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
        """Delete the oldest adapters until there is room for `coming` more, and give the tasks whose adapter is gone.

        Adapters of a `busy` task stay. A task that lost its adapter starts its next pass where it started its first.
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
        if not self._keep and ref.path not in self._deleted:
            shutil.rmtree(ref.path, ignore_errors=True)
            if not ref.path.exists():
                self._deleted.add(ref.path)


def _bytes_of(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0
