"""Compare budget policies on a record of held-out tasks: how many tasks would each policy have solved in a given time?

    python tests/benchmarks/bench_policies.py record OUT [--tasks 320] [--corpus FOLDER] [--tokens 500] [--waves 0,10,20,40]
    python tests/benchmarks/bench_policies.py replay OUT... [--tokens 500] [--budgets 0.1,0.25,0.5,1] [--seeds 100] [--workers 1]

`record` draws tasks of held-out families, procedural ones and those of corpora, and writes OUT/challenges.json and
OUT/solutions.json. Then `solver run` works on them under the policy `fixed`: it asks every task with the base model alone, fits
it for some steps, asks again, fits on, and so on. It can be interrupted; the same command goes on. The ledger of the run is the
record.

`replay` gives `uniform` and `adaptive` the same tasks, drawn anew from the record for every seed (a bootstrap over tasks).
Budgets are multiples of the time of one pass by the settings over all tasks. Passes take the seconds that the profile of `cpu`
predicts, with noise, because the machine of the record may have been busy. The policies do not know that profile; they learn
from pass to pass. It prints the mean difference of the shares solved, and the interval with 95 % of the differences over seeds.
Each half of the tasks is replayed with gains that were fitted on the other half (`--gains shipped`: with those of the package),
and the results are added.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from solver.budget.adaptive import AdaptivePolicy
from solver.budget.costs import CostModel, prior_of
from solver.budget.gains import Gains, fit, shipped_gains
from solver.budget.planner import UniformPolicy, full_plan
from solver.budget.prior import stored as stored_profiles
from solver.budget.replay import RecordedTask, evidence, replay
from solver.commands.record import read_record
from solver.config import Settings
from solver.experiments.tasks import LIKE_EVALUATION, draw_tasks, procedural, stored
from solver.types import TaskPlan


def record(given: argparse.Namespace) -> int:
    """Draw the tasks unless OUT has them, and run on them. Gives the exit code of the run."""
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    challenges, solutions = out / "challenges.json", out / "solutions.json"
    if not challenges.exists():
        rng = np.random.default_rng(given.seed)
        sources = [] if given.like_evaluation else [procedural(rng)]
        if given.corpus is not None:
            sources.append(stored(given.corpus, out, rng, families=LIKE_EVALUATION if given.like_evaluation else ".*"))
        tasks = draw_tasks(given.tasks, given.tokens, rng, sources)
        known = {task.id: [pair.output.tolist() for pair in task.test if pair.output is not None] for task in tasks}
        solutions.write_text(json.dumps(known))
        challenges.write_text(json.dumps({task.id: task.without_answers().to_json() for task in tasks}))
    command = [sys.executable, "-m", "solver", "run", str(challenges), "--solutions", str(solutions), "--out", str(out)]
    command += ["--scratch", str(out / "scratch"), "--budget", f"{given.minutes * 60:.0f}s", "--set", "budget.policy=fixed"]
    command += ["--set", "programs.enabled=false"]  # the record is of the network
    for override in (f"budget.fixed_waves=[{given.waves}]", *given.set):
        command += ["--set", override]
    return subprocess.run(command, check=False).returncode


def compare(tasks: list[RecordedTask], settings: Settings, gains: Gains, budget: float, seed: int, workers: int) -> list[float]:
    """On tasks drawn anew by `seed`: their number, those that `uniform` and `adaptive` solved, and their shares of the budget."""
    rng = np.random.default_rng(seed)
    drawn = [tasks[int(i)] for i in rng.integers(len(tasks), size=len(tasks))]
    uniform = replay(UniformPolicy(settings), drawn, budget, seed, workers)
    adaptive = replay(AdaptivePolicy(settings, CostModel(settings), gains), drawn, budget, seed, workers)
    return [len(drawn), uniform.solved, adaptive.solved, uniform.used, adaptive.used]


def retimed(task: RecordedTask, costs: CostModel) -> RecordedTask:
    """The same task with the seconds that a cost model predicts for its passes."""
    rungs = []
    for wave, rung in enumerate(task.rungs):
        plan = TaskPlan(rung.fitted, task.views, task.samples)
        rungs.append(replace(rung, seconds=costs.forecast(task.shape, plan, wave).median))
    return replace(task, rungs=tuple(rungs))


def pass_seconds(task: RecordedTask, settings: Settings) -> float:
    """Seconds of one pass by the settings, from the seconds of the task's own passes."""
    steps = sum(rung.fitted for rung in task.rungs)
    fitting = sum(rung.seconds.get("fit", 0.0) for rung in task.rungs) / max(1, steps)
    around = float(np.mean([sum(rung.seconds.values()) - rung.seconds.get("fit", 0.0) for rung in task.rungs]))
    return full_plan(settings).steps * fitting + around


