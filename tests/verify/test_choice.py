from __future__ import annotations

import numpy as np

from solver.verify.choice import Procedure, best_procedure
from solver.verify.samples import Problem, Sample
from solver.verify.scoring import ScoredProblem


def scored(*samples: tuple[str, list[float]]) -> ScoredProblem:
    """A problem with the answer "1", and samples of it with their answers and token values."""
    problem = Problem("p", (1,), "1")
    made = tuple(Sample("p", "", tuple(range(len(values))), -1.0, answer, answer == "1") for answer, values in samples)
    return ScoredProblem(problem, made, tuple(np.array(values, dtype=np.float32) for _, values in samples))


def test_the_procedure_that_solves_most_is_chosen() -> None:
    by_last = scored(("1", [0.1, 0.9]), ("2", [0.8, 0.2]))
    by_min = scored(("1", [0.5, 0.5]), ("2", [0.2, 0.9]))
    by_vote = scored(("1", [0.6, 0.6]), ("1", [0.6, 0.6]), ("2", [0.7, 0.7]))
    assert best_procedure([by_last]) == Procedure("verifier", "last")
    assert best_procedure([by_min]) == Procedure("verifier", "min")
    assert best_procedure([by_vote]) == Procedure("verifier, weighted vote", "last")
    assert best_procedure([by_vote, by_min]) == Procedure("verifier, weighted vote", "min")
    assert best_procedure([]) == Procedure("verifier", "last")
    assert Procedure("verifier", "min").solved([by_last, by_min, by_vote]) == [False, True, False]
    assert Procedure("verifier", "min").text() == "verifier (score: min)"
