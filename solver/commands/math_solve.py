"""`solver math solve`: answers word problems by a search with a verifier, in a given time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from solver.arc.jsonfile import compact_json, replace_file
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.base import Engine
from solver.math.drawing import DrawOptions, as_problem, draw
from solver.math.generator import Generator, load_generator
from solver.math.problems import MathProblem, read_problems
from solver.model import threads
from solver.report.scores import wilson
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
        options = DrawOptions(**(self._options.__dict__ | {"samples": count, "seed": self._options.seed * 1_000_003 + first}))
        for drawn in draw(self._engine, self._generator.tokenizer, [self._problems[problem.id]], options, deadline):
            scored = score_problem(self._verifier, problem, drawn.samples, deadline)
            return [] if scored is None else scored.judged()
        return []


def solve(
    problems: Path, generator: Path, verifier: Path, out: Path, seconds: float, samples: int, options: DrawOptions, report: Report
) -> list[str]:
    """Answer every problem of a file in `seconds`, and write a line for each to `out`; gives lines to show.

    A problem gets `samples` samples, or as many as the time allows, and the best of them vote; see `solver.verify.search`. Raises
    InputError if a file or model cannot be used, or the verifier is one of another generator.
    """
    deadline = Deadline.after(seconds)
    threads.govern()
    asked = read_problems(problems)
    loaded = load_generator(generator, ModelSettings())
    judge = load_verifier(verifier, ModelSettings(), loaded.fingerprint, generator)
    drawer = Drawer(loaded.engine(InferSettings()), loaded, judge, asked, options)
    lines, right, drawn = [], 0, []
    for number, found in enumerate(search([as_problem(one, loaded.tokenizer) for one in asked], drawer, deadline, samples), 1):
        chosen = found.chosen
        right += chosen is not None and chosen.correct
        drawn.append(found.samples)
        lines.append(
            compact_json(
                {
                    "problem": found.problem.id,
                    "answer": None if chosen is None else chosen.answer,
                    "correct": chosen is not None and chosen.correct,
                    "samples": found.samples,
                    "votes": found.votes,
                }
            )
        )
        if number % 20 == 0:
            report(f"{number} of {len(asked)} problems, {right} right, {found.samples} samples of the last one")
    try:
        replace_file(out, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    low, high = wilson(right, len(asked))
    return [
        f"{right} of {len(asked)} right: {100 * right / len(asked):.1f} % ({100 * low:.1f} to {100 * high:.1f})",
        f"samples of a problem: {min(drawn)} to {max(drawn)}, {sum(drawn) / len(drawn):.1f} on average",
    ]
