"""Submissions: makes, writes, reads, checks and scores files with two attempts for every test input.

The file's form is `{id: [{"attempt_1": grid, "attempt_2": grid}, ...]}`, one entry per test input in order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from solver.arc.datasets import TaskSet
from solver.arc.grid import Grid, GridError, grid_json, grid_key, parse_grid
from solver.arc.jsonfile import RepeatedKeys, compact_json, kind, read_json, replace_file
from solver.arc.task import Task
from solver.errors import InputError

ATTEMPTS = ("attempt_1", "attempt_2")

Attempts = tuple[Grid, Grid]
Submission = dict[str, tuple[Attempts, ...]]  # task id -> two attempts per test input

_LAST_RESORT = (np.zeros((1, 1), dtype=np.uint8), np.ones((1, 1), dtype=np.uint8))


def two_attempts(ranked: Sequence[Grid], task: Task | None, index: int) -> Attempts:
    """The best two grids of `ranked`, completed by fallback guesses for test input `index`. The two always differ.

    The guesses are, in this order, the test input itself, the outputs of the demonstrations, and single cells. `task` is None if
    it could not be read.
    """
    guesses = [] if task is None else [task.test[index].input, *(pair.output for pair in task.train if pair.output is not None)]
    distinct = {grid_key(grid): grid for grid in (*ranked, *guesses, *_LAST_RESORT)}
    first, second, *_ = distinct.values()
    return first, second


def fallback_submission(tasks: TaskSet) -> Submission:
    """A valid answer for every test input of every task, good or bad, without any model."""
    return {
        id_: tuple(two_attempts((), tasks.by_id.get(id_), index) for index in range(count))
        for id_, count in tasks.test_counts.items()
    }


def submission_json(submission: Submission) -> dict[str, list[dict[str, Any]]]:
    """The submission in the form of its file."""
    return {
        id_: [dict(zip(ATTEMPTS, map(grid_json, attempts), strict=True)) for attempts in entries]
        for id_, entries in submission.items()
    }


def write_submission(path: Path, submission: Submission) -> None:
    """Replace the file at `path` atomically. Raises OSError with the old file untouched."""
    SubmissionFile(path).write(submission)


class SubmissionFile:
    """A file that a submission is written to again and again. Only answers that are new since the last write are encoded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoded: dict[str, tuple[tuple[Attempts, ...], str]] = {}  # the answers to each task, and their JSON

    def write(self, submission: Submission) -> None:
        """Replace the file atomically. Raises OSError with the old file untouched."""
        for id_, entries in submission.items():
            if id_ not in self._encoded or self._encoded[id_][0] is not entries:
                self._encoded[id_] = entries, compact_json(submission_json({id_: entries}))[1:-1]
        replace_file(self._path, f"{{{','.join(self._encoded[id_][1] for id_ in submission)}}}".encode())


def load_submission(path: Path) -> Submission:
    """A submission from its file. Raises InputError naming the first flaw of its form."""
    value = read_json(path, "submission")
    for flaw in _flaws(value):
        raise InputError(f"{path}: {flaw}")
    return {
        id_: tuple((parse_grid(entry[ATTEMPTS[0]]), parse_grid(entry[ATTEMPTS[1]])) for entry in entries)
        for id_, entries in value.items()
    }


def defects(path: Path, tasks: TaskSet) -> list[str]:
    """Every flaw of a submission file for these challenges, one line each; empty: it is complete and valid.

    Raises InputError if the file cannot be read or is not JSON.
    """
    value = read_json(path, "submission")
    flaws = _flaws(value)
    if not isinstance(value, dict):
        return flaws
    for id_, count in tasks.test_counts.items():
        if id_ not in value:
            flaws.append(f"task {id_}: is missing")
        elif isinstance(value[id_], list) and len(value[id_]) != count:
            flaws.append(f"task {id_}: has {len(value[id_])} entries for {count} test inputs")
    flaws += [f"task {id_}: is not among the challenges" for id_ in value if id_ not in tasks.test_counts]
    return flaws


def score(submission: Submission, solutions: Mapping[str, Sequence[Grid | None]]) -> dict[str, dict[str, float]]:
    """Four accuracies, each `{"solved", "total", "accuracy"}`; a test input counts as solved if either attempt equals its output.

    - per_prediction: solved test inputs of all test inputs (ARC-AGI-1 evaluation: 419).
    - per_task_strict: tasks with all test inputs solved, of all tasks (400).
    - per_task_mean: the sum over tasks of the share of their test inputs solved (of 400); the ARC Prize's own score.
    - pass_at_1: as per_prediction, by the first attempt alone (419).

    Unanswered tasks count as unsolved, unknown outputs (None) are left out. Raises InputError if the submission answers
    a task that has no solutions, or with another number of test inputs.
    """
    for id_, entries in submission.items():
        if id_ not in solutions:
            raise InputError(f"task {id_}: the submission answers it, but there are no solutions for it")
        if len(entries) != len(solutions[id_]):
            raise InputError(f"task {id_}: the submission has {len(entries)} entries, the solutions {len(solutions[id_])}")
    firsts = solved = outputs = 0
    shares = []
    for id_, answers in solutions.items():
        hits = [_hits(submission, id_, index, answer) for index, answer in enumerate(answers) if answer is not None]
        if not hits:
            continue
        outputs += len(hits)
        firsts += sum(first for first, _ in hits)
        solved += sum(either for _, either in hits)
        shares.append(sum(either for _, either in hits) / len(hits))
    return {
        "per_prediction": _ratio(solved, outputs),
        "per_task_strict": _ratio(sum(share == 1 for share in shares), len(shares)),
        "per_task_mean": _ratio(math.fsum(shares), len(shares)),
        "pass_at_1": _ratio(firsts, outputs),
    }


def _hits(submission: Submission, id_: str, index: int, answer: Grid) -> tuple[bool, bool]:
    """Whether the first attempt is right, and whether either is."""
    if id_ not in submission:
        return False, False
    right = [np.array_equal(attempt, answer) for attempt in submission[id_][index]]
    return right[0], any(right)


def _ratio(solved: float, total: int) -> dict[str, float]:
    return {"solved": solved, "total": total, "accuracy": solved / total if total else 0.0}


def _flaws(value: Any) -> list[str]:
    """Every flaw in the form of a parsed submission, without regard to the challenges."""
    if not isinstance(value, dict):
        return [f"a submission must be an object of task ids, not {kind(value)}"]
    flaws = [f"task {id_}: occurs more than once" for id_ in sorted(value.repeated)] if isinstance(value, RepeatedKeys) else []
    for id_, entries in value.items():
        if not isinstance(entries, list):
            flaws.append(f"task {id_}: must be a list of attempts, not {kind(entries)}")
            continue
        for index, entry in enumerate(entries):
            flaws += [f"task {id_}: test {index}: {flaw}" for flaw in entry_flaws(entry)]
    return flaws


def entry_flaws(entry: Any) -> list[str]:
    """Every flaw in one entry (of one test input) of a parsed submission, one line each."""
    if not isinstance(entry, dict):
        return [f"must be an object with {ATTEMPTS[0]} and {ATTEMPTS[1]}, not {kind(entry)}"]
    flaws = [f"{key} occurs more than once" for key in sorted(entry.repeated)] if isinstance(entry, RepeatedKeys) else []
    for name in ATTEMPTS:
        if name not in entry:
            flaws.append(f"{name} is missing")
            continue
        try:
            parse_grid(entry[name])
        except GridError as error:
            flaws.append(f"{name}: {error}")
    return flaws + [f"unknown key {key!r}" for key in entry if key not in ATTEMPTS]
