"""What the supervisor costs with thousands of workers and tasks: CPU milliseconds a pass, and the share of one core.

    python tests/benchmarks/bench_cluster.py [--workers 1000] [--tasks 100000] [--budget 1h] [--policy adaptive] [--passes 3000]

The real supervisor, policy, run state, ledger and submission serve simulated workers on nodes of two kinds on a simulated clock.
The run ends after `--passes` passes; the share is that of the time between the first and the last of them. What the simulation
itself takes is subtracted. Nodes are simulated, so messages arrive for free: `bench_ray.py` measures Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from solver.arc.submission import Submission, SubmissionFile
from solver.budget.costs import CostModel
from solver.budget.registry import make_policy
from solver.budget.rehearsal import MIXES
from solver.commands.rehearse import RehearseOptions, scene_of
from solver.commands.simulated_executor import SimulatedClock, SimulatedExecutor, Sketch
from solver.config import load_settings, parse_duration
from solver.messages import Ready
from solver.report.observer import SilentObserver
from solver.run.executors.base import WorkerLost, WorkResult
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity
from solver.run.state import RunState
from solver.run.supervisor import Supervisor
from solver.types import Deadline

PARTS = ("planning", "ledger", "selection", "submission")
BEAT = 5.0  # seconds between two signs of life of a worker in a cluster


class CpuTimer:
    """Adds up the CPU time of calls by name."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def of(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.process_time() - began  # type: ignore[assignment]

        return timed


class Nodes(SimulatedExecutor):
    """Simulated workers of which every third is four times slower, with heartbeats as seldom as those of a cluster."""

    def __init__(self, timer: CpuTimer, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._timer = timer
        self._beat_at = 0.0
        for number, worker in enumerate(self._workers):
            worker.slower *= 4.0 if number % 3 == 2 else 1.0

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """As in a rehearsal, timed, with the kind of the device."""
        began = time.process_time()
        found = list(super().results(timeout))
        beats = len(found) == len(self._workers)
        if beats and self._clock.now < self._beat_at:
            found = []
        elif beats:
            self._beat_at = self._clock.now + BEAT
        self._timer.seconds["simulation"] += time.process_time() - began  # type: ignore[assignment]
        for one in found:
            if isinstance(one, WorkResult) and isinstance(one.message, Ready):
                kind = "slow GPU" if one.worker % 3 == 2 else "fast GPU"
                one = WorkResult(one.worker, one.item, replace(one.message, facts=replace(one.message.facts, device=kind)))
            yield one


def measure(arguments: argparse.Namespace, folder: Path) -> str:
    """A row of the table."""
    budget = parse_duration(arguments.budget)
    settings = load_settings("h200", None, [f"budget.policy={arguments.policy}"])
    scene = scene_of(RehearseOptions("h200", settings, arguments.tasks, budget, 1, mix="none", model=arguments.model))
    timer, clock, dice = CpuTimer(), SimulatedClock(), Random(0)
    sketches = {task.id: Sketch.of(task, dice) for task in scene.tasks}
    executor = Nodes(timer, clock, scene.pace, sketches, dice, arguments.workers, scene.noise, MIXES["none"])
    executor.submit = timer.of("simulation", executor.submit)  # type: ignore[method-assign]
    policy = make_policy(settings, CostModel(settings, scene.prior))
    policy.next = timer.of("planning", policy.next)  # type: ignore[method-assign]
    began = time.process_time()
    identity = Identity(scene.tasks.fingerprint, "none", 0, "default", {})
    with contextlib.closing(Ledger.open(folder / "run.db", identity, scene.tasks)) as ledger:
        created = time.process_time() - began
        for name in ("plan", "record", "event", "set_status", "timing"):
            setattr(ledger, name, timer.of("ledger", getattr(ledger, name)))
        run_state = RunState(scene.tasks, settings.select.rule)
        run_state.add = timer.of("selection", run_state.add)  # type: ignore[method-assign]
        write = timer.of("submission", SubmissionFile(folder / "submission.json").write)

        def publish(submission: Submission) -> None:
            began = time.monotonic()
            write(submission)
            clock.now += time.monotonic() - began  # how often it is written goes by how long that takes

        marks: list[tuple[float, Counter[str], float, int]] = []  # CPU seconds, those by part, simulated seconds, passes
        passes = 0

        def enough() -> str | None:
            if passes and (not marks or passes >= arguments.passes):
                marks.append((time.process_time(), timer.seconds.copy(), clock.now, passes))
            return "enough" if len(marks) > 1 else None

        add = run_state.add

        def counted(outcome: Any) -> None:
            nonlocal passes
            add(outcome)
            passes += 1

        run_state.add = counted  # type: ignore[method-assign]
        supervisor = Supervisor(
            settings, list(scene.tasks), run_state, ledger, executor, policy, Deadline(budget, clock), publish, SilentObserver(),
            keep_adapters=True, interrupted=enough,
        )  # fmt: skip
        supervisor.run()
    (cpu0, before, at0, passes0), (cpu1, after, at1, passes1) = marks[0], marks[-1]
    used = {part: after[part] - before[part] for part in after}
    passes, cpu, seconds = passes1 - passes0, cpu1 - cpu0 - used["simulation"], at1 - at0
    cells = " | ".join(f"{1e3 * used.get(part, 0.0) / passes:.2f}" for part in PARTS)
    rest = 1e3 * (cpu - sum(used.get(part, 0.0) for part in PARTS)) / passes
    return (
        f"| {arguments.policy} | {arguments.budget} | {passes} | {passes / seconds:.1f} | {1e3 * cpu / passes:.2f} | {cells} | "
        f"{rest:.2f} | {cpu / seconds:.0%} | {created:.0f} s |"
    )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=3000)
    parser.add_argument("--budget", default="1h")
    parser.add_argument("--policy", default="adaptive")
    parser.add_argument("--model", type=Path, default=None)
    arguments = parser.parse_args()
    names = ("policy", "budget", "passes", "passes/s", "ms a pass", *PARTS, "rest", "of a core", "ledger made in")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    with tempfile.TemporaryDirectory() as folder:
        print(measure(arguments, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
