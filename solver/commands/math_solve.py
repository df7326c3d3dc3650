"""`solver math solve`: answers word problems by a search with a verifier, in a given time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from solver.arc.jsonfile import compact_json
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.base import Engine
from solver.math.drawing import DrawOptions, as_problem, draw
from solver.math.generator import Generator, load_generator
from solver.math.problems import MathProblem, read_problems
from solver.model import threads
from solver.report.scores import share_text
from solver.types import Deadline
from solver.verify.ranking import Judged
from solver.verify.samples import Problem
from solver.verify.scoring import score_problem
from solver.verify.search import search
from solver.verify.verifier import Verifier, load_verifier

Report = Callable[[str], None]


class Drawer:
    """Draws solutions of word problems, and scores them with a verifier. Equal calls draw equal samples."""

    def __init__(
        self, engine: Engine, generator: Generator, verifier: Verifier, problems: Sequence[MathProblem], options: DrawOptions
    ) -> None:
        self._engine, self._generator, self._verifier, self._options = engine, generator, verifier, options
        self._problems = {problem.id: problem for problem in problems}

    def __call__(self, problem: Problem, first: int, count: int, deadline: Deadline) -> list[Judged]:
        """Samples number `first` to `first + count - 1` with their scores; none if the deadline comes first."""
        options = replace(self._options, samples=count, seed=self._options.seed * 1_000_003 + first)
        for drawn in draw(self._engine, self._generator.tokenizer, [self._problems[problem.id]], options, deadline):
            scored = score_problem(self._verifier, problem, drawn.samples, deadline)
            return [] if scored is None else scored.judged()
        return []


def solve(
    problems: Path, generator: Path, verifier: Path, out: Path, seconds: float, samples: int, options: DrawOptions, report: Report
) -> list[str]:
    """Answer every problem of a file in `seconds`, and write a line for each to `out` once it is known; gives lines to show.

    A problem gets `samples` samples, or as many as the time allows, and the best of them vote; see `solver.verify.search`. Raises
    InputError if a file or model cannot be used, or the verifier is one of another generator.
    """
    deadline = Deadline.after(seconds)
    threads.govern()
    asked = read_problems(problems)
    loaded = load_generator(generator, ModelSettings())
    judge = load_verifier(verifier, ModelSettings(), loaded.fingerprint, generator)
    drawer = Drawer(loaded.engine(InferSettings()), loaded, judge, asked, options)
    right, drawn = 0, []
    found = search([as_problem(one, loaded.tokenizer) for one in asked], drawer, deadline, samples)
    try:
        with out.open("w", encoding="utf-8") as file:
            for number, one in enumerate(found, 1):
                correct = one.chosen is not None and one.chosen.correct
                right += correct
                drawn.append(one.samples)
                line = {
                    "problem": one.problem.id,
                    "answer": None if one.chosen is None else one.chosen.answer,
                    "correct": correct,
                    "samples": one.samples,
                    "votes": one.votes,
                }
                file.write(compact_json(line) + "\n")
                file.flush()
                if number % 20 == 0:
                    report(f"{number} of {len(asked)} problems, {right} right, {one.samples} samples of the last one")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    return [
        f"{right} of {len(asked)} right: {share_text(right, len(asked))}",
        f"samples of a problem: {min(drawn)} to {max(drawn)}, {sum(drawn) / len(drawn):.1f} on average",
    ]
