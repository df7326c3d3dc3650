"""Runs on a Ray cluster of three nodes on this machine: nodes that are killed and that join, a supervisor that is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_helpers import FAST, assert_valid, command, make_tasks, run_it, worked, write_challenges

from solver.errors import InputError
from solver.run.ledger import Ledger

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TASKS = make_tasks(8)
MANY = make_tasks(18)
SLOW = {"step": 0.5}  # seconds of a step of the stand-in for a worker


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two other nodes, one processor each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.client_address = f"ray://127.0.0.1:{port}"
    yield made
    made.shutdown()


@pytest.fixture
def challenges(tmp_path: Path) -> Path:
    return write_challenges(tmp_path / "challenges.json", TASKS)


def on_ray(address: str, *more: str) -> list[str]:
    return [*FAST, "budget.policy=fixed", "workers.executor=ray", f"workers.address={address}", *more]


def ledger(folder: Path) -> Ledger:
    return Ledger.read(folder / "out" / "run.db")


def events(folder: Path, kind: str) -> list[str]:
    return [event.detail for event in ledger(folder).events() if event.kind == kind]


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def processes(*marks: str) -> list[str]:
    """The command lines of this machine's processes that contain one of the marks."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in text for mark in marks) and "pytest" not in text:
            found.append(text)
    return found


def assert_nothing_left(folder: Path) -> None:
    """No worker, no host of one, and no adapter of a run is left, after a moment at most."""
    wait_for(lambda: not processes("ray::NodeHost", str(folder)), 15.0)
    assert not list((folder / "temporary").glob("solver-*"))


def begin(folder: Path, challenges: Path, model: Path, *settings: str, faults: dict[str, Any] | None = None, **spec: Any) -> Any:
    arguments = command(folder, faults or SLOW, {"challenges": str(challenges), "model": str(model), "set": settings, **spec})
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_real_tasks_end_as_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    settings = [
        "--set", "budget.policy=fixed", "--set", "train.steps=2", "--set", 'infer.views.transforms=["identity","rot90"]',
        "--set", "programs.enabled=false", "--set", "model.threads=1",
    ]  # fmt: skip
    tasks = ["arc1:evaluation", "--tasks", "66e6c45b,be03b35f,17cae0c1", "--budget", "5m", "--seed", "3"]
    for name, where in (("local", []), ("ray", ["--executor", "ray", "--address", cluster.address])):
        arguments = [sys.executable, "-m", "solver", "run", *tasks, "--out", str(tmp_path / name), *settings, *where]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    read = [(tmp_path / name / "submission.json").read_text() for name in ("local", "ray")]
    assert read[0] == read[1]
    summary = json.loads((tmp_path / "ray" / "summary.json").read_text())
    assert summary["done"] == 3
    assert summary["steps"] == 6
    assert_nothing_left(tmp_path)