def print_replay(folders: list[Path], tokens: int, budgets: list[float], seeds: int, workers: int, which: str) -> None:
    """Print a row for every budget."""
    records = [read_record(folder) for folder in folders]
    settings = records[0].settings
    settings = settings.model_copy(update={"budget": settings.budget.model_copy(update={"fixed_waves": ()})})
    most = max(len(task.rungs) for one in records for task in one.tasks)
    truth = CostModel(settings, prior_of(stored_profiles(), settings.model.quantization))
    whole = [task for one in records for task in one.tasks if len(task.rungs) == most and task.size <= tokens]
    tasks = [retimed(task, truth) for task in whole]
    halves = [tasks[0::2], tasks[1::2]]
    fitted = [shipped_gains()] * 2
    if which == "crossed":
        passes = [[one for task in half for one in evidence(task, settings, fitted[0].unfitted)] for half in halves]
        fitted = [fit(passes[other], "the other half", fitted[0].unfitted) for other in (1, 0)]
    solved = [float(np.mean([task.found(((rung, task.views),)).solved for task in tasks])) for rung in range(most)]
    steps = [rung.steps for rung in tasks[0].rungs]
    sizes = [task.size for task in tasks]
    print(f"{len(tasks)} tasks of {min(sizes)} to {max(sizes)} tokens, with {most} passes each; solved")
    print(", ".join(f"{share:.1%} after {after} steps" for share, after in zip(solved, steps, strict=True)))
    print(f"{seeds} seeds; {workers} workers; gains: {which}\n", flush=True)
    print("| budget | uniform | adaptive | difference | 95 % interval | used by each |\n| --- | --- | --- | --- | --- | --- |")
    for share in budgets:
        rows = []
        for seed in range(seeds):
            budget = [share * sum(pass_seconds(task, settings) for task in half) / workers for half in halves]
            compared = [compare(halves[i], settings, fitted[i], budget[i], seed, workers) for i in (0, 1)]
            count, uniform, adaptive, *used = np.sum(compared, axis=0)
            rows.append([uniform / count, adaptive / count, (adaptive - uniform) / count, *(one / 2 for one in used)])
            print(f"{share:g}: {seed + 1} of {seeds}", end="\r", file=sys.stderr, flush=True)
        low, high = np.quantile([row[2] for row in rows], [0.025, 0.975])
        uniform, adaptive, gained, used, planned = np.mean(rows, axis=0)
        print(
            f"| {share:g} x one pass | {uniform:.1%} | {adaptive:.1%} | {gained:+.1%} "
            f"| {low:+.1%} to {high:+.1%} | {used:.1%}, {planned:.1%} |",
            flush=True,
        )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("--tasks", type=int, default=320)
    recording.add_argument(
        "--tokens", type=int, default=500, help="largest number of tokens of a task; 500 give passes of a few seconds"
    )
    recording.add_argument("--corpus", type=Path, help="folder of corpora whose held-out families are asked, too")
    recording.add_argument("--waves", default="0,10,20,40", help="optimizer steps of each pass")
    recording.add_argument("--minutes", type=float, default=600)
    recording.add_argument(
        "--like-evaluation", action="store_true", help="only the families of corpora that are most like evaluation tasks"
    )
    recording.add_argument("--seed", type=int, default=0)
    recording.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in solver run")
    replaying = verbs.add_parser("replay")
    replaying.add_argument("out", type=Path, nargs="+")
    replaying.add_argument("--budgets", default="0.1,0.25,0.5,1", help="multiples of one pass over all tasks")
    replaying.add_argument("--seeds", type=int, default=100)
    replaying.add_argument(
        "--tokens", type=int, default=500, help="largest number of tokens of a task; runs record short tasks first"
    )
    replaying.add_argument("--workers", type=int, default=1)
    replaying.add_argument("--gains", choices=["crossed", "shipped"], default="crossed")
    given = parser.parse_args()
    if given.verb == "record":
        raise SystemExit(record(given))
    print_replay(
        given.out, given.tokens, [float(part) for part in given.budgets.split(",")], given.seeds, given.workers, given.gains
    )


if __name__ == "__main__":
    main()
