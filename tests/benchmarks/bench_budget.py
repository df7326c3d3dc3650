"""Real runs of several budgets on this machine: how much of the budget is used, and how well the cost of phases is predicted.

    python tests/benchmarks/bench_budget.py [--minutes 1] [--tasks 60] [--policy NAME] [--set KEY=VALUE] [--seed 0]

Each run is a `solver run` process over the same shortest ARC-AGI-1 evaluation tasks, more than any of the budgets can finish.
Wall-clock seconds count from just before the process is created until it has ended. CPU seconds are those of the supervisor
alone (planning, ledger, supervision, reading the tasks), sampled twice a second. Idle is the time that a ready worker had no
work, without the reserve. Errors are medians of |predicted - used| / used over all passes after the first five, of phases that
were predicted. It fails if a run is late, or leaves a submission that is not complete and valid. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from solver.arc.datasets import TaskSet, load_tasks, shortest_tasks
from solver.arc.submission import defects
from solver.budget.costs import LEARNING, prediction_errors
from solver.budget.reserve import reserve_seconds
from solver.config import load_settings
from solver.run.ledger import LEDGER, Ledger

SET = "arc1:evaluation"
SAMPLE_SECONDS = 0.5  # between two readings of the process's CPU time


@dataclass(frozen=True)
class Phase:
    """Worker seconds of a phase over all passes."""

    predicted: float
    used: float
    error: float | None


@dataclass(frozen=True)
class Measured:
    """One run. Times are in seconds."""

    budget: float
    used: float
    reserve: float
    start: float  # until a worker was ready
    worked: float  # in passes
    supervisor_cpu: float
    work_left: bool
    tasks: int
    passes: int
    phases: dict[str, Phase]

    @property
    def idle(self) -> float:
        """Seconds without work between the moment a worker was ready and the reserve."""
        return self.budget - self.reserve - self.start - self.worked


def measure(folder: Path, tasks: TaskSet, minutes: float, wishes: list[str]) -> Measured:
    """Run once. Raises AssertionError if the run is late, fails, or leaves no valid submission."""
    challenges = folder / "challenges.json"
    challenges.write_text(json.dumps({task.id: task.without_answers().to_json() for task in tasks}))
    out, budget = folder / "out", 60.0 * minutes
    options = ["--out", str(out), "--budget", f"{budget:g}", "--scratch", str(folder / "scratch")]
    command = [sys.executable, "-m", "solver", "run", str(challenges), *options, *(w for wish in wishes for w in ("--set", wish))]
    began = time.perf_counter()
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    cpu = 0.0
    while run.returncode is None:
        cpu = max(cpu, cpu_seconds(run.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(SAMPLE_SECONDS)  # notices the end within 50 ms
    used = time.perf_counter() - began
    assert run.returncode == 0, f"the run ended with exit code {run.returncode}"
    assert used <= budget, f"the run of {budget:.0f} s took {used:.1f} s"
    flaws = defects(out / "submission.json", tasks)
    assert not flaws, flaws[0]
    with contextlib.closing(Ledger.read(out / LEDGER)) as ledger:
        return _measured(ledger, budget, used, cpu, wishes)


def _measured(ledger: Ledger, budget: float, used: float, cpu: float, wishes: list[str]) -> Measured:
    rows, timings, order = ledger.forecasts(), ledger.timings(), ledger.order()
    errors = prediction_errors(rows, skip=LEARNING)
    phases = {
        name: Phase(
            sum(row.predicted or 0.0 for row in rows if row.phase == name),
            sum(row.used for row in rows if row.phase == name),
            errors.get(name),
        )
        for name in dict.fromkeys(row.phase for row in rows)
    }
    reserve = reserve_seconds(load_settings(overrides=wishes).budget.reserve, budget)
    (end,) = [event.detail for event in ledger.events() if event.kind == "end"]
    return Measured(
        budget=budget,
        used=used,
        reserve=reserve,
        start=sum(timings.get(phase, (0.0, 0.0))[1] for phase in ("validate", "load")),
        worked=sum(phase.used for phase in phases.values()),
        supervisor_cpu=cpu,
        work_left="all work is done" not in end,
        tasks=len({task for task, _ in order}),
        passes=len(order),
        phases=phases,
    )


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def tables(runs: list[Measured]) -> str:
    """Two Markdown tables: budgets, and phases."""
    lines = [
        "| budget | used | of the budget | work left | in passes | start | idle | supervisor CPU | tasks | passes |",
        "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in runs:
        share = f"{run.used / run.budget:.1%}"
        parts = [
            f"{seconds:.1f} s ({seconds / run.budget:.1%})" for seconds in (run.worked, run.start, run.idle, run.supervisor_cpu)
        ]
        left = "yes" if run.work_left else "no"
        lines.append(
            f"| {run.budget:.0f} s | {run.used:.1f} s | {share} | {left} | {' | '.join(parts)} | {run.tasks} | {run.passes} |"
        )
    lines += ["", "| budget | phase | predicted | used | median error after five |", "| ---: | --- | ---: | ---: | ---: |"]
    for run in runs:
        for name, phase in run.phases.items():
            error = "-" if phase.error is None else f"{phase.error:.0%}"
            lines.append(f"| {run.budget:.0f} s | {name} | {phase.predicted:.1f} s | {phase.used:.1f} s | {error} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; what has been measured so far is printed even if a later run fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", default="1", help="budgets, with commas between them: 1,2,5,10")
    parser.add_argument("--tasks", type=int, default=60, help="how many of the shortest evaluation tasks")
    parser.add_argument("--policy", default=None, help="budget.policy; without it the default")
    parser.add_argument("--set", dest="wishes", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wishes = [*arguments.wishes, f"seed={arguments.seed}", *([f"budget.policy={arguments.policy}"] if arguments.policy else [])]
    tasks = shortest_tasks(load_tasks(SET), arguments.tasks)
    runs: list[Measured] = []
    try:
        for minutes in map(float, arguments.minutes.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(Path(folder), tasks, minutes, wishes))
            print(f"{runs[-1].used:.1f} of {runs[-1].budget:.0f} s", file=sys.stderr, flush=True)
    finally:
        print(tables(runs))


if __name__ == "__main__":
    main()
