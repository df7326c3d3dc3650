"""Submissions: complete from the start, replaced whole or not at all, checked and scored."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arc_strategies import grids, tasks
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.datasets import BadTask, TaskSet, load_tasks
from solver.arc.grid import Grid
from solver.arc.jsonfile import compact_json, write_json
from solver.arc.submission import (
    Submission,
    SubmissionFile,
    defects,
    fallback_submission,
    load_submission,
    score,
    submission_json,
    two_attempts,
    write_submission,
)
from solver.arc.task import Pair, Task
from solver.errors import InputError


def cell(colour: int) -> Grid:
    return np.array([[colour]], dtype=np.uint8)


def small_set() -> TaskSet:
    demonstration = Pair(cell(1), cell(2))
    two = Task("two", (demonstration,), (Pair(cell(3), None), Pair(cell(4), None)))
    one = Task("one", (demonstration,), (Pair(cell(5), None),))
    return TaskSet("set", (two, one), {"bad": BadTask(2, "why")})


def test_the_fallback_of_all_public_tasks_is_complete_and_valid(tmp_path: Path) -> None:
    for name in ("arc1:evaluation", "arc2:evaluation"):
        found = load_tasks(name)
        write_submission(tmp_path / "submission.json", fallback_submission(found))
        assert defects(tmp_path / "submission.json", found) == []


def test_fallback_answers_bad_tasks_too(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.json", fallback_submission(small_set()))
    assert defects(tmp_path / "s.json", small_set()) == []
    assert json.loads((tmp_path / "s.json").read_text())["bad"] == [{"attempt_1": [[0]], "attempt_2": [[1]]}] * 2


@given(task=tasks(max_side=2), ranked=st.lists(grids(2), max_size=4), data=st.data())
def test_two_attempts_always_differ_and_candidates_come_first(task: Task, ranked: list[Grid], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(task.test) - 1))
    first, second = two_attempts(ranked, task, index)
    assert not np.array_equal(first, second)
    if ranked:
        assert np.array_equal(first, ranked[0])
    others = [grid for grid in ranked if not np.array_equal(grid, ranked[0])]
    if others:
        assert np.array_equal(second, others[0])


def test_fallback_guesses_by_hand() -> None:
    task = small_set().by_id["two"]
    assert [grid.tolist() for grid in two_attempts((), task, 1)] == [[[4]], [[2]]]
    assert [grid.tolist() for grid in two_attempts((cell(4),), task, 1)] == [[[4]], [[2]]]
    assert [grid.tolist() for grid in two_attempts((cell(9),), task, 1)] == [[[9]], [[4]]]
    assert [grid.tolist() for grid in two_attempts((), None, 0)] == [[[0]], [[1]]]


def test_round_trip(tmp_path: Path) -> None:
    submission: Submission = {"abc": ((cell(1), np.arange(6, dtype=np.uint8).reshape(2, 3)),)}
    write_submission(tmp_path / "s.json", submission)
    assert json.loads((tmp_path / "s.json").read_text()) == {"abc": [{"attempt_1": [[1]], "attempt_2": [[0, 1, 2], [3, 4, 5]]}]}
    back = load_submission(tmp_path / "s.json")
    assert all(np.array_equal(a, b) for a, b in zip(back["abc"][0], submission["abc"][0], strict=True))


def test_a_file_that_is_written_again_encodes_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[list[str]] = []

    def counted(value: dict[str, Any]) -> str:
        encoded.append(list(value))
        return compact_json(value)

    monkeypatch.setattr("solver.arc.submission.compact_json", counted)
    file, submission = SubmissionFile(tmp_path / "s.json"), fallback_submission(small_set())

    def written() -> list[list[str]]:
        encoded.clear()
        file.write(submission)
        assert (tmp_path / "s.json").read_text() == compact_json(submission_json(submission))
        return encoded

    assert written() == [["two"], ["one"], ["bad"]]
    submission["one"] = ((cell(7), cell(8)),)
    assert written() == [["one"]]
    assert written() == []
    del submission["two"]
    assert written() == []


# --- atomic replacement


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    write_json(path, {"old": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "s.json", {"new": float("nan")})
    assert json.loads((tmp_path / "s.json").read_text()) == {"old": 1}


def test_debris_of_a_killed_writer_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".s.json.tmp").write_text('{"half": ')
    write_json(tmp_path / "s.json", {"new": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


def test_others_may_read_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", {})
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "s.json").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write_json(tmp_path / "s.json", {})


# --- checking


GOOD = {"attempt_1": [[1]], "attempt_2": [[2]]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ["a submission must be an object of task ids, not a list"]),
        ({"one": [GOOD], "bad": [GOOD, GOOD]}, ["task two: is missing"]),
        ({"two": [GOOD], "one": [GOOD], "bad": [GOOD, GOOD]}, ["task two: has 1 entries for 2 test inputs"]),
        ({"two": [GOOD] * 2, "one": [GOOD], "bad": [GOOD] * 2, "x": []}, ["task x: is not among the challenges"]),
        ({"two": [GOOD] * 2, "one": GOOD, "bad": [GOOD] * 2}, ["task one: must be a list of attempts, not an object"]),
        (
            {"two": [GOOD, 3], "one": [GOOD], "bad": [GOOD] * 2},
            ["task two: test 1: must be an object with attempt_1 and attempt_2, not a number"],
        ),
        (
            {"two": [GOOD, {"attempt_1": [[10]], "attempt_3": 1}], "one": [GOOD], "bad": [GOOD] * 2},
            [
                "task two: test 1: attempt_1: cell (row 0, column 0) is 10, not an integer from 0 to 9",
                "task two: test 1: attempt_2 is missing",
                "task two: test 1: unknown key 'attempt_3'",
            ],
        ),
    ],
)
def test_every_defect_has_a_line(tmp_path: Path, value: Any, expected: list[str]) -> None:
    (tmp_path / "s.json").write_text(json.dumps(value))
    assert defects(tmp_path / "s.json", small_set()) == expected


def test_repeated_keys_are_defects(tmp_path: Path) -> None:
    entry = '{"attempt_1": [[1]], "attempt_2": [[1]], "attempt_1": [[2]]}'
    (tmp_path / "s.json").write_text(f'{{"one": [{entry}], "two": [], "one": [{entry}]}}')
    found = defects(tmp_path / "s.json", small_set())
    assert "task one: occurs more than once" in found
    assert "task one: test 0: attempt_1 occurs more than once" in found


def test_loading_names_the_first_flaw(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"abc": [{"attempt_1": [[1]]}]}')
    with pytest.raises(InputError, match=r"s.json: task abc: test 0: attempt_2 is missing"):
        load_submission(tmp_path / "s.json")
    with pytest.raises(InputError, match="No such file"):
        load_submission(tmp_path / "no.json")


# --- scoring


def test_scores_by_hand() -> None:
    solutions = {"a": [cell(1), cell(2)], "b": [cell(3)], "c": [cell(4), cell(5), cell(6)], "d": [cell(7)]}
    submission: Submission = {
        "a": ((cell(1), cell(9)), (cell(9), cell(2))),  # both, one of them at first attempt
        "b": ((cell(9), cell(8)),),  # none
        "c": ((cell(4), cell(4)), (cell(9), cell(9)), (cell(9), cell(8))),  # one of three
    }  # d is not answered
    assert score(submission, solutions) == {
        "per_prediction": {"solved": 3, "total": 7, "accuracy": 3 / 7},
        "per_task_strict": {"solved": 1, "total": 4, "accuracy": 1 / 4},
        "per_task_mean": {"solved": 1 + 1 / 3, "total": 4, "accuracy": (1 + 1 / 3) / 4},
        "pass_at_1": {"solved": 2, "total": 7, "accuracy": 2 / 7},
    }


def test_totals_of_arc_agi_1_evaluation() -> None:
    answers = load_tasks("arc1:evaluation").answers()
    right = {id_: tuple((grid, grid) for grid in grids if grid is not None) for id_, grids in answers.items()}
    found = score(right, answers)
    assert {name: (part["solved"], part["total"]) for name, part in found.items()} == {
        "per_prediction": (419, 419),
        "per_task_strict": (400, 400),
        "per_task_mean": (400, 400),
        "pass_at_1": (419, 419),
    }


def test_unknown_outputs_are_left_out() -> None:
    found = score({"a": ((cell(1), cell(2)), (cell(3), cell(4)))}, {"a": [cell(1), None], "b": [None]})
    assert found["per_prediction"] == {"solved": 1, "total": 1, "accuracy": 1.0}
    assert found["per_task_strict"]["total"] == 1


def test_nothing_to_score() -> None:
    assert score({}, {})["per_prediction"] == {"solved": 0, "total": 0, "accuracy": 0.0}


def test_a_submission_for_other_tasks_is_refused() -> None:
    with pytest.raises(InputError, match="task x: the submission answers it"):
        score({"x": ((cell(1), cell(2)),)}, {"a": [cell(1)]})
    with pytest.raises(InputError, match="task a: the submission has 1 entries, the solutions 2"):
        score({"a": ((cell(1), cell(2)),)}, {"a": [cell(1), cell(2)]})
