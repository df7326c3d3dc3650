"""What a profile that is wrong by a factor of ten costs a run, on a simulated clock.

    python tests/benchmarks/bench_profile_errors.py [--seeds 3]

For every case it prints the expected solved tasks of runs with the true profile, and the largest share of them that is lost if
one phase, or all, are taken to cost a tenth or ten times of what they do. See `tests/budget/regret.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "budget"))

from regret import FACTORS, Case, regrets, worth

CASES = (
    Case("h200", 100, 60.0),
    Case("h200", 100, 60.0, measured=False),
    Case("h200", 100, 60.0, by_path=True),
    Case("h200", 100, 60.0, by_path=True, measured=False),
    Case("cpu", 60, 120.0),
    Case("cpu", 60, 120.0, measured=False),
    Case("cpu", 60, 300.0, by_path=True),
    Case("kaggle-l4x4", 120, 1800.0, by_path=True),
)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind, whose mean is taken")
    seeds = parser.parse_args().seeds
    print("| machine, tasks, budget | gains of | profile | expected solved | " + " | ".join(f"x {f:g}" for f in FACTORS) + " |")
    print("| --- | --- | --- | ---: |" + " --- |" * len(FACTORS))
    for case in CASES:
        scene = case.scene()
        truth = worth(scene, seeds)
        found = list(regrets(scene, seeds, truth))
        worst = [max((regret, name) for name, factor, regret in found if factor == wanted) for wanted in FACTORS]
        cells = " | ".join(f"{regret:+.1%} ({name})" for regret, name in worst)
        what = f"{case.machine}, {case.tasks}, {case.budget:.0f} s"
        whose = "models by path" if case.by_path else "models that ship"
        print(f"| {what} | {whose} | {'measured' if case.measured else 'estimate'} | {truth:.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
