"""What a page of `solver report` about a run of 400 tasks weighs and costs.

python tests/benchmarks/bench_report.py [FOLDER]

The run is simulated: four workers, two processes that search for programs, twelve hours. With FOLDER its ledger and page are kept
there, to be opened in a browser.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated_run import simulated_run

from solver.commands.report import report

TASKS, BUDGET = 400, 12 * 3600.0


def measure(folder: Path) -> None:
    run, page = folder / "run", folder / "page.html"
    simulated_run(run, TASKS, BUDGET)
    with sqlite3.connect(run / "run.db") as db:
        passes, candidates = (db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("outcomes", "candidates"))
    began = time.process_time()
    report([run], None, page, lambda _: None)
    seconds = time.process_time() - began
    text = page.read_text(encoding="utf-8")
    elements = text.count("<") // 2
    print(f"{TASKS} tasks, {passes:,} passes, {candidates:,} candidates")
    print(f"{page.stat().st_size / 1e6:.2f} MB, {elements:,} elements")
    print(f"made in {seconds:.1f} s of CPU time")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(scratch))
