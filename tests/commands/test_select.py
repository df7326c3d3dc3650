"""Selecting again from ledgers: another rule, several runs, submissions of others, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import program_outcome

from solver.arc import selection
from solver.arc.datasets import BadTask, TaskSet
from solver.arc.ensemble import PRIOR, Ensemble
from solver.arc.submission import defects, load_submission
from solver.arc.task import Pair, Task
from solver.commands.select import reselect
from solver.config import Settings
from solver.errors import InputError
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity, RunFacts
from solver.types import Candidate, QueryOutcome, Score, TaskOutcome

VIEW, OTHER = "identity/0123456789/", "rot90/0123456789/"


def cell(colour: int) -> np.ndarray:
    return np.array([[colour]], dtype=np.uint8)


def task(id_: str, colour: int = 0) -> Task:
    return Task(id_, (Pair(cell(colour), cell(8)),), (Pair(cell(9), None),))


TASKS = TaskSet("made up", (task("a"), task("b")), {"c": BadTask(2, "ragged")}, ("a", "b", "c"))


def make_run(folder: Path, grids: dict[int, float], tasks: TaskSet = TASKS, rule: str = "flat_vote") -> Path:
    """A ledger in which task a has one candidate for each colour, low ones more probable, scored with its nll under one view."""
    folder.mkdir()
    settings = Settings.model_validate({"select": {"rule": rule}})
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "model", 0, "default", {}), tasks)
    ledger.set_facts(RunFacts(all_settings=settings.model_dump(mode="json")))
    candidates = tuple(Candidate(cell(colour), VIEW, -colour, "greedy", "r1i1t0") for colour in grids)
    scores = tuple(Score(cell(colour), OTHER, nll, 2, "r1i1t0") for colour, nll in grids.items())
    ledger.record(TaskOutcome("a", 0, "complete", None, (QueryOutcome(0, candidates, scores),)))
    ledger.close()
    return folder


def attempts(path: Path, id_: str = "a") -> list[int]:
    return [int(grid[0, 0]) for grid in load_submission(path)[id_][0]]


def submission(path: Path, **answers: Any) -> Path:
    """Two cells for every test input of every task."""
    path.parent.mkdir(exist_ok=True)
    entries = {id_: [{"attempt_1": [[one]], "attempt_2": [[two]]} for one, two in pairs] for id_, pairs in answers.items()}
    path.write_text(json.dumps(entries), encoding="utf-8-sig")
    return path


def test_one_run_with_its_own_and_with_another_rule(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 5.0, 2: 1.0})
    line = reselect([run], None, tmp_path / "own.json")
    assert "flat_vote" in line
    assert attempts(tmp_path / "own.json") == [1, 2]  # one vote each: the more probable first
    reselect([run], "product_of_experts", tmp_path / "other.json")
    assert attempts(tmp_path / "other.json") == [2, 1]


def test_votes_pool_over_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "x", {1: 5.0, 2: 1.0}), make_run(tmp_path / "y", {1: 6.0, 3: 2.0})]
    reselect(runs, None, tmp_path / "out.json")
    assert attempts(tmp_path / "out.json") == [1, 2]


def test_runs_of_other_tasks_are_put_beside_each_other(tmp_path: Path) -> None:
    first, second = TaskSet("one", (task("b"), task("a"))), TaskSet("two", (task("d"), task("a"), task("e")))
    runs = [make_run(tmp_path / "x", {1: 5.0}, first), make_run(tmp_path / "y", {1: 6.0, 3: 2.0}, second)]
    reselect(runs, None, tmp_path / "out.json")
    assert list(load_submission(tmp_path / "out.json")) == ["b", "a", "d", "e"]
    assert attempts(tmp_path / "out.json") == [1, 3]  # of both runs
    assert attempts(tmp_path / "out.json", "e") == [9, 8]  # the fallback


def test_submissions_of_others_are_merged_with_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 1.0, 2: 2.0})
    theirs = submission(tmp_path / "theirs" / "submission.json", a=[(3, 1)], c=[(4, 5), (6, 7)], z=[(1, 2)])
    line = reselect([run, theirs.parent], None, tmp_path / "out.json")
    assert "flat_vote" in line
    assert f"merged with {theirs}" in line
    # 1 is the first attempt of one and the second of the other
    assert attempts(tmp_path / "out.json") == [1, 3]
    assert list(load_submission(tmp_path / "out.json")) == ["a", "b", "c", "z"]
    assert [attempts(tmp_path / "out.json", id_) for id_ in ("b", "c", "z")] == [[9, 8], [4, 5], [1, 2]]


def test_submissions_alone_are_merged_by_their_ranks(tmp_path: Path) -> None:
    files = [submission(tmp_path / f"{n}.json", a=[pair]) for n, pair in enumerate([(1, 2), (3, 4), (4, 3)])]
    reselect(files, None, tmp_path / "out.json")
    assert attempts(tmp_path / "out.json") == [3, 4]
    reselect(files[:2], None, tmp_path / "out.json")
    assert attempts(tmp_path / "out.json") == [1, 3]  # of equal worth: the first of each


def test_runs_with_equal_adapter_ids_are_different_experts(tmp_path: Path) -> None:
    # alone, each run prefers its own; summed over both, colour 2 has nll 1 + 4 and colour 1 has 3 + 3
    runs = [make_run(tmp_path / "x", {1: 3.0, 2: 1.0}), make_run(tmp_path / "y", {1: 3.0, 2: 4.0})]
    reselect(runs, "product_of_experts", tmp_path / "out.json")
    assert attempts(tmp_path / "out.json") == [2, 1]


def add_programs(folder: Path, colour: int, tasks: TaskSet = TASKS, exact: bool = True) -> Path:
    """The run of `make_run`, with a program for task a; a run of programs alone if there was none."""
    if not folder.exists():
        make_run(folder, {}, tasks)
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "model", 0, "default", {}), tasks)
    ledger.record_programs(program_outcome("a", cell(colour), exact=exact))
    ledger.close()
    return folder


def test_runs_of_programs_and_of_the_network_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "shipped_ensemble", lambda: Ensemble(PRIOR))
    network, programs = make_run(tmp_path / "network", {1: 5.0, 2: 1.0}), add_programs(tmp_path / "programs", 3)
    inexact = add_programs(tmp_path / "inexact", 4, exact=False)
    for sources in ([network, programs], [programs, network]):
        reselect(sources, "flat_vote", tmp_path / "out.json")
        assert attempts(tmp_path / "out.json") == [3, 1]  # one vote each: an exact program is more likely right
    reselect([network, inexact], "flat_vote", tmp_path / "out.json")
    assert attempts(tmp_path / "out.json") == [1, 2]
    reselect([programs], None, tmp_path / "out.json")
    assert attempts(tmp_path / "out.json")[0] == 3
    assert defects(tmp_path / "out.json", TASKS) == []
    add_programs(network, 3)
    reselect([network], None, tmp_path / "out.json")
    assert attempts(tmp_path / "out.json") == [3, 1]


def test_the_file_is_complete_with_bad_and_unsolved_tasks(tmp_path: Path) -> None:
    reselect([make_run(tmp_path / "run", {1: 1.0})], None, tmp_path / "out.json")
    assert defects(tmp_path / "out.json", TASKS) == []


def test_other_tasks_and_missing_ledgers_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 1.0})
    other = make_run(tmp_path / "other", {1: 1.0}, TaskSet("else", (task("a", 3),)))
    with pytest.raises(InputError, match=r"other: task a: differs from the task of this id in .*run$"):
        reselect([run, other], None, tmp_path / "out.json")
    with pytest.raises(InputError, match=r"two.json: task a: has 2 entries, another source has 1 test inputs"):
        reselect([run, submission(tmp_path / "two.json", a=[(1, 2), (1, 2)])], None, tmp_path / "out.json")
    (tmp_path / "bad.json").write_text('{"a": [{"attempt_1": [[1]]}]}')
    with pytest.raises(InputError, match=r"bad.json: task a: test 0: attempt_2 is missing"):
        reselect([run, tmp_path / "bad.json"], None, tmp_path / "out.json")
    with pytest.raises(InputError, match=r"none.run\.db"):
        reselect([tmp_path / "none"], None, tmp_path / "out.json")
    with pytest.raises(InputError, match=r"dice"):
        reselect([run], "dice", tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_run_that_ended_before_it_began_is_refused(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "run.db", Identity(TASKS.fingerprint, "model", 0, "default", {}), TASKS).close()
    with pytest.raises(InputError, match="before any work began"):
        reselect([tmp_path], None, tmp_path / "submission.json")


def test_an_unwritable_target_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 1.0})
    with pytest.raises(InputError, match=r"missing.out\.json"):
        reselect([run], None, tmp_path / "missing" / "out.json")
