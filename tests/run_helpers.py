"""Small tasks, whole runs as child processes, and a place for their temporary files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solver.arc.datasets import TaskSet, load_tasks
from solver.arc.submission import defects, load_submission
from solver.arc.task import Pair, Task
from solver.run.ledger import Ledger
from solver.types import AdapterRef, Candidate, Fit, Program, ProgramOutcome, QueryOutcome, Score, Status, TaskOutcome

HERE = Path(__file__).parent
FAULTY_WORKER = HERE / "faulty_worker.py"
# Of the policies the one whose plans say nothing of tasks as such: small made ones are like no real ones.
FAST = [
    "budget.policy=uniform",
    "train.steps=2",
    "budget.reserve=1",
    "budget.floor=0.5",
    'infer.views.transforms=["identity","rot90"]',
    "data.max_sequences=4",
    "programs.enabled=false",
]


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where child processes put temporary files: adapters of runs that are killed stay behind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


def grid(seed: int, rows: int = 2, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 10, (rows, columns)).astype(np.uint8)


def make_task(id_: str, seed: int = 0, tests: int = 1, side: int = 2) -> Task:
    def one(number: int) -> np.ndarray:
        return grid(1000 * seed + number, side, side + 1)

    train = tuple(Pair(one(2 * i), one(2 * i + 1)) for i in range(3))
    return Task(id_, train, tuple(Pair(one(100 + i), one(100 + i)) for i in range(tests)))


def make_tasks(count: int, tests: int = 1) -> TaskSet:
    return TaskSet("made", tuple(make_task(f"task{i:03}", i, tests, side=2 + i % 3) for i in range(count)))


def outcome(
    id_: str,
    wave: int = 0,
    status: Status = "complete",
    grids: tuple[np.ndarray, ...] = (),
    nlls: tuple[float, ...] = (),
    path: Path | None = None,
    views: int = 0,
) -> TaskOutcome:
    adapter = f"a-{id_}-{wave}"
    ref = AdapterRef(adapter, path or Path("/nowhere") / adapter, "full")
    candidates = tuple(
        Candidate(g, f"{view}/0123456789/", -1.5 - i, "greedy", adapter)
        for i, (g, view) in enumerate(zip(grids, ("identity", "rot90", "rot180", "transpose"), strict=False))
    )
    scores = tuple(Score(g, "identity/0123456789/", nll, 7, adapter) for g, nll in zip(grids, nlls, strict=False))
    fit = Fit(adapter, "complete", "steps", ref, 5, 700, 1.25, 2.0, float("nan"))
    return TaskOutcome(
        id_,
        wave,
        status,
        fit,
        (QueryOutcome(0, candidates, scores, views),),
        {"fit": 1.25, "infer": 0.5},
        {"fit": 2.0},
        {"trained": 700, "new": 30},
        (("note", "something"),),
    )


def program_outcome(id_: str, *grids: np.ndarray, text: str = "turn > mirror", exact: bool = True) -> ProgramOutcome:
    """A program search for a task of one test input: the first program is exact or not, the others are not."""
    programs = [Program(f"{text} {place}", 3.0 + place, exact and not place, 0.75) for place in range(len(grids))]
    answers = tuple(Candidate.of_program(grid, program) for grid, program in zip(grids, programs, strict=True))
    return ProgramOutcome(id_, "complete", (answers,), 1.5, 5.0)


def write_challenges(path: Path, tasks: TaskSet) -> Path:
    path.write_text(json.dumps({task.id: task.without_answers().to_json() for task in tasks}))
    return path


def write_solutions(path: Path, tasks: TaskSet) -> Path:
    answers = {task.id: [pair.output.tolist() for pair in task.test if pair.output is not None] for task in tasks}
    path.write_text(json.dumps(answers))
    return path


def command(folder: Path, faults: dict[str, Any], spec: dict[str, Any]) -> list[str]:
    flags = folder / "flags"
    flags.mkdir(exist_ok=True)
    spec = {"out": str(folder / "out"), "set": FAST, **spec}
    return [sys.executable, str(HERE / "run_process.py"), json.dumps({**faults, "flags": str(flags)}), json.dumps(spec)]


def run_it(folder: Path, faults: dict[str, Any], **spec: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, faults, spec), capture_output=True, text=True, timeout=300)


def worked(folder: Path) -> list[str]:
    """Every time a worker took up a task: "id wave halvings"."""
    log = folder / "flags" / "worked.txt"
    return log.read_text().splitlines() if log.exists() else []


def assert_valid(out: Path, challenges: Path) -> None:
    assert defects(out / "submission.json", load_tasks(challenges)) == []
    load_submission(out / "submission.json")


def assert_worked(ledger: Ledger, steps: int) -> None:
    """Every task is complete, after fits of so many steps, with candidates and scores."""
    assert set(ledger.statuses().values()) == {"complete"}
    for outcome in ledger.outcomes():
        assert outcome.fit is not None
        assert outcome.fit.steps == steps
        assert outcome.queries[0].candidates
        assert outcome.queries[0].scores
