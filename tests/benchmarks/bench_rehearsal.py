"""Rehearse all machines, budgets and policies under every fault mix in turn: count failures and measure the time that was used.

    nice python tests/benchmarks/bench_rehearsal.py [--runs 10000] [--tasks 60] [--processes 1] [--seed 0]
        [--budgets 60s,5m,1h,12h] [--machines NAME,...] [--policies NAME,...]

The same arguments give the same runs. Shorter budgets get more of the runs (`WEIGHTS`): they have the least slack, and take less
time to simulate. Utilisation is that of `solver.budget.rehearsal.summarise`: work as a share of the worker time that loading and
faults left, the reserve included, in runs with work left at the end. Fails if a run was late or a submission invalid.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from typing import Any

from solver.commands.rehearse import RehearseOptions, rehearse
from solver.config import load_settings, parse_duration

MACHINES = "kaggle-t4x2,kaggle-l4x4,h200,cpu"
BUDGETS = "60s,5m,1h,12h"
POLICIES = "uniform,adaptive,fixed"
WEIGHTS = ((60.0, 8), (300.0, 6), (3600.0, 3), (float("inf"), 1))  # of budgets up to so many seconds
HEADINGS = ("machine", "budget", "policy", "runs", "late", "invalid", "work left", "utilisation", "least", "loading", "seconds")


def weight(budget: str) -> int:
    """The relative number of runs of a budget."""
    seconds = parse_duration(budget)
    return next(share for most, share in WEIGHTS if seconds <= most)


def row(machine: str, budget: str, policy: str, report: dict[str, Any], seconds: float) -> str:
    """One line of the table."""
    shares = ("-" if report[key] is None else f"{report[key]:.1%}" for key in ("utilisation", "utilisation_least", "loading"))
    counts = (report[key] for key in ("runs", "deadline_misses", "invalid_submissions", "runs_with_work_left"))
    return f"| {machine} | {budget} | {policy} | {' | '.join(map(str, counts))} | {' | '.join(shares)} | {seconds:.0f} |"


def main() -> None:
    """Rehearse cell by cell; rows are printed as they are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="in all")
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machines", default=MACHINES)
    parser.add_argument("--budgets", default=BUDGETS)
    parser.add_argument("--policies", default=POLICIES)
    arguments = parser.parse_args()
    machines, budgets, policies = (value.split(",") for value in (arguments.machines, arguments.budgets, arguments.policies))
    each = arguments.runs / (len(machines) * len(policies) * sum(map(weight, budgets)))
    runs = late = invalid = 0
    began = time.perf_counter()
    print(f"| {' | '.join(HEADINGS)} |\n| --- | --- | --- |{' ---: |' * (len(HEADINGS) - 3)}", flush=True)
    for budget, machine, policy in product(budgets, machines, policies):
        start = time.perf_counter()
        options = RehearseOptions(
            machine,
            load_settings(machine, None, [f"budget.policy={policy}"]),
            arguments.tasks,
            parse_duration(budget),
            max(1, -int(-each * weight(budget) // 1)),
            arguments.seed,
            processes=arguments.processes,
        )
        report = rehearse(options)
        print(row(machine, budget, policy, report, time.perf_counter() - start), flush=True)
        if report["first_bad_seed"] is not None:
            print(f"{machine} {budget} {policy}: run {report['first_bad_seed']} went wrong", file=sys.stderr)
        runs += report["runs"]
        late += report["deadline_misses"]
        invalid += report["invalid_submissions"]
    print(f"\n{runs:,} runs, {late} late, {invalid} invalid, {time.perf_counter() - began:.0f} s")
    if late or invalid:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
