"""The connection to a Ray cluster: its nodes, actors on them, and their answers. No other module imports Ray, and this one late.

Actors and placement groups belong to the job of this process. When it ends, in whatever way, Ray kills the actors and frees what
they had reserved, so nothing that belongs to a run outlives it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from solver.errors import InputError
from solver.run.executors.ray_node import NodeHost

LOCAL, AUTO = "local", "auto"
THREADS = 4  # of an actor: one waits for news, the others serve calls
LEAVE_SECONDS = 1.5  # for leaving a cluster, or ending one
LEAVING = "leaving Ray"  # the name of threads
REACH_SECONDS = 5.0  # for a connection to the address of a cluster
INSTALL = "pip install 'solver[ray]'"
MAX_SOCKET_PATH = 107  # bytes that Linux allows; Ray adds up to `SESSION_PATH` to its folder
SESSION_PATH = 75


@dataclass(frozen=True)
class ClusterNode:
    """A node that is alive, with all that it has, whether it is in use or not."""

    id: str  # never used again, not even if the same machine leaves and comes back
    host: str  # its address, for people
    cpus: float
    gpus: float
    memory: float  # bytes that Ray lets it use; 0: not known


@dataclass(frozen=True)
class Share:
    """What a worker reserves on its node."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class CallFailed:
    """A call of an actor has no answer."""

    reason: str
    gone: bool  # whether the actor has ended; else it may only be out of reach for a while
    refused: bool = False  # whether it could not be made: the same on this node again


@dataclass(frozen=True, eq=False)
class Actor:
    """A NodeHost on a node, and what it has reserved there."""

    handle: Any
    group: Any


class RayCluster:
    """A Ray cluster that this process has joined, or started on this machine."""

    def __init__(self, address: str, folder: Path) -> None:
        """Join the cluster at `address`: "auto" (one that runs on this machine), "local" (start one) or "ray://HOST:PORT".

        A cluster that is started keeps its files in `folder`. Raises InputError if Ray is not installed or there is no cluster.
        """
        handlers = _handlers()
        try:
            self._ray = _import_ray()
            self._folder = _session_folder(folder) if address == LOCAL else None
            self._connect(address)
        finally:
            _restore(handlers)  # Ray replaces those for SIGTERM
        self._hosts: Any = self._ray.remote(NodeHost)

    def nodes(self) -> list[ClusterNode]:
        """The nodes that are alive, in the order of their ids. Raises RuntimeError if the cluster does not answer."""
        try:
            table = self._ray.nodes()
        except Exception as error:  # Ray raises errors of its own and of gRPC
            raise RuntimeError(f"the cluster does not answer: {_first_line(error)}") from error
        found = []
        for entry in table:
            if entry["Alive"]:
                has = entry["Resources"]
                host = entry.get("NodeManagerAddress") or entry["NodeID"][:12]
                found.append(ClusterNode(entry["NodeID"], host, has.get("CPU", 0.0), has.get("GPU", 0.0), has.get("memory", 0.0)))
        return sorted(found, key=lambda node: node.id)

    def host(self, node: ClusterNode, share: Share, folder: Path, answer: Callable[[Any], None]) -> Actor:
        """Reserve a share of a node and start a NodeHost in it, as soon as the share is free.

        `answer` gets its NodeFacts, or CallFailed, on a thread of Ray.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = {name: value for name, value in (("CPU", share.cpus), ("GPU", share.gpus)) if value}
        group = placement_group([bundle], bundle_label_selector=[{"ray.io/node-id": node.id}])
        strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=0)
        options = self._hosts.options(
            num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy=strategy, max_concurrency=THREADS, max_restarts=0
        )
        actor = Actor(options.remote(folder), group)
        self.call(actor, "describe", answer)
        return actor

    def call(self, actor: Actor, method: str, answer: Callable[[Any], None] | None, *arguments: Any) -> None:
        """Call a method of an actor. `answer` gets what it gives, or CallFailed, on a thread of Ray. Does not raise."""
        try:
            future: Future[Any] = getattr(actor.handle, method).remote(*arguments).future()
        except Exception as error:
            if answer is not None:
                answer(self._failure(error))
            return
        if answer is not None:
            future.add_done_callback(partial(self._pass_on, answer))

    def put(self, value: bytes) -> Any:
        """Put a value into the object store. Gives what a call takes in its place, for as long as somebody refers to it."""
        return self._ray.put(value)

    def kill(self, actor: Actor) -> None:
        """Kill an actor and free what it has reserved, without waiting."""
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle, no_restart=True)
        with contextlib.suppress(Exception):
            remove_placement_group(actor.group)

    def close(self) -> None:
        """Leave the cluster; end it if it was started here. Waits for `LEAVE_SECONDS` at most. Idempotent."""
        leaving = threading.Thread(target=self._leave, daemon=True, name=LEAVING)
        leaving.start()
        leaving.join(LEAVE_SECONDS)  # if it takes longer, Ray's processes end with this one

    # -- inside

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self, address: str) -> None:
        for thread in threading.enumerate():
            if thread.name == LEAVING:  # of an earlier run in this process
                thread.join()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it, Ray warns about workers without a GPU
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "solver"}
        if address == LOCAL:
            common |= {"include_dashboard": False, "_temp_dir": str(self._folder)}
        elif address != AUTO:
            _check_reachable(address)
        try:
            self._ray.init(address=address, **common)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, and errors of gRPC
            raise InputError(_no_cluster(address, error)) from None

    def _pass_on(self, answer: Callable[[Any], None], future: Future[Any]) -> None:
        error = future.exception()
        answer(future.result() if error is None else self._failure(error))

    def _failure(self, error: BaseException) -> CallFailed:
        kinds = self._ray.exceptions
        if isinstance(error, kinds.ActorUnavailableError):
            return CallFailed(_first_line(error), gone=False)
        if isinstance(error, kinds.RayActorError):
            refused = bool(getattr(error, "_actor_init_failed", False)) or "creation task" in str(error)
            return CallFailed(_last_line(error) if refused else _first_line(error), gone=True, refused=refused)
        if isinstance(error, (kinds.RayTaskError, kinds.RaySystemError)) or not isinstance(error, kinds.RayError):
            return CallFailed(_last_line(error), gone=False)
        return CallFailed(_first_line(error), gone=True)


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise InputError(f"--executor ray needs the package Ray, which cannot be imported ({error}): {INSTALL}") from None
    return ray


def _check_reachable(address: str) -> None:
    """Raises InputError if nobody listens at ray://HOST:PORT or HOST:PORT: Ray itself would try for half a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(_no_cluster(address, error)) from None


def _no_cluster(address: str, error: BaseException) -> str:
    if address == AUTO:
        return "--address auto: no Ray cluster runs on this machine: begin with ray start --head, or use --address local"
    if address == LOCAL:
        return f"--address local: Ray cannot be started on this machine: {_first_line(error)}"
    return f"--address {address}: no Ray cluster answers there: {_first_line(error)}"


def _session_folder(folder: Path) -> Path:
    """A folder for the files of a cluster, with a path that is short enough for the sockets in it."""
    wanted = folder.absolute() / "ray"
    if len(str(wanted)) + SESSION_PATH <= MAX_SOCKET_PATH:
        return wanted
    return Path(tempfile.mkdtemp(prefix="solver-ray-", dir="/tmp"))


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    """The error itself, which a traceback of another process ends with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
