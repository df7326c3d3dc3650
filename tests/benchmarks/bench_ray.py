"""What Ray costs beside the local executor on the same machine: CPU seconds and seconds of the clock of whole runs.

    python tests/benchmarks/bench_ray.py [--tasks ID,ID] [--steps 40] [--repetitions 1]

The same tasks are solved under policy `fixed` by worker processes of this machine, and on a Ray cluster that runs on it already.
CPU seconds are those of all processes that a run has started, the daemons of the cluster included, each counted until it
ends; so they say something on a busy machine, too. Both runs must give the same submission.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from ray.cluster_utils import Cluster

from solver.host import cores

TICK = os.sysconf("SC_CLK_TCK")
MARK = "SOLVER_BENCH_RAY"  # in the environment of every process that is counted


def cpu_seconds(mark: str) -> dict[int, tuple[str, float]]:
    """By process id: what it is, and the CPU seconds of every process with this mark in its environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                words = (folder / "cmdline").read_bytes().split(b"\0")
                name = words[words.index(b"-m") + 1].decode() if b"-m" in words else "ray"
                found[int(folder.name)] = (name, (int(fields[11]) + int(fields[12])) / TICK)
        except (OSError, IndexError, ValueError):
            continue
    return found


def run(arguments: list[str], mark: str) -> tuple[float, dict[int, tuple[str, float]]]:
    """Seconds of the clock of one `solver run`, and the CPU seconds of its processes and those of the cluster."""
    before, began = cpu_seconds(mark), time.monotonic()
    used: dict[int, tuple[str, float]] = {}
    process = subprocess.Popen(arguments, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        used |= cpu_seconds(mark)
        time.sleep(0.5)
    assert process.returncode == 0
    return time.monotonic() - began, {pid: (name, cpu - before.get(pid, ("", 0.0))[1]) for pid, (name, cpu) in used.items()}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="00576224,4cd1b7b2,66e6c45b,be03b35f,ca8de6ea,e633a9e5")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=1)
    options = parser.parse_args()
    os.environ[MARK] = mark = uuid.uuid4().hex
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings = ["budget.policy=fixed", f"train.steps={options.steps}", "programs.enabled=false", "model.threads=1"]
    print(
        "| executor | seconds | CPU seconds | of these: worker | supervisor | Ray |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for turn in range(options.repetitions):
        submissions = set()
        for name in ("local", "ray"):
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
                arguments = [sys.executable, "-m", "solver", "run", "arc1:evaluation", "--tasks", options.tasks, "--seed", "1"]
                arguments += ["--budget", "30m", "--out", f"{folder}/out"]
                arguments += [word for key in settings for word in ("--set", key)]
                if name == "ray":
                    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores(), "include_dashboard": False})
                    stack.callback(cluster.shutdown)
                    arguments += ["--executor", "ray", "--address", cluster.address]
                seconds, used = run(arguments, mark)
                submissions.add((Path(folder) / "out" / "submission.json").read_text())
            worker = sum(cpu for what, cpu in used.values() if what.startswith("solver.worker"))
            supervisor = sum(cpu for what, cpu in used.values() if what == "solver")
            total = sum(cpu for _, cpu in used.values())
            ray = total - worker - supervisor
            print(
                f"| {name} {turn + 1} | {seconds:.1f} | {total:.1f} | {worker:.1f} | {supervisor:.1f} | {ray:.1f} |", flush=True
            )
        assert len(submissions) == 1


if __name__ == "__main__":
    main()
