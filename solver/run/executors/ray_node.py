"""The part of the executor on Ray that runs on a node: it hosts one worker process and passes messages on. It imports no Ray.

A `NodeHost` is a Ray actor. Its worker process is the one that the local executor starts, by the local executor's code, so it is
started, killed and replaced in the same way, and it ends when its host does. The host finds the base model by its path, or takes
in the files that the supervisor sends, and it owns the folder of adapters of its node.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import solver
from solver.errors import InputError
from solver.host import free_memory, versions
from solver.messages import Heartbeat, Ready, WorkerConfig
from solver.model.adapter_folder import adapter_identity
from solver.model.folder import SHIPPED, folder_identity
from solver.run.adapter_store import bytes_of, free_bytes
from solver.run.executors.base import WorkerLost, WorkResult
from solver.run.executors.local import WORKER_COMMAND, LocalExecutor
from solver.types import TaskOutcome, WorkItem

WORKER_LOG = "worker.log"
RECEIVED = "received"  # the folder of files that the supervisor sent, in the folder of the node


@dataclass(frozen=True)
class SharedFolder:
    """A folder that every node needs: of the base model, or of the adapter that fits start from."""

    path: Path  # where the supervisor reads it
    identity: str  # the same for all copies of it
    kind: Literal["model", "adapter"]
    shipped: str = ""  # the name of a model that comes with the package, which every node has in its own place


@dataclass(frozen=True)
class NodeFacts:
    """What a node tells before it works."""

    host: str  # its name, for people
    versions: Mapping[str, str]  # of Python and of the packages that a run uses, and a digest of this package's source
    memory: int  # bytes of the host that are free
    adapters: frozenset[Path]  # that earlier processes of the run have left in its folder


@dataclass(frozen=True, eq=False)
class NodeNews:
    """What has happened on a node since the last question."""

    results: tuple[WorkResult | WorkerLost, ...]  # of worker 0
    sizes: Mapping[Path, int] = field(default_factory=dict)  # bytes of the adapters that were fitted
    free: int | None = None  # bytes on the disk for adapters; None: not known


class NodeHost:
    """One worker on a node. Its methods are called from several threads: `news` waits while the others are called."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of the node: for adapters, and for files that the supervisor sends. Raises OSError."""
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._executor: LocalExecutor | None = None
        self._ready: list[int] = []  # the process that has said that it is ready

    def describe(self) -> NodeFacts:
        """Facts about this node."""
        adapters = frozenset(path for path in self._folder.iterdir() if path.is_dir() and path.name != RECEIVED)
        return NodeFacts(platform.node(), node_versions(), free_memory(), adapters)

    def find(self, wanted: SharedFolder) -> Path | None:
        """Where this node has a folder; None if it has to be sent, or if what was sent is not complete."""
        by_name = [SHIPPED[wanted.shipped]] if wanted.shipped in SHIPPED else []
        for path in (*by_name, wanted.path, self._place(wanted)):
            with contextlib.suppress(InputError, OSError):
                if path.is_dir() and identity_of_folder(path, wanted.kind) == wanted.identity:
                    return path
        return None

    def receive(self, wanted: SharedFolder, name: str, at: int, block: bytes) -> None:
        """Write a block of a file of a folder, at so many bytes from its beginning. Raises OSError.

        Other hosts on this node may write the same block at the same time.
        """
        self._place(wanted).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._place(wanted) / name, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, block, at)
        finally:
            os.close(descriptor)

    def start(self, config: WorkerConfig, environment: Mapping[str, str], command: Sequence[str] | None = None) -> None:
        """Start the worker process, by `command` if it is not the usual one. Adapters go to the folder of this node."""
        config, log = replace(config, scratch=self._folder), self._folder / WORKER_LOG
        self._executor = LocalExecutor(config, log, environment=[environment], command=command or WORKER_COMMAND)
        self._executor.start()

    def news(self, seconds: float) -> NodeNews:
        """What has arrived, waiting at most `seconds` for it. Heartbeats are not worth a message each: only the last is given."""
        assert self._executor is not None
        until = time.monotonic() + seconds
        beats: dict[str, WorkResult] = {}
        found: list[WorkResult | WorkerLost] = []
        while not found and (left := until - time.monotonic()) > 0:
            for result in self._executor.results(left):
                if isinstance(result, WorkResult) and isinstance(result.message, Heartbeat):
                    beats[""] = result
                    continue
                if isinstance(result, WorkResult) and isinstance(result.message, Ready):
                    self._ready = self._executor.pids()
                found.append(result)
        return NodeNews((*beats.values(), *found), self._sizes(found), self._free())

    def submit(self, work: WorkItem, seconds: float) -> None:
        """Hand an item to the worker; `seconds` are left to its deadline, which is made here, as clocks of machines differ.

        An item for a process that was lost meanwhile is dropped: news of the loss is on its way.
        """
        assert self._executor is not None
        if self._executor.pids() == self._ready:
            self._executor.submit(0, replace(work, deadline_at=time.monotonic() + seconds))

    def kill(self, reason: str) -> None:
        """Kill the worker process; another takes its place."""
        assert self._executor is not None
        self._executor.kill(0, reason)

    def delete(self, path: Path) -> None:
        """Delete an adapter."""
        if path.parent == self._folder:
            shutil.rmtree(path, ignore_errors=True)

    def stop(self, keep: bool) -> None:
        """Kill the worker process, and delete the folder of the node unless it is to be kept for resuming the run."""
        if self._executor is not None:
            self._executor.close()
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()  # of the whole run, unless something else is in it

    # -- inside

    def _place(self, wanted: SharedFolder) -> Path:
        return self._folder / RECEIVED / wanted.identity

    def _sizes(self, found: list[WorkResult | WorkerLost]) -> dict[Path, int]:
        messages = [result.message for result in found if isinstance(result, WorkResult)]
        fits = [message.fit for message in messages if isinstance(message, TaskOutcome)]
        return {fit.adapter.path: bytes_of(fit.adapter.path) for fit in fits if fit is not None and fit.adapter is not None}

    def _free(self) -> int | None:
        try:
            return free_bytes(self._folder)
        except OSError:
            return None


def identity_of_folder(path: Path, kind: Literal["model", "adapter"]) -> str:
    """A digest that copies of a folder share. Raises InputError."""
    return folder_identity(path) if kind == "model" else adapter_identity(path)


@functools.lru_cache(maxsize=1)
def node_versions() -> dict[str, str]:
    """The versions that have to be the same on all nodes: of Python, of packages, and a digest of this package's source."""
    root, digest = Path(solver.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}:".encode() + file.read_bytes())
    # "+cu130" and the like tell how a package was built, and differ between nodes with and without a GPU
    known = {name: version.partition("+")[0] for name, version in versions().items()}
    return {**known, "source": digest.hexdigest()[:12]}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What a node has in another version than the supervisor's machine, of that which both have."""
    found = [
        f"{name} {there[name]} there, {here[name]} here"
        for name in here
        if name != "source" and name in there and there[name] != here[name]
    ]
    if not found and here["source"] != there.get("source"):
        found.append(f"solver {here.get('solver', '')} there is not from the same source as here")
    return found
