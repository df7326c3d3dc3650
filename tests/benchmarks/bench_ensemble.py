"""Which test inputs do the network, programs, and both together solve? From the ledgers of runs with known answers.

    python tests/benchmarks/bench_ensemble.py RUN... [--solutions arc1:evaluation]

The runs may be one of both engines, or runs of the network and of program search over the same tasks; candidates are pooled. Only
tasks that were searched count. One Markdown table counts test inputs that two attempts solve: of the network by the rule of its
run, of programs by the shipped ensemble, and of both by that. It also counts tasks with all of their test inputs solved. Another
table says how often candidates were right, by what the ensemble had promised.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from solver.arc.ensemble import shipped_ensemble
from solver.arc.grid import grid_key
from solver.commands.fit_ensemble import Stage, answers_of, stages_of
from solver.commands.select import read_run

BOUNDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 1.0)  # of the chances that are told apart


def print_solved(stages: list[Stage]) -> None:
    """The counts."""
    ensemble = shipped_ensemble()
    network = np.array([stage.by_network() for stage in stages])
    programs = np.array([stage.by_programs(ensemble) for stage in stages])
    chosen = np.array([stage.by_both(ensemble) for stage in stages])
    tasks = np.array([stage.task for stage in stages])
    count = len(set(tasks))
    print("| solved at two attempts | test inputs | share | tasks |\n| --- | --- | --- | --- |")
    rows = {
        "by the network": network,
        "by programs": programs,
        "by each of both": network & programs,
        "by either": network | programs,
        "by the two attempts of the ensemble": chosen,
    }
    for name, right in rows.items():
        solved = count - len(set(tasks[~right]))
        print(f"| {name} | {right.sum()} of {len(right)} | {right.mean():.1%} | {solved} of {count} |")


def print_chances(stages: list[Stage]) -> None:
    """How often grids were right, by their chance, where programs gave any."""
    ensemble = shipped_ensemble()
    pairs = np.array(
        [
            (one.chance, grid_key(one.grid) == stage.answer)
            for stage in stages
            if stage.tally.programs
            for one in ensemble.chances(stage.ranked, stage.tally)
        ]
    )
    print("\n| chance by the ensemble | grids | right |\n| --- | --- | --- |")
    for low, high in itertools.pairwise(BOUNDS):
        inside = pairs[(pairs[:, 0] >= low) & (pairs[:, 0] < high)]
        if len(inside):
            print(f"| {low:.0%} to {high:.0%} | {len(inside)} | {inside[:, 1].mean():.0%} |")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--solutions")
    given = parser.parse_args()
    runs = [read_run(folder) for folder in given.runs]
    stages = [stage for stage in stages_of(runs, answers_of(runs, given.solutions)) if stage.last and stage.searched]
    print_solved(stages)
    print_chances(stages)


if __name__ == "__main__":
    main()
