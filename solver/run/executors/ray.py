"""The executor on a Ray cluster: workers on its nodes, one for each GPU or for the processors of each node.

Each worker has a `NodeHost`, a Ray actor in a placement group on its node, which starts the same worker process as the local
executor. Ray does scheduling, transport and the detection of lost nodes. Every few seconds this module looks which nodes there
are: those that have joined get workers, and the workers of those that have left are away.

A worker goes through these states: `placing` (its node has no room yet, or the actor starts), `preparing` (the node gets the
files that it lacks), `working`. None starts to work before all nodes that were there at the start have told their versions.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from solver.config import Settings
from solver.messages import ClusterChanged, Heartbeat, Message, StartFailed, VllmLost, WorkerConfig
from solver.run.executors.base import News, WorkerAway, WorkerLost, WorkResult
from solver.run.executors.ray_cluster import Actor, CallFailed, ClusterNode, Share
from solver.run.executors.ray_node import NodeFacts, NodeNews, SharedFolder, differences, node_versions
from solver.run.executors.ray_shares import Shares, distinctly_named
from solver.types import WorkItem

LOOK_SECONDS = 5.0  # between two looks at the nodes of the cluster
NEWS_SECONDS = 5.0  # a call for news takes at most so long; so a worker gives a sign of life about as often
CHECK_SECONDS = 20.0  # that the first nodes may take to tell their versions; those that take longer are checked when they do
KILL_SECONDS = 5.0  # from asking a host to kill its worker until the host is killed itself
AGAIN_SECONDS = 1.0  # until the next call of a host that was out of reach, or could not be started
CLOSE_SECONDS = 1.0  # that hosts have to stop their workers
BLOCK = 64 * 2**20  # bytes of a file in one object of the object store


class Cluster(Protocol):
    """What `RayCluster` offers; tests have others."""

    def nodes(self) -> list[ClusterNode]:  # noqa: D102
        ...

    def host(self, node: ClusterNode, share: Share, folder: Path, answer: Callable[[Any], None]) -> Actor:  # noqa: D102
        ...

    def call(self, actor: Actor, method: str, answer: Callable[[Any], None] | None, *arguments: Any) -> None:  # noqa: D102
        ...

    def put(self, value: bytes) -> Any:  # noqa: D102
        ...

    def kill(self, actor: Actor) -> None:  # noqa: D102
        ...

    def close(self) -> None:  # noqa: D102
        ...


@dataclass(eq=False)
class _Slot:
    """A worker's number: the share of a node that it stands for, and its host. Times are seconds on the executor's clock."""

    number: int
    node: ClusterNode | None = None  # None: the node has left, and another may take its place
    share: Share | None = None
    state: Literal["free", "placing", "preparing", "working", "refused"] = "free"
    actor: Actor | None = None
    life: int = 0  # counts its hosts; answers of earlier ones are dropped
    facts: NodeFacts | None = None
    killed_for: str = ""
    kill_by: float = float("inf")  # when the host itself is killed, because it has not killed its worker
    again_at: float = float("inf")  # when a call is made again, or a host started again
    wanted: list[SharedFolder] = field(default_factory=list)  # that its node may lack
    found: dict[str, Path] = field(default_factory=dict)  # where its node has what is wanted, by kind
    blocks: int = 0  # that are on their way


class RayExecutor:
    """An Executor on a Ray cluster, and the AdapterDisk of its nodes."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        scratch: Path,
        folders: Sequence[SharedFolder],
        weights: int,
        keep: Callable[[], bool],
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folders` are needed on every node: the model, and an adapter that fits start from. `weights`: bytes of the model.

        `scratch` is where every node makes its folder for adapters; `keep()` says at the end whether these stay. `command`:
        that of a worker process, if it is not the usual one. Raises InputError for GPUs that no node has, RuntimeError if the
        cluster does not answer.
        """
        self._cluster, self._settings, self._scratch, self._folders = cluster, settings, scratch, list(folders)
        self._keep, self._command, self._clock = keep, command, clock
        nodes = distinctly_named(cluster.nodes())
        self._shares = Shares.of(settings, nodes, weights)
        self._first = self._shares.cut(nodes)
        self._slots = [_Slot(number) for number in range(max(1, len(self._first)))]
        self._known: dict[str, ClusterNode] = {}  # the nodes that are there
        self._by_folder: dict[Path, str] = {}  # the same, by the folder for adapters
        self._refused: dict[str, str] = {}  # nodes that are not used, and why
        self._inbox: queue.SimpleQueue[tuple[_Slot, int, str, Any]] = queue.SimpleQueue()
        self._due: set[_Slot] = set()  # those with a time at which something has to be done
        self._blocks: dict[str, list[tuple[str, int, Any]]] = {}  # by folder: what is being sent to nodes
        self._out: list[News] = []
        self._look_at = self._check_until = float("-inf")
        self._begun = False  # whether workers may start: the versions of the first nodes are known
        self._vllm_lost = ""
        self._held: dict[Path, int] = {}  # bytes of the adapters that are on nodes; 0: not known
        self._free: dict[str, int] = {}  # bytes on the disk of a node
        self._closed = False

    # -- an Executor

    @property
    def workers(self) -> int:
        """How many workers there are or were; it grows when nodes join."""
        return len(self._slots)

    def start(self) -> None:
        """Ask for a place for every worker."""
        self._check_until = self._clock() + CHECK_SECONDS
        self._out += [WorkResult(0, "", ClusterChanged(self._describe()))]
        self._out += [WorkerAway(slot.number, "no node of the cluster has a place for it yet") for slot in self._slots]
        self._look()

    def submit(self, worker: int, work: WorkItem) -> None:
        """Hand an item to a worker. Clocks of machines differ: what is sent are the seconds to its deadline."""
        self._call(self._slots[worker], "submit", work, work.deadline_at - self._clock())

    def results(self, timeout: float) -> Iterator[News]:
        """The messages that have arrived, waiting at most `timeout` seconds for the first."""
        self._attend()
        until = self._clock() + max(timeout, 0.0)
        while not self._out:
            wait = min(until, self._next_duty()) - self._clock()
            try:
                self._hear(*(self._inbox.get(timeout=wait) if wait > 0 else self._inbox.get_nowait()))
            except queue.Empty:
                if self._clock() >= until:
                    break
                self._attend()
        while not self._inbox.empty():
            self._hear(*self._inbox.get_nowait())
        out, self._out = self._out, []
        yield from out

    def kill(self, worker: int, reason: str) -> None:
        """Have a host kill its worker; if the host does not say that it has, it is killed as well."""
        slot = self._slots[worker]
        if slot.actor is None:
            self._out.append(WorkerAway(worker, reason))
        elif not slot.killed_for:
            slot.killed_for, slot.kill_by = reason, self._clock() + KILL_SECONDS
            self._due.add(slot)
            self._call(slot, "kill", reason)

    def close(self) -> None:
        """Stop every worker, free what was reserved, and leave the cluster. Waits `CLOSE_SECONDS` for nodes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        stopped: queue.SimpleQueue[Any] = queue.SimpleQueue()
        hosts = [slot.actor for slot in self._slots if slot.actor is not None]
        waiting = [slot.actor for slot in self._slots if slot.actor is not None and slot.facts is not None]
        keep = self._keep()
        for actor in waiting:
            self._cluster.call(actor, "stop", stopped.put, keep)
        until = time.monotonic() + CLOSE_SECONDS
        for _ in waiting:
            try:
                stopped.get(timeout=max(until - time.monotonic(), 1e-3))
            except queue.Empty:
                break
        for actor in hosts:
            self._cluster.kill(actor)
        self._cluster.close()

    # -- an AdapterDisk

    def node(self, path: Path) -> str | None:
        """The node that has an adapter; None if it is gone, or its node is."""
        return self._by_folder.get(path.parent) if path in self._held else None

    def node_of(self, worker: int) -> str:
        """The id of the node of a worker; that of no node if it has none."""
        node = self._slots[worker].node if worker < len(self._slots) else None
        return node.id if node is not None else "none"

    def size(self, path: Path) -> int:
        """Bytes of an adapter; 0 if they are not known."""
        return self._held.get(path, 0)

    def free(self, path: Path) -> int | None:
        """Bytes on the disk of an adapter's node, as it last told; None: it has not."""
        node = self.node(path)
        return None if node is None else self._free.get(node)

    def delete(self, path: Path) -> None:
        """Have an adapter deleted by a host on its node."""
        node = self.node(path)
        self._held.pop(path, None)
        slot = next((slot for slot in self._slots if slot.node and slot.node.id == node and slot.actor is not None), None)
        if slot is not None:
            self._call(slot, "delete", path)

    # -- nodes that come and go

    def _attend(self) -> None:
        """Do what is due: look at the nodes, call hosts again, kill those that do not kill their worker."""
        now = self._clock()
        if now >= self._look_at:
            self._look()
        for slot in [slot for slot in self._due if now >= min(slot.kill_by, slot.again_at)]:
            self._due.discard(slot)
            if now >= slot.kill_by:
                self._lose(slot, f"{slot.killed_for}; its node did not answer either", blame=False)
            elif slot.actor is None:
                self._place(slot)
            else:
                slot.again_at = float("inf")
                self._ask(slot)
        if not self._begun and now >= self._check_until:
            self._begin()

    def _next_duty(self) -> float:
        times = [self._look_at, *(min(slot.kill_by, slot.again_at) for slot in self._due)]
        return min(times) if self._begun else min(*times, self._check_until)

    def _look(self) -> None:
        """Take in which nodes there are: give workers to new ones, and take the workers of those that are gone."""
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            nodes = distinctly_named(self._cluster.nodes())
        except RuntimeError as error:
            self._say(0, ClusterChanged(str(error)))
            return
        before, self._known = self._known, {node.id: node for node in nodes}
        self._by_folder = {self._folder(id_): id_ for id_ in self._known}
        for node in before.values():
            if node.id not in self._known:
                self._drop(node)
        taken = Counter(slot.node.id for slot in self._slots if slot.node is not None)
        vacant = [slot for slot in reversed(self._slots) if slot.node is None]
        for node, share in self._shares.cut(nodes):
            if taken[node.id] or node.id in self._refused:
                taken[node.id] -= 1
                continue
            if vacant:
                slot = vacant.pop()
            else:
                slot = _Slot(len(self._slots))
                self._slots.append(slot)
                self._out.append(WorkerAway(slot.number, "its node has just joined"))
            slot.node, slot.share = node, share
            self._place(slot)
        if before and (joined := [node for id_, node in self._known.items() if id_ not in before]):
            self._say(0, ClusterChanged(f"joined: {', '.join(node.host for node in joined)}; {self._describe()}"))

    def _drop(self, node: ClusterNode) -> None:
        """Take in that a node has left: its workers and its adapters are gone."""
        for path in [path for path in self._held if path.parent == self._folder(node.id)]:
            del self._held[path]
        for slot in self._slots:
            if slot.node is not None and slot.node.id == node.id:
                self._end(slot)
                slot.node, slot.state = None, "free"
                self._out.append(WorkerAway(slot.number, f"its node {node.host} has left the cluster"))
        self._say(0, ClusterChanged(f"left: {node.host}; {self._describe()}"))

    def _describe(self) -> str:
        nodes = self._known or {node.id: node for node, _ in self._first}
        shares = self._shares.cut(list(nodes.values()))
        what = "GPU" if self._shares.on_gpu else "processor"
        places = "place for 1 worker" if len(shares) == 1 else f"places for {len(shares)} workers"
        return f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {places} ({what}s)"

    # -- one worker

    def _folder(self, node: str) -> Path:
        return self._scratch / f"node-{node[:16]}"

    def _place(self, slot: _Slot) -> None:
        assert slot.node is not None
        assert slot.share is not None
        slot.life += 1
        slot.state, slot.again_at = "placing", float("inf")
        slot.actor = self._cluster.host(
            slot.node, slot.share, self._folder(slot.node.id), partial(self._put, slot, slot.life, "describe")
        )

    def _end(self, slot: _Slot) -> None:
        """Give up the host of a slot, if it has one."""
        slot.life += 1
        if slot.actor is not None:
            self._cluster.kill(slot.actor)
        slot.actor, slot.facts, slot.killed_for, slot.blocks = None, None, "", 0
        self._due.discard(slot)
        slot.kill_by = slot.again_at = float("inf")

    def _put(self, slot: _Slot, life: int, method: str, answer: Any) -> None:
        """Called on threads of Ray."""
        self._inbox.put((slot, life, method, answer))

    def _call(self, slot: _Slot, method: str, *arguments: Any) -> None:
        if slot.actor is not None:
            self._cluster.call(slot.actor, method, partial(self._put, slot, slot.life, method), *arguments)

    def _hear(self, slot: _Slot, life: int, method: str, answer: Any) -> None:
        if slot.life != life or self._closed:
            return
        if isinstance(answer, CallFailed):
            self._fail(slot, method, answer)
            return
        match method:
            case "describe":
                self._take_facts(slot, answer)
            case "find":
                self._take_place(slot, answer)
            case "receive":
                slot.blocks -= 1
                self._say(slot.number, Heartbeat(f"receiving {slot.wanted[0].path.name}", 0))
                if not slot.blocks:
                    self._call(slot, "find", slot.wanted[0])
            case "start":
                slot.state = "working"
                if not any(one.state == "preparing" for one in self._slots):
                    self._blocks.clear()
                self._ask(slot)
            case "news":
                self._take_news(slot, answer)
                self._ask(slot)

    def _fail(self, slot: _Slot, method: str, failure: CallFailed) -> None:
        assert slot.node is not None
        if failure.gone:
            if slot.state == "placing" and failure.refused:
                self._refuse(slot.node, failure.reason)
            elif not self._left(slot.node):
                self._lose(slot, f"its host on {slot.node.host} has ended: {failure.reason}", blame=True)
        elif method == "news":  # out of reach for a while, or for good: silence will tell
            slot.again_at = self._clock() + AGAIN_SECONDS
            self._due.add(slot)
        elif method == "submit":
            self._lose(slot, f"{slot.node.host} did not get its work: {failure.reason}", blame=False)
        elif method in ("describe", "find", "receive", "start"):
            self._say(slot.number, StartFailed(f"{slot.node.host}: {failure.reason}"))
            self._lose(slot, f"{slot.node.host}: {method}: {failure.reason}", blame=False)

    def _left(self, node: ClusterNode) -> bool:
        """Look whether a node whose host has ended is gone, too."""
        self._look()
        return node.id not in self._known

    def _lose(self, slot: _Slot, reason: str, blame: bool) -> None:
        """Report the loss of a worker with its host; another host is started soon. `blame`: its work may be the cause."""
        if blame and slot.state == "working":
            self._out.append(WorkerLost(slot.number, reason))
        self._out.append(WorkerAway(slot.number, reason))
        self._end(slot)
        slot.state, slot.again_at = "placing", self._clock() + AGAIN_SECONDS
        self._due.add(slot)

    def _refuse(self, node: ClusterNode, reason: str) -> None:
        """Do not use a node. Before anything has begun, that ends the run; later, the others go on without it."""
        line = f"node {node.host}: {reason}"
        self._refused[node.id] = line
        for slot in self._slots:
            if slot.node is not None and slot.node.id == node.id:
                self._end(slot)
                slot.state = "refused"
        if self._begun:
            self._say(0, ClusterChanged(f"{line}; it is not used"))
        else:
            self._say(0, StartFailed(line, bad_input=True))

    def _take_facts(self, slot: _Slot, facts: NodeFacts) -> None:
        assert slot.node is not None
        if different := differences(node_versions(), facts.versions):
            self._refuse(slot.node, f"{'; '.join(different)}: install the same version on every node")
            return
        slot.facts = facts
        self._say(slot.number, Heartbeat("starting", 0))
        for path in facts.adapters:
            self._held.setdefault(path, 0)
        if self._begun:
            self._prepare(slot)
        elif all(one.facts is not None or one.state == "refused" for one in self._slots if one.node is not None):
            self._begin()

    def _begin(self) -> None:
        """Let all workers start whose nodes have told their versions."""
        if self._refused:
            return  # the run is about to end
        self._begun = True
        ready = [slot for slot in self._slots if slot.facts is not None]
        if not ready:
            self._say(0, ClusterChanged("no node has a place for a worker yet; the run waits for one"))
        for slot in ready:
            self._prepare(slot)

    def _prepare(self, slot: _Slot) -> None:
        """Find or send what the node needs, one folder after the other, and then start the worker."""
        slot.state, slot.wanted, slot.found = "preparing", list(self._folders), {}
        self._call(slot, "find", slot.wanted[0])

    def _take_place(self, slot: _Slot, place: Path | None) -> None:
        wanted = slot.wanted[0]
        if place is None:
            self._send(slot, wanted)
            return
        assert slot.share is not None
        slot.wanted.pop(0)
        slot.found[wanted.kind] = place
        if slot.wanted:
            self._call(slot, "find", slot.wanted[0])
            return
        config = WorkerConfig(
            self._shares.worker_settings(slot.share),
            slot.found["model"],
            self._scratch,
            slot.found.get("adapter"),
            vllm_lost=self._vllm_lost,
        )
        self._call(slot, "start", config, self._shares.environment(slot.share), self._command)

    def _send(self, slot: _Slot, wanted: SharedFolder) -> None:
        """Send a folder to a node, block by block. A block is put into the object store once, for all nodes that lack it."""
        if wanted.identity not in self._blocks:
            try:
                blocks = [(file, at, self._cluster.put(block)) for file, at, block in blocks_of(wanted.path)]
            except OSError as error:
                self._say(slot.number, StartFailed(f"{wanted.path}: cannot be read: {error.strerror}", bad_input=True))
                return
            self._blocks[wanted.identity] = blocks
        slot.blocks = len(self._blocks[wanted.identity])
        for file, at, block in self._blocks[wanted.identity]:
            self._call(slot, "receive", wanted, file, at, block)

    def _ask(self, slot: _Slot) -> None:
        self._call(slot, "news", NEWS_SECONDS)

    def _take_news(self, slot: _Slot, news: NodeNews) -> None:
        assert slot.node is not None
        self._held |= news.sizes
        if news.free is not None:
            self._free[slot.node.id] = news.free
        for result in news.results:
            if isinstance(result, WorkerLost):
                reason, slot.killed_for, slot.kill_by = slot.killed_for or result.reason, "", float("inf")
                self._out.append(replace(result, worker=slot.number, reason=reason))
                continue
            if isinstance(result.message, VllmLost):
                self._vllm_lost = result.message.reason
            self._out.append(replace(result, worker=slot.number))

    def _say(self, worker: int, message: Message) -> None:
        self._out.append(WorkResult(worker, "", message))


def blocks_of(folder: Path) -> Iterator[tuple[str, int, bytes]]:
    """The files of a folder in blocks: name, bytes from the beginning, content. Raises OSError."""
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            at = 0
            while (block := stream.read(BLOCK)) or not at:
                yield file.name, at, block
                at += len(block)
                if not block:
                    break
