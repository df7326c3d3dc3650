"""Candidates of ledgers as samples, and the rule verifier, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from solver.arc.datasets import TaskSet
from solver.arc.submission import load_submission
from solver.arc.task import Pair, Task
from solver.cli import app
from solver.config import Settings
from solver.model.folder import folder_identity
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity, RunFacts
from solver.types import Candidate, QueryOutcome, TaskOutcome
from solver.verify.samples import read_samples


def cell(colour: int) -> np.ndarray:
    return np.array([[colour]], dtype=np.uint8)


TASKS = TaskSet("made", tuple(Task(f"t{n}", (Pair(cell(n), cell(9)),), (Pair(cell(n), None),)) for n in range(4)))


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every task has two votes for a wrong low colour and one for colour 9, which is right."""
    folder = tmp_path_factory.mktemp("run") / "run"
    folder.mkdir()
    ledger = Ledger.open(folder / "run.db", Identity(TASKS.fingerprint, folder_identity(tiny_base), 0, "default", {}), TASKS)
    ledger.set_facts(RunFacts(all_settings=Settings.model_validate({"select": {"rule": "flat_vote"}}).model_dump(mode="json")))
    for number, task in enumerate(TASKS.tasks):
        colours = (number, number, 9)
        views = ("identity", "rot90", "rot180")
        found = tuple(
            Candidate(cell(colour), f"{view}/0123456789/", -1.0, "greedy", "")
            for colour, view in zip(colours, views, strict=True)
        )
        ledger.record(TaskOutcome(task.id, 0, "complete", None, (QueryOutcome(0, found, ()),)))
    ledger.close()
    (folder / "solutions.json").write_text(json.dumps({task.id: [[[9]]] for task in TASKS.tasks}))
    return folder


def solver(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def verifier(run: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grids")
    solutions = run / "solutions.json"
    options = ("--solutions", solutions, "--out", folder / "grids.jsonl", "--model", tiny_base, "--views", "2")
    code, out, _ = solver("verify", "grids", run, *options)
    assert (code, "16 samples of 4 test inputs under 2 views, 8 right" in out) == (0, True)
    samples = read_samples(folder / "grids.jsonl", folder_identity(tiny_base))
    assert [(one.answer, one.correct) for one in samples.by_problem()["t1/0/rot90"]] == [("1", False), ("9", True)]
    options = ("--generator", tiny_base, "--out", folder / "verifier", "--lr", "1e-2", "--epochs", "40", "--batch", "8")
    assert solver("verify", "train", folder / "grids.jsonl", *options)[0] == 0
    return folder / "verifier"


def test_the_rule_finds_what_votes_miss(run: Path, verifier: Path, tmp_path: Path) -> None:
    assert solver("select", run, "--out", tmp_path / "votes.json")[0] == 0
    assert solver("select", run, "--rule", "verifier", "--verifier", verifier, "--out", tmp_path / "verifier.json")[0] == 0
    first = [
        [int(load_submission(tmp_path / name)[f"t{n}"][0][0][0, 0]) for n in range(4)] for name in ("votes.json", "verifier.json")
    ]
    assert first == [[0, 1, 2, 3], [9, 9, 9, 9]]


def test_rules_are_compared_with_n_and_p(run: Path, verifier: Path) -> None:
    code, out, _ = solver("verify", "rules", run, "--solutions", run / "solutions.json", "--verifier", verifier, "--views", "2")
    assert code == 0
    assert "4 test inputs, 4 with more than one candidate" in out
    assert "first attempt, flat_vote: 0 of 4" in out
    assert "verifier against it: +100.0 points (+100.0 to +100.0), 4 better, 0 worse, p = 0.12, n = 4" in out
    assert "first attempt, verifier: 4 of 4" in out
    assert "either attempt, flat_vote: 4 of 4" in out


def test_bad_input_is_refused_in_one_line(run: Path, verifier: Path, plain_base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in verifier.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    facts = json.loads((other / "verifier.json").read_text())
    (other / "verifier.json").write_text(json.dumps(facts | {"generator": "0123456789abcdef"}))
    none = tmp_path / "none.json"
    none.write_text(json.dumps({"other": [[[1]]]}))
    grids = ("verify", "grids", run, "--solutions", run / "solutions.json", "--out", tmp_path / "grids.jsonl")
    for arguments, message in (
        (("select", run, "--rule", "verifier", "--out", tmp_path / "s.json"), "go together"),
        (("select", run, "--verifier", verifier, "--out", tmp_path / "s.json"), "go together"),
        (("select", run, "--rule", "verifier", "--verifier", other, "--out", tmp_path / "s.json"), "of another generator"),
        (("select", run, "--rule", "verifier", "--verifier", run, "--out", tmp_path / "s.json"), "not a verifier"),
        ((*grids, "--model", plain_base), "samples of another model"),
        (("verify", "rules", run, "--solutions", none, "--verifier", verifier), "answers no test input"),
    ):
        code, _, error = solver(*arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert message in error
