"""The adapters of a run on its scratch disks: deletes those no longer needed, and more if there is no room for new ones."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from solver.types import AdapterRef

SPARE = 2.0  # times the largest adapter: the free space kept for each one that may be written before the next check


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write on the disk of `folder`."""
    return shutil.disk_usage(folder).free


class AdapterDisk(Protocol):
    """Where adapters lie: on the disk of this machine, or on those of the nodes of a cluster. No method raises or waits."""

    def node(self, path: Path) -> str | None:
        """The node whose workers can read an adapter; empty: every worker can; None: it is gone."""
        ...

    def node_of(self, worker: int) -> str:
        """The node that a worker works on; empty: this machine."""
        ...

    def size(self, path: Path) -> int:
        """Bytes of an adapter; 0 if they are not known."""
        ...

    def free(self, path: Path) -> int | None:
        """Bytes that this user can still write on the disk of an adapter; None: not known."""
        ...

    def delete(self, path: Path) -> None:
        """Delete an adapter."""
        ...


class LocalDisk:
    """The AdapterDisk of this machine."""

    def __init__(self, free: Callable[[Path], int] = free_bytes) -> None:
        """`free` gives the free bytes of a folder's disk."""
        self._free = free

    def node(self, path: Path) -> str | None:
        """Empty if the adapter is there."""
        return "" if path.is_dir() else None

    def node_of(self, worker: int) -> str:  # noqa: ARG002
        """Empty."""
        return ""

    def size(self, path: Path) -> int:
        """Bytes of the files in a folder; 0 if it cannot be read."""
        return bytes_of(path)

    def free(self, path: Path) -> int | None:
        """Bytes that this user can still write beside a folder."""
        try:
            return self._free(path.parent)
        except OSError:
            return None

    def delete(self, path: Path) -> None:
        """Delete a folder, or as much of it as can be deleted."""
        shutil.rmtree(path, ignore_errors=True)


class AdapterStore:
    """Deletes adapters. An adapter that cannot be deleted or measured stays, without an error."""

    def __init__(self, keep: bool, disk: AdapterDisk | None = None) -> None:
        """With `keep` nothing is ever deleted: the user wants every adapter. `disk`: without, that of this machine."""
        self._keep = keep
        self._disk = disk or LocalDisk()
        self._largest = 0  # bytes
        self._deleted: set[Path] = set()  # names of adapters are never used again
        # by node, for each task with passes to come: the adapter that they start from; oldest first
        self._waiting: dict[str, dict[str, AdapterRef]] = {}
        self._nodes: dict[str, str] = {}  # of the adapters that wait, by task
        # by folder, the same of adapters that are nowhere: they are gone, or their node has not joined yet
        self._missing: dict[Path, dict[str, AdapterRef]] = {}

    def sort(self, task: str, adapters: Sequence[AdapterRef], final: bool, shared: AdapterRef | None) -> None:
        """Delete those of a task's `adapters` (oldest first) that no later pass starts from: all if the task is `final`.

        The `shared` adapter of the run is never deleted. Several adapters may be the same folder: a fit without steps hands on
        the one that it started from.
        """
        self._forget(task)
        newest = None if final or not adapters else adapters[-1]
        needed = {ref.path for ref in (newest, shared) if ref is not None}
        for ref in adapters:
            if ref.path not in needed:
                self._delete(ref)
        if newest is None or (shared is not None and newest.path == shared.path):
            return
        if (node := self._disk.node(newest.path)) is not None:
            self._nodes[task] = node
            self._waiting.setdefault(node, {})[task] = newest
            self._largest = max(self._largest, self._disk.size(newest.path))
        else:
            self._missing.setdefault(newest.path.parent, {})[task] = newest

    def node(self, task: str) -> str:
        """The node of the adapter that the next pass of a task starts from; empty if there is none, or on this machine."""
        return self._nodes.get(task, "")

    def orphans(self) -> list[str]:
        """The tasks whose adapter is gone with its node."""
        gone = [waiting for node, waiting in self._waiting.items() if self._disk.node(next(iter(waiting.values())).path) != node]
        return [task for waiting in gone for task in waiting]

    def found(self) -> list[str]:
        """The tasks whose adapter was missing when it was sorted, and is there now; each is given once."""
        back = [
            folder for folder, missing in self._missing.items() if self._disk.node(next(iter(missing.values())).path) is not None
        ]
        return [task for folder in back for task in self._missing.pop(folder)]

    def make_room(self, coming: int, busy: Callable[[str], bool]) -> list[str]:
        """Delete the oldest adapters until there is room for `coming` more, and give the tasks whose adapter is gone.

        On several nodes, each one gets an even part of those that come. Adapters of a `busy` task stay. A task that lost its
        adapter starts its next pass where it started its first.
        """
        lost: list[str] = []
        needed = SPARE * self._largest * math.ceil(coming / max(len(self._waiting), 1))
        for waiting in [] if self._keep else list(self._waiting.values()):
            for task, ref in list(waiting.items()):
                free = self._disk.free(ref.path)
                if free is None or free >= needed:
                    break
                if not busy(task):
                    self._forget(task)
                    self._delete(ref)
                    lost.append(task)
        return lost

    def _forget(self, task: str) -> None:
        if (node := self._nodes.pop(task, None)) is not None:
            del self._waiting[node][task]
            if not self._waiting[node]:
                del self._waiting[node]

    def _delete(self, ref: AdapterRef) -> None:
        if not self._keep and ref.path not in self._deleted:
            self._disk.delete(ref.path)
            if self._disk.node(ref.path) is None:
                self._deleted.add(ref.path)


def bytes_of(folder: Path) -> int:
    """Bytes of the files in a folder; 0 if it cannot be read."""
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0
