"""Per-task results count what the ledger and the submission hold."""

from pathlib import Path

import numpy as np

from solver.report.results import task_results
from solver.types import AdapterRef, Candidate, Fit, QueryOutcome, TaskOutcome


def grid(*cells: int) -> np.ndarray:
    return np.array([cells], dtype=np.uint8)


def outcome(task: str, wave: int, steps: int, *grids: np.ndarray) -> TaskOutcome:
    adapter = AdapterRef(f"{task}-{wave}", Path("a"), "full")
    fit = Fit(f"{task}-{wave}", "complete", "steps", adapter, steps, 100, 2.0, 1.0, 0.5)
    candidates = tuple(Candidate(g, "identity/0123456789/", -1.0, "greedy") for g in grids)
    return TaskOutcome(task, wave, "complete", fit, (QueryOutcome(0, candidates, ()),), {"fit": 2.0, "infer": 0.5})


def test_passes_are_added_up_and_attempts_compared() -> None:
    submission = {"a": ((grid(1), grid(2)),), "b": ((grid(3), grid(4)), (grid(5), grid(6))), "c": ((grid(0), grid(1)),)}
    answers = {"a": (grid(2),), "b": (grid(9), grid(5))}
    first, second, third = task_results(
        [outcome("a", 0, 60, grid(1), grid(2), grid(1)), outcome("a", 1, 40, grid(2)), outcome("b", 0, 60)], submission, answers
    )
    assert (first.waves, first.steps, first.seconds) == (2, 100, 5.0)
    assert (first.candidates, first.distinct, first.solved, first.tests) == (4, 2, 1, 1)
    assert (second.solved, second.tests, second.candidates) == (1, 2, 0)
    assert (third.waves, third.steps, third.solved) == (0, 0, None)
