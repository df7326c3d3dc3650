"""Seconds until a complete, valid submission is on disk and until a worker is ready, and the peak memory of a run, of real
`solver run` processes.

    python tests/benchmarks/bench_run.py [--repetitions 5] [--budget 4m50s]

The seconds count from just before the process is created until the submission with fallback answers to all ARC-AGI-1 evaluation
tasks is there, which is then checked like `solver check` does. The CPU seconds that the process had used by then are given, too:
other programs change them less. A worker is ready when it has loaded the embedded model. The modules are those that Python
imports until then. Memory is the largest resident set of the supervisor and its worker together, sampled ten times
a second during a run of `--budget` without other arguments; pages that they share count twice. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from solver.arc.datasets import TaskSet, load_tasks
from solver.arc.submission import defects

SET = "arc1:evaluation"
WORKER = """
import tempfile
from pathlib import Path
from solver.config import Settings
from solver.messages import WorkerConfig
from solver.worker.main import load
load(WorkerConfig(Settings(), None, Path(tempfile.mkdtemp()))).solver(0)
"""
POLL_SECONDS = 0.002  # between two looks for the file


def start(out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a run as a process whose output is dropped."""
    command = [sys.executable, "-m", "solver", "run", *arguments, "--out", str(out), "--scratch", str(out.parent / "scratch")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def fallback(out: Path, tasks: TaskSet) -> tuple[float, float]:
    """(seconds, CPU seconds) until the submission is there. Stops the run then."""
    began = time.perf_counter()
    run = start(out, SET, "--budget", "10m")
    while not (out / "submission.json").exists():  # it appears whole, by renaming
        assert run.poll() is None, "the run ended without a submission"
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - began
    used = cpu_seconds(run.pid)
    assert "libtorch" not in Path(f"/proc/{run.pid}/maps").read_text(), "the supervisor has loaded torch"
    flaws = defects(out / "submission.json", tasks)
    assert not flaws, flaws[0]
    run.send_signal(signal.SIGTERM)
    run.wait()
    return seconds, used


def ready(out: Path) -> tuple[float, float, float]:
    """Seconds until a worker is ready, and the CPU seconds of supervisor and worker until then. Stops the run then."""
    began = time.perf_counter()
    run = start(out, SET, "--budget", "10m")
    while not (out / "log.txt").exists() or " ready after " not in (out / "log.txt").read_text():
        assert run.poll() is None, "the run ended without a worker"
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - began
    used = cpu_seconds(run.pid), sum(map(cpu_seconds, children(run.pid)))
    run.send_signal(signal.SIGTERM)
    run.wait()
    return seconds, *used


def modules() -> int:
    """How many modules a worker imports until it is ready with the embedded model."""
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run([sys.executable, "-c", WORKER], env=environment, capture_output=True, text=True, check=True)
    return done.stderr.count("import time:")


def peak_memory(out: Path, budget: str) -> tuple[int, int]:
    """(bytes of supervisor and worker together, exit code) of a run without arguments."""
    run = start(out, "--budget", budget)
    peak = 0
    while run.poll() is None:
        peak = max(peak, sum(map(resident, (run.pid, *children(run.pid)))))
        time.sleep(0.1)
    return peak, run.returncode


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The descendants of a process."""
    descendants: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(child) for child in task.read_text().split()]
        except OSError:  # the thread has ended
            continue
        descendants += [*direct, *(below for child in direct for below in children(child))]
    return descendants


def resident(pid: int) -> int:
    """Bytes of a process's resident set; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    """Measure both and print a line of a Markdown table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="starts of which the fastest and slowest are printed")
    parser.add_argument("--budget", default="4m50s", help="of the run whose memory is measured; 0: none is")
    arguments = parser.parse_args()
    tasks = load_tasks(SET)
    with tempfile.TemporaryDirectory() as folder:
        times = sorted(fallback(Path(folder) / str(number), tasks) for number in range(arguments.repetitions))
        (best, best_cpu), (worst, worst_cpu) = times[0], times[-1]
        print(
            f"| fallback submission for {len(tasks)} tasks, from process creation; fastest and slowest of {len(times)} starts "
            f"| {best:.2f} s and {worst:.2f} s ({best_cpu:.2f} s and {worst_cpu:.2f} s of CPU) |",
            flush=True,
        )
        starts = [ready(Path(folder) / f"start {number}") for number in range(arguments.repetitions)]
        wall, supervisor, worker = (statistics.median(values) for values in zip(*starts, strict=True))
        print(
            f"| worker ready with the embedded model, from process creation; median of {len(starts)} starts | {wall:.2f} s "
            f"({supervisor:.2f} s of CPU in the supervisor, {worker:.2f} s in the worker, which imports {modules()} modules) |",
            flush=True,
        )
        if arguments.budget == "0":
            return
        peak, code = peak_memory(Path(folder) / "memory", arguments.budget)
        assert code == 0, f"the run ended with exit code {code}"
        print(f"| peak memory of `solver run --budget {arguments.budget}`, supervisor and worker | {peak / 1e9:.2f} GB |")


if __name__ == "__main__":
    main()
