"""The executor on Ray over a cluster that the tests play: nodes that come, leave, differ, and do not answer. Needs no Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from run_helpers import assert_valid, make_task, make_tasks, write_challenges

from solver.config import load_settings
from solver.errors import InputError
from solver.messages import ClusterChanged, Heartbeat, ItemDone, Message, Ready, StartFailed, WorkerFacts
from solver.report.observer import SilentObserver
from solver.run.executors import ray as ray_module
from solver.run.executors.base import News, WorkerAway, WorkerLost, WorkResult
from solver.run.executors.ray import RayExecutor, blocks_of
from solver.run.executors.ray_cluster import Actor, CallFailed, ClusterNode, Share
from solver.run.executors.ray_node import NodeFacts, NodeHost, NodeNews, SharedFolder, differences, node_versions
from solver.run.executors.ray_shares import Shares
from solver.run.pipeline import run
from solver.run.types import RunOptions
from solver.types import TaskPlan, TaskWork, WorkItem

MODEL = SharedFolder(Path("/models/m"), "abc", "model")


def node(name: str, cpus: float = 2.0, gpus: float = 0.0, memory: float = 0.0) -> ClusterNode:
    return ClusterNode(name * 8, f"host-{name}", cpus, gpus, memory)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class PlayedCluster:
    """Answers every call at once, but for news, which the test tells."""

    there: list[ClusterNode]
    lacking: set[str] = field(default_factory=set)  # nodes that lack the model
    versions: dict[str, dict[str, str]] = field(default_factory=dict)  # of nodes that differ
    silent: set[str] = field(default_factory=set)  # nodes whose actors never come up
    hosts: list[tuple[ClusterNode, Share, Actor]] = field(default_factory=list)
    calls: list[tuple[str, str, tuple[Any, ...]]] = field(default_factory=list)  # node, method, arguments
    asked: dict[str, Callable[[Any], None]] = field(default_factory=dict)  # by node: who waits for news
    killed: list[str] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    closed: bool = False

    def nodes(self) -> list[ClusterNode]:
        return list(self.there)

    def host(self, node: ClusterNode, share: Share, folder: Path, answer: Callable[[Any], None]) -> Actor:
        actor = Actor(node.id, None)
        self.hosts.append((node, share, actor))
        versions = self.versions.get(node.id, node_versions())
        if node.id not in self.silent:
            answer(NodeFacts(node.host, versions, 10**10, frozenset()))
        return actor

    def call(self, actor: Actor, method: str, answer: Callable[[Any], None] | None, *arguments: Any) -> None:
        self.calls.append((actor.handle, method, arguments))
        assert answer is not None
        if method == "news":
            self.asked[actor.handle] = answer
        elif method == "find":
            answer(None if actor.handle in self.lacking else Path("/there"))
        elif method == "receive" or method == "start" or method == "stop":
            self.lacking.discard(actor.handle)
            answer(None)

    def put(self, value: bytes) -> Any:
        self.stored.append(value)
        return len(self.stored)

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.handle)

    def close(self) -> None:
        self.closed = True

    def tell(self, node: ClusterNode, *messages: tuple[str, Message]) -> None:
        self.asked.pop(node.id)(NodeNews(tuple(WorkResult(0, item, message) for item, message in messages), free=10**9))

    def methods(self, node: ClusterNode) -> list[str]:
        return [method for id_, method, _ in self.calls if id_ == node.id]


@dataclass
class Played:
    cluster: PlayedCluster
    executor: RayExecutor
    clock: Clock
    heard: list[News] = field(default_factory=list)

    def listen(self, seconds: float = 0.0) -> list[News]:
        self.clock.now += seconds
        new = list(self.executor.results(0.0))
        self.heard += new
        return new

    def lines(self) -> list[str]:
        """What was said about the cluster."""
        found = [one.message for one in self.heard if isinstance(one, WorkResult)]
        return [message.detail for message in found if isinstance(message, ClusterChanged)]


def play(there: list[ClusterNode], *overrides: str, start: bool = True, model: SharedFolder = MODEL, **cluster: Any) -> Played:
    clock, played = Clock(), PlayedCluster(there, **cluster)
    settings = load_settings(overrides=["workers.executor=ray", *overrides])
    executor = RayExecutor(played, settings, Path("/scratch"), [model], 0, lambda: False, clock=clock)
    run = Played(played, executor, clock)
    if start:
        executor.start()
        run.listen()
    return run


def told(news: list[News]) -> list[tuple[int, str, Message]]:
    return [(one.worker, one.item, one.message) for one in news if isinstance(one, WorkResult)]


A, B, C = node("a"), node("b"), node("c")
READY = Ready({}, WorkerFacts("t", "e", device="cpu", threads=2))


def work(seconds: float) -> WorkItem:
    return WorkItem("r1i1", 0, (TaskWork(make_task("one"), TaskPlan(1, 1, 1)),), 100.0 + seconds)


def test_every_node_gets_a_worker_with_all_of_its_processors_and_tells_what_it_does() -> None:
    run = play([A, B])
    assert [(there.id, share) for there, share, _ in run.cluster.hosts] == [(A.id, Share(2.0, 0.0)), (B.id, Share(2.0, 0.0))]
    assert run.executor.workers == 2
    assert run.cluster.methods(A) == ["find", "start", "news"]
    config = next(arguments[0] for id_, method, arguments in run.cluster.calls if (id_, method) == (A.id, "start"))
    assert config.model == Path("/there")
    run.cluster.tell(B, ("", READY))
    assert told(run.listen()) == [(1, "", READY)]
    assert run.cluster.methods(B)[-1] == "news"
    run.executor.submit(1, work(30.0))
    id_, method, (item, seconds) = run.cluster.calls[-1]
    assert (id_, method, item.id, seconds) == (B.id, "submit", "r1i1", 30.0)
    run.cluster.tell(B, ("r1i1", ItemDone()))
    assert told(run.listen()) == [(1, "r1i1", ItemDone())]
    assert run.lines() == ["2 nodes, places for 2 workers (processors)"]
    run.executor.close()
    run.executor.close()
    assert run.cluster.closed
    assert run.cluster.killed == [A.id, B.id]
    assert run.cluster.methods(A)[-1] == "stop"


def test_a_node_that_joins_gets_a_worker_and_one_that_leaves_takes_its_own() -> None:
    run = play([A])
    run.cluster.there.append(B)
    assert run.listen(ray_module.LOOK_SECONDS)[0] == WorkerAway(1, "its node has just joined")
    assert run.executor.workers == 2
    run.cluster.tell(B, ("", READY))
    run.listen()
    assert run.executor.node_of(1) == B.id
    kept = Path("/scratch") / f"node-{B.id[:16]}" / "adapter"
    run.executor._held[kept] = 7
    assert run.executor.node(kept) == B.id
    run.cluster.there.remove(B)
    left = run.listen(ray_module.LOOK_SECONDS)
    assert WorkerAway(1, "its node host-b has left the cluster") in left
    assert run.executor.node(kept) is None
    run.cluster.there.append(C)  # and takes the number that is vacant
    run.listen(ray_module.LOOK_SECONDS)
    assert run.executor.workers == 2
    assert run.executor.node_of(1) == C.id
    assert [line.partition(";")[0] for line in run.lines()[1:]] == ["joined: host-b", "left: host-b", "joined: host-c"]


def test_a_host_that_ends_with_its_node_is_away_and_one_that_ends_alone_is_lost() -> None:
    run = play([A, B])
    run.cluster.there.remove(B)
    run.cluster.asked.pop(B.id)(CallFailed("the actor died", gone=True))
    assert not [one for one in run.listen() if isinstance(one, WorkerLost)]
    assert [one.worker for one in run.heard if isinstance(one, WorkerAway)] == [0, 1, 1]
    run.cluster.asked.pop(A.id)(CallFailed("the actor died", gone=True))
    assert run.listen()[:1] == [WorkerLost(0, "its host on host-a has ended: the actor died")]
    run.listen(ray_module.AGAIN_SECONDS)
    assert [there.id for there, _, _ in run.cluster.hosts] == [A.id, B.id, A.id]
    assert run.cluster.methods(A)[-1] == "news"


def test_a_node_that_is_out_of_reach_is_asked_again() -> None:
    run = play([A])
    run.cluster.asked.pop(A.id)(CallFailed("no route", gone=False))
    assert run.listen() == []
    run.listen(ray_module.AGAIN_SECONDS)
    assert run.cluster.methods(A)[-2:] == ["news", "news"]


def test_a_worker_is_killed_by_its_host_or_with_it() -> None:
    run = play([A, B])
    run.executor.kill(0, "silent for 20 s")
    run.executor.kill(1, "silent for 20 s")
    assert run.cluster.methods(A)[-1] == "kill"
    run.cluster.asked.pop(A.id)(NodeNews((WorkerLost(0, "it was ended by SIGKILL"),)))
    assert run.listen() == [WorkerLost(0, "silent for 20 s")]
    assert not run.cluster.killed
    assert WorkerAway(1, "silent for 20 s; its node did not answer either") in run.listen(ray_module.KILL_SECONDS)
    assert run.cluster.killed == [B.id]


def test_another_version_ends_a_run_that_has_not_begun() -> None:
    versions = {**node_versions(), "solver": "9.9"}
    run = play([A, B], versions={B.id: versions})
    (refused,) = [one.message for one in run.heard if isinstance(one, WorkResult) and isinstance(one.message, StartFailed)]
    here = node_versions()["solver"]
    assert refused.bad_input
    assert refused.error == f"node host-b: solver 9.9 there, {here} here: install the same version on every node"
    run.listen(2 * ray_module.CHECK_SECONDS)
    assert "start" not in run.cluster.methods(A)


def test_another_version_on_a_node_that_joins_later_only_costs_that_node() -> None:
    run = play([A], versions={B.id: {**node_versions(), "source": "other"}})
    run.cluster.there.append(B)
    run.listen(ray_module.LOOK_SECONDS)
    assert "is not from the same source as here" in run.lines()[-1]
    assert run.lines()[-1].endswith("it is not used")
    run.listen(ray_module.LOOK_SECONDS)
    assert [there.id for there, _, _ in run.cluster.hosts] == [A.id, B.id]
    assert "start" not in run.cluster.methods(B)


def test_differences_are_named() -> None:
    here = {"solver": "1", "torch": "2.0", "python": "3.11.7", "source": "x"}
    assert differences(here, dict(here)) == []
    assert differences(here, {**here, "torch": "2.1", "source": "y"}) == ["torch 2.1 there, 2.0 here"]
    assert differences(here, {"solver": "1", "python": "3.11.7", "source": "x", "vllm": "1"}) == []
    assert differences(here, {**here, "source": "y"}) == ["solver 1 there is not from the same source as here"]


def test_no_worker_waits_for_ever_for_the_versions_of_a_node_without_room() -> None:
    run = play([A, B], silent={B.id})
    assert "find" not in run.cluster.methods(A)
    run.listen(ray_module.CHECK_SECONDS)
    assert run.cluster.methods(A) == ["find", "start", "news"]
    assert [one.worker for one in run.heard if isinstance(one, WorkerAway)] == [0, 1]


def test_a_model_that_nodes_lack_is_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_module, "BLOCK", 4)
    (tmp_path / "weights").write_bytes(b"0123456789")
    (tmp_path / "empty").write_bytes(b"")
    run = play([A, B], model=replace(MODEL, path=tmp_path), lacking={A.id, B.id})
    assert run.cluster.stored == [b"", b"0123", b"4567", b"89"]
    assert run.cluster.methods(A) == ["find", *["receive"] * 4, "find", "start", "news"]
    sent = [arguments[1:] for id_, method, arguments in run.cluster.calls if (id_, method) == (B.id, "receive")]
    assert sent == [("empty", 0, 1), ("weights", 0, 2), ("weights", 4, 3), ("weights", 8, 4)]


def test_a_host_takes_in_what_it_was_sent(tmp_path: Path, tiny_base: Path) -> None:
    from solver.model.folder import folder_identity

    host = NodeHost(tmp_path / "solver-1" / "node-a")
    wanted = SharedFolder(tmp_path / "nowhere", folder_identity(tiny_base), "model")
    assert host.find(wanted) is None
    for name, at, block in reversed(list(blocks_of(tiny_base))):
        assert host.find(wanted) is None
        host.receive(wanted, name, at, block)
    place = host.find(wanted)
    assert place is not None
    assert {file.name: file.read_bytes() for file in place.iterdir()} == {
        file.name: file.read_bytes() for file in tiny_base.iterdir() if file.is_file()
    }
    assert host.find(replace(wanted, path=tiny_base)) == tiny_base
    (tmp_path / "solver-1" / "node-a" / "r1i1t0").mkdir()
    assert host.describe().adapters == {tmp_path / "solver-1" / "node-a" / "r1i1t0"}
    host.stop(keep=True)
    assert place.is_dir()
    host.stop(keep=False)
    assert not (tmp_path / "solver-1").exists()


@pytest.mark.parametrize(
    ("overrides", "gpus", "error"),
    [
        (["model.device=cuda:0"], 0, "model.device = cuda:0, but no node of the cluster has a GPU"),
        (["workers.devices=3"], 2, "model.device = auto and workers.devices = 3, but the cluster has 2 GPUs"),
        (["model.device=cuda", "workers.devices=1"], 0, "workers.devices = 1, but no node of the cluster has a GPU"),
    ],
)
def test_a_gpu_that_nobody_has(overrides: list[str], gpus: int, error: str) -> None:
    with pytest.raises(InputError, match=error):
        play([node("a", gpus=gpus)], *overrides, start=False)


def test_without_ray_a_run_ends_with_a_fallback(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    tasks = make_tasks(2)
    challenges = write_challenges(tmp_path / "challenges.json", tasks)
    settings = load_settings(overrides=["workers.executor=ray", "programs.enabled=false"])
    options = RunOptions(str(challenges), tmp_path / "out", 60.0, settings=settings, model=tiny_base, scratch=tmp_path)
    with pytest.raises(InputError, match=r"needs the package Ray, which cannot be imported .*pip install 'solver\[ray\]'"):
        run(options, SilentObserver())
    assert_valid(tmp_path / "out", challenges)


def test_shares_of_nodes() -> None:
    def cut(nodes: list[ClusterNode], *overrides: str) -> list[tuple[str, float, float]]:
        shares = Shares.of(load_settings(overrides=list(overrides)), nodes, 0)
        return [(there.id[0], share.cpus, share.gpus) for there, share in shares.cut(nodes)]

    mixed = [node("a", 16, 2), node("b", 4, 1), node("c", 64)]
    assert cut(mixed) == [("a", 1, 1), ("a", 1, 1), ("b", 1, 1)]
    assert cut(mixed, "workers.devices=2") == [("a", 1, 1), ("a", 1, 1)]
    assert cut(mixed, "workers.per_device=2")[:2] == [("a", 1, 0.5), ("a", 1, 0.5)]
    assert cut(mixed, "model.device=cpu") == [("a", 16, 0), ("b", 4, 0), ("c", 64, 0)]
    assert cut([node("a", 5), node("b", 0.5)], "workers.per_device=2") == [("a", 2, 0), ("a", 2, 0)]
    assert cut([node("a", 0, 1)]) == [("a", 0, 1)]
    assert cut([node("a", 8, memory=3e9)], "workers.per_device=4", "workers.memory=1e9") == [("a", 2, 0)] * 3
    assert cut([]) == []
    two = Shares.of(load_settings(overrides=["workers.per_device=2"]), [A], 0)
    assert two.worker_settings(Share(1.0, 0.0)).model.threads == 1
    assert two.environment(Share(1.0, 0.0)) == {"OMP_NUM_THREADS": "1"}
    assert Shares.of(load_settings(), [node("a", gpus=1)], 0).worker_settings(Share(1, 1)).model.device == "cuda:0"


def test_a_cluster_without_a_node_for_workers_is_waited_for() -> None:
    run = play([node("a", cpus=0)])
    assert run.executor.workers == 1
    assert run.heard[-1] == WorkerAway(0, "no node of the cluster has a place for it yet")
    run.listen(ray_module.CHECK_SECONDS)
    assert run.lines()[-1] == "no node has a place for a worker yet; the run waits for one"
    run.cluster.there.append(B)
    run.listen(ray_module.LOOK_SECONDS)
    assert run.executor.node_of(0) == B.id
    assert Heartbeat("starting", 0) in [one.message for one in run.heard if isinstance(one, WorkResult)]
