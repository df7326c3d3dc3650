"""The cost of planning, the ledger and supervision as a share of the budget, which must be below 1 %.

    python tests/benchmarks/bench_supervision.py [--policy adaptive] [--faults usual] [--quick]

The real supervisor, policy, run state, ledger (SQLite on disk) and submission (written and synced) serve simulated workers on a
simulated clock. Nothing waits, so all wall-clock time is overhead of the supervisor's process. In a real run only the worker
that waits for its next item loses that time; the others go on working. So the share is an upper bound of the loss with one
worker. `--quick` takes the two smallest cases.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from solver.arc.submission import SubmissionFile
from solver.budget.costs import CostModel
from solver.budget.registry import make_policy
from solver.budget.rehearsal import MIXES
from solver.commands.rehearse import RehearseOptions, scene_of
from solver.commands.simulated_executor import SimulatedClock, SimulatedExecutor, Sketch
from solver.config import load_settings
from solver.report.observer import SilentObserver
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity
from solver.run.state import RunState
from solver.run.supervisor import Supervisor
from solver.types import Deadline

CASES = (("cpu", 12, 300.0), ("cpu", 60, 3600.0), ("kaggle-l4x4", 240, 43200.0), ("h200", 240, 43200.0))


class Timer:
    """Adds up the wall time of calls by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def of(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - began  # type: ignore[assignment]

        return timed


def measure(machine: str, tasks: int, budget: float, policy: str, faults: str, folder: Path) -> tuple[float, Timer, int]:
    """(seconds of the whole run, seconds by part, work items) of one run."""
    settings = load_settings(machine, None, [f"budget.policy={policy}"])
    scene = scene_of(RehearseOptions(machine, settings, tasks, budget, 1, mix=faults))
    timer, clock, dice = Timer(), SimulatedClock(), Random(0)
    executor = SimulatedExecutor(
        clock,
        scene.pace,
        {task.id: Sketch.of(task, dice) for task in scene.tasks},
        dice,
        scene.workers,
        scene.noise,
        MIXES[faults],
    )
    identity = Identity(scene.tasks.fingerprint, "none", 0, "default", {})
    planner = make_policy(settings, CostModel(settings, scene.prior))
    planner.next = timer.of("planning", planner.next)  # type: ignore[method-assign]
    items = 0
    with contextlib.closing(Ledger.open(folder / "run.db", identity, scene.tasks)) as ledger:
        for name in ("plan", "record", "event", "set_status", "timing"):
            setattr(ledger, name, timer.of("ledger", getattr(ledger, name)))
        run_state = RunState(scene.tasks, settings.select.rule)
        run_state.add = timer.of("selection", run_state.add)  # type: ignore[method-assign]
        publish = timer.of("submission", SubmissionFile(folder / "submission.json").write)
        supervisor = Supervisor(
            settings, list(scene.tasks), run_state, ledger, executor, planner, Deadline(budget, clock), publish, SilentObserver(),
            keep_adapters=True, poll=float("inf"),
        )  # fmt: skip
        simulated = Timer()
        for name in ("submit", "kill"):
            setattr(executor, name, simulated.of("simulation", getattr(executor, name)))
        began = time.perf_counter()
        supervisor.run()
        seconds = time.perf_counter() - began - simulated.seconds["simulation"]
        items = len(run_state.outcomes())
    return seconds, timer, items


def main() -> None:
    """Print one line of a Markdown table a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--faults", default="usual", choices=sorted(MIXES))
    parser.add_argument("--quick", action="store_true", help="the two smallest cases")
    arguments = parser.parse_args()
    print("| machine, tasks, budget | passes | planning | ledger | selection | submission | rest | of the budget |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for machine, tasks, budget in CASES[: 2 if arguments.quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            seconds, timer, passes = measure(machine, tasks, budget, arguments.policy, arguments.faults, Path(folder))
        parts = [timer.seconds[name] for name in ("planning", "ledger", "selection", "submission")]
        cells = " | ".join(f"{part:.2f} s" for part in (*parts, seconds - sum(parts)))
        share = seconds / budget
        print(f"| {machine}, {tasks}, {budget / 60:.0f} min | {passes} | {cells} | {share:.3%} |", flush=True)
        assert share < 0.01, f"supervision takes {share:.2%} of the budget"


if __name__ == "__main__":
    main()
