"""Program search in whole runs with real processes: what it leaves, faults, resumption, and runs without a network or torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import FAST, assert_valid, command, make_tasks, run_it, write_challenges, write_solutions

from solver.arc.datasets import TaskSet
from solver.arc.submission import load_submission
from solver.arc.task import Pair, Task
from solver.run.ledger import Ledger

TASKS = make_tasks(3)
HERE = Path(__file__).parents[1]


@pytest.fixture
def challenges(tmp_path: Path) -> Path:
    return write_challenges(tmp_path / "challenges.json", TASKS)


def run_both(folder: Path, challenges: Path, base: Path, faults: dict[str, Any], **spec: Any) -> subprocess.CompletedProcess[str]:
    """A run of the stand-in for the network and the stand-in for program search, which give the same answers."""
    (folder / "flags").mkdir(exist_ok=True)  # shared with the stand-in for the network
    programs = {**faults, "flags": str(folder / "flags")}
    return run_it(folder, {}, challenges=str(challenges), model=str(base), programs=programs, **spec)


def searched(folder: Path) -> list[str]:
    log = folder / "flags" / "searched.txt"
    return log.read_text().split() if log.exists() else []


def events(folder: Path) -> Counter[str]:
    return Counter(event.kind for event in Ledger.read(folder / "out" / "run.db").events())


def test_programs_go_into_the_ledger_the_summary_and_the_submission(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    done = run_both(tmp_path, challenges, tiny_base, {})
    assert done.returncode == 0, done.stderr + done.stdout
    assert_valid(tmp_path / "out", challenges)
    outcomes = Ledger.read(tmp_path / "out" / "run.db").program_outcomes()
    assert [outcome.task_id for outcome in outcomes] == ["task000", "task001", "task002"]
    for task, outcome in zip(TASKS, outcomes, strict=True):
        (candidate,) = outcome.answers[0]
        assert (candidate.grid == task.test[0].input).all()
        assert candidate.origin == "program"
        assert candidate.program is not None
        assert (candidate.program.text, candidate.program.cost, candidate.program.exact) == ("the input", 1.0, True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["programs_searched"], summary["programs_exact"]) == (3, 3)
    assert summary["phases"]["programs"]["used"] == pytest.approx(summary["programs_seconds"])
    assert [result["programs"] for result in summary["results"]] == [1, 1, 1]


def test_a_resumed_run_does_not_search_again(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    run_both(tmp_path, challenges, tiny_base, {})
    before = (tmp_path / "out" / "submission.json").read_bytes()
    again = run_both(tmp_path, challenges, tiny_base, {})
    assert again.returncode == 0
    assert sorted(searched(tmp_path)) == ["task000", "task001", "task002"]
    assert (tmp_path / "out" / "submission.json").read_bytes() == before


@pytest.mark.parametrize("fault", ["crash", "raise", "hang", "stop", "nonsense"])
def test_a_search_that_fails_costs_its_own_answers_alone(tmp_path: Path, challenges: Path, tiny_base: Path, fault: str) -> None:
    spec = {"program_grace": 0.5, "set": [*FAST, "programs.seconds=0.5"]}
    done = run_both(tmp_path, challenges, tiny_base, {"task000": fault}, **spec)
    assert done.returncode == 0, done.stderr + done.stdout
    assert_valid(tmp_path / "out", challenges)
    ledger = Ledger.read(tmp_path / "out" / "run.db")
    assert set(ledger.statuses().values()) == {"complete"}
    found = {outcome.task_id: outcome for outcome in ledger.program_outcomes()}
    assert [len(found[f"task00{i}"].answers[0]) for i in range(3)] == [fault == "nonsense", 1, 1]
    if fault == "nonsense":
        return
    assert found["task000"].status == "failed"
    assert events(tmp_path)["program search failed"] == 1
    assert searched(tmp_path).count("task000") == 1


def test_a_search_that_cannot_start_costs_nothing(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    done = run_both(tmp_path, challenges, tiny_base, {"*": "raise"})
    assert done.returncode == 0, done.stderr + done.stdout
    ledger = Ledger.read(tmp_path / "out" / "run.db")
    assert set(ledger.statuses().values()) == {"complete"}
    details = [event.detail for event in ledger.events() if event.kind == "program search"]
    assert details[0] == "a process did not start: it ended with exit code 1: ValueError: no good"
    assert "given up after 3 failed starts" in details[-1]


def test_a_hanging_search_does_not_outlive_the_budget(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"set": [*FAST, "programs.seconds=100"], "budget": 12.0}
    done = run_both(tmp_path, challenges, tiny_base, {"task000": "hang"}, **spec)
    assert done.returncode == 0, done.stderr + done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["seconds"] < 12.0  # the promise, not a measurement
    assert summary["reason"] == "the time is up"
    assert_valid(tmp_path / "out", challenges)
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}


def test_without_any_worker_programs_still_answer(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    programs = {"flags": str(tmp_path)}
    done = run_it(tmp_path, {"*": "raise"}, challenges=str(challenges), model=str(tiny_base), programs=programs)
    assert done.returncode == 1
    assert "no worker could be started" in done.stdout
    assert "only fallback answers" not in done.stdout
    submission = load_submission(tmp_path / "out" / "submission.json")
    assert all((submission[task.id][0][0] == task.test[0].input).all() for task in TASKS)


def test_a_run_of_programs_goes_on_with_the_network(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    alone = run_both(tmp_path, challenges, tiny_base, {}, set=[*FAST, "programs.enabled=true", "train.trainer=none"])
    assert alone.returncode == 0, alone.stderr + alone.stdout
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"waiting"}
    both = run_both(tmp_path, challenges, tiny_base, {})
    assert both.returncode == 0, both.stderr + both.stdout
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}
    assert sorted(searched(tmp_path)) == ["task000", "task001", "task002"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_search_ends_with_its_run(tmp_path: Path, challenges: Path, tiny_base: Path, number: signal.Signals) -> None:
    (tmp_path / "flags").mkdir()
    programs = {"task001": "hang", "flags": str(tmp_path / "flags")}
    settings = [*FAST, "programs.enabled=true", "train.trainer=none", "programs.seconds=100"]
    spec = {"challenges": str(challenges), "model": str(tiny_base), "programs": programs, "set": settings}
    process = subprocess.Popen(command(tmp_path, {}, spec), stdout=subprocess.PIPE, text=True)
    while "task001" not in searched(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=5) == (143 if number == signal.SIGTERM else -number)
    assert_valid(tmp_path / "out", challenges)
    for _ in range(100):
        left = [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if of_search(entry, tmp_path)]
        if not left:
            break
        time.sleep(0.1)
    assert not left
    done = run_both(tmp_path, challenges, tiny_base, {}, set=settings)
    assert done.returncode == 0, done.stderr + done.stdout
    assert Counter(searched(tmp_path)) == {"task000": 1, "task001": 2, "task002": 1}  # only what was in flight is searched again


def of_search(cmdline: Path, folder: Path) -> bool:
    try:
        return b"faulty_programs.py" in (text := cmdline.read_bytes()) and str(folder).encode() in text
    except OSError:
        return False


def turned_tasks() -> TaskSet:
    """Tasks that the real search solves: a mirror, and a quarter turn."""
    rng = np.random.default_rng(0)

    def task(id_: str, change: Any) -> Task:
        grids = [rng.integers(0, 10, (3, 4)).astype(np.uint8) for _ in range(4)]
        pairs = [Pair(grid, np.ascontiguousarray(change(grid))) for grid in grids]
        return Task(id_, tuple(pairs[:3]), tuple(pairs[3:]))

    return TaskSet("turned", (task("mirror", np.fliplr), task("turn", np.rot90)))


@pytest.mark.parametrize("chosen", [["--recipe", "programs"], ["--set", "train.trainer=none"]], ids=["recipe", "setting"])
def test_a_run_of_programs_alone_needs_no_torch(tmp_path: Path, chosen: list[str]) -> None:
    tasks = turned_tasks()
    challenges = write_challenges(tmp_path / "challenges.json", tasks)
    solutions = write_solutions(tmp_path / "solutions.json", tasks)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("torch", "transformers", "peft", "safetensors"):
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} must not be imported')")
    command = [sys.executable, "-m", "solver", "run", str(challenges), "--solutions", str(solutions), *chosen]
    command += ["--out", str(tmp_path / "out"), "--budget", "60s", "--set", "programs.processes=1", "--set", "programs.seconds=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(blocked), str(HERE.parent)])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scores"]["pass_at_1"]["solved"] == 2
    assert (summary["done"], summary["programs_searched"], summary["trainer"]) == (2, 2, "")
    assert "model" not in done.stdout
    assert_valid(tmp_path / "out", challenges)