def test_a_node_that_is_killed_costs_what_was_in_flight_and_one_that_joins_works(
    cluster: Any, tmp_path: Path, tiny_base: Path
) -> None:
    challenges = write_challenges(tmp_path / "challenges.json", MANY)
    process = begin(tmp_path, challenges, tiny_base, *on_ray(cluster.address, "train.steps=6"), budget=120.0)
    wait_for(lambda: len(worked(tmp_path)) >= 4)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    added = cluster.add_node(num_cpus=1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_valid(tmp_path / "out", challenges)
    assert set(ledger(tmp_path).statuses().values()) == {"complete"}
    lines = worked(tmp_path)
    assert all(line.endswith(" 0 0") for line in lines)  # nothing is halved: no task is to blame
    again = sum(count - 1 for count in Counter(lines).values())
    assert again == len(events(tmp_path, "worker away"))  # what the node had in hand, and nothing that was finished
    joined = [line for line in events(tmp_path, "cluster") if line.startswith(("joined", "left"))]
    assert len(joined) == 2, output
    fits = [outcome.fit for outcome in ledger(tmp_path).outcomes()]
    assert f"node-{added.node_id[:16]}" in {fit.adapter.path.parent.name for fit in fits if fit and fit.adapter}
    assert_nothing_left(tmp_path)


def test_a_supervisor_that_is_killed_is_resumed(cluster: Any, tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    settings = on_ray(cluster.address, "train.steps=3", "budget.fixed_waves=[3,2]")
    process = begin(tmp_path, challenges, tiny_base, *settings, budget=120.0)
    wait_for(lambda: len(worked(tmp_path)) >= 7)  # with three workers, four passes at least are over
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not processes("ray::NodeHost", "faulty_worker.py"), 15.0)
    finished = {(outcome.task_id, outcome.wave) for outcome in ledger(tmp_path).outcomes()}
    before = worked(tmp_path)
    done = run_it(tmp_path, SLOW, challenges=str(challenges), model=str(tiny_base), set=settings, budget=120.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_valid(tmp_path / "out", challenges)
    after = {tuple(line.split()[:2]) for line in worked(tmp_path)[len(before) :]}
    assert after == {(task.id, str(wave)) for task in TASKS for wave in (0, 1)} - {(id_, str(wave)) for id_, wave in finished}
    fits = {(outcome.task_id, outcome.wave): outcome.fit for outcome in ledger(tmp_path).outcomes()}
    for task in TASKS:  # the second pass goes on where the adapter of the first lies
        first, second = (fits[task.id, wave].adapter.path.parent for wave in (0, 1))
        assert first == second
    assert_nothing_left(tmp_path)


def test_a_cluster_is_used_from_outside(cluster: Any, tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    settings = on_ray(cluster.client_address, "train.steps=1")
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), set=settings, budget=100.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_valid(tmp_path / "out", challenges)
    assert set(ledger(tmp_path).statuses().values()) == {"complete"}
    assert len(worked(tmp_path)) == len(TASKS)
    assert_nothing_left(tmp_path)


def test_a_cluster_is_started_here_and_leaves_nothing(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    settings = on_ray("local", "train.steps=8")
    process = begin(tmp_path, challenges, tiny_base, *settings, budget=120.0)
    wait_for(lambda: len(worked(tmp_path)) >= 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    assert_valid(tmp_path / "out", challenges)
    wait_for(lambda: not processes(str(tmp_path)), 15.0)


def test_a_cluster_of_a_process_that_is_killed_ends(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    process = begin(tmp_path, challenges, tiny_base, *on_ray("local", "train.steps=40"), budget=120.0)
    wait_for(lambda: len(worked(tmp_path)) >= 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_valid(tmp_path / "out", challenges)
    wait_for(lambda: not processes(str(tmp_path)), 20.0)


@pytest.mark.parametrize(
    ("address", "settings", "error"),
    [
        ("ray://127.0.0.1:9", [], "no Ray cluster answers there"),
        ("127.0.0.1:9", [], "no Ray cluster answers there"),
        ("cluster", ["model.device=cuda"], "no node of the cluster has a GPU"),
    ],
)
def test_a_cluster_that_cannot_be_used_ends_a_run_with_a_fallback(
    address: str,
    settings: list[str],
    error: str,
    cluster: Any,
    tmp_path: Path,
    challenges: Path,
    tiny_base: Path,
) -> None:
    address = cluster.address if address == "cluster" else address
    settings = on_ray(address, *settings)
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), set=settings, budget=60.0)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("solver:")]
    assert error in line
    assert_valid(tmp_path / "out", challenges)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("auto", "--address auto: no Ray cluster runs on this machine: begin with ray start --head, or use --address local"),
        ("local", "--address local: Ray cannot be started on this machine: not today"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named(
    address: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from solver.run.executors.ray_cluster import RayCluster

    def refuse(**_: Any) -> None:
        raise ConnectionError("not today\nand not tomorrow")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(InputError, match=error):
        RayCluster(address, tmp_path)
