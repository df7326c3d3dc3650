"""Reads and writes word problems in the format of GSM8K: JSON Lines of `question` and `answer`, also compressed as .xz.

An answer is a solution, one step a line, and a last line `#### 72`. Expressions in it are annotated for the calculator:
`48/2 = <<48/2=24>>24`. In the Socratic form every step follows a question of its own (`How many ...? ** 48/2 = ...`).

Source: Cobbe et al. 2021 (arXiv 2110.14168), section 2 and appendix C.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import kind, read_json_lines, replace_file
from solver.errors import InputError
from solver.math.answers import MARK, normal_form


@dataclass(frozen=True)
class MathProblem:
    """A question with its reference solution."""

    id: str  # unique within a file
    question: str
    solution: str  # the steps, without the line of the final answer; may be empty
    answer: str  # the normal form of the final answer, see `answers`

    def completion(self, steps: bool = True) -> str:
        """What a generator learns to write: the steps and the final answer, or the final answer alone."""
        last = f"{MARK} {self.answer}"
        return f"{self.solution}\n{last}" if steps and self.solution else last


def read_problems(path: Path) -> tuple[MathProblem, ...]:
    """The problems of a file. The id of each is the number of its line.

    Raises InputError, which names file and line, if a line is not JSON or not a problem, or a problem has no answer; and if the
    file holds no problem.
    """
    problems = tuple(_problem(value, number, f"{path}: line {number}") for number, value in read_json_lines(path, "problems"))
    if not problems:
        raise InputError(f"{path}: holds no problems")
    return problems


def _problem(value: Any, number: int, where: str) -> MathProblem:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {kind(value)}, not a problem: a problem is an object with question and answer")
    for key in ("question", "answer"):
        if not isinstance(value.get(key), str) or not value[key].strip():
            given = "is missing" if key not in value else "is empty" if value[key] == "" else f"is {kind(value[key])}"
            raise InputError(f"{where}: the problem has no {key}: {key!r} {given}")
    solution, mark, last = value["answer"].rpartition(MARK)
    if not mark:
        raise InputError(f"{where}: the problem has no answer: the line '{MARK} NUMBER' is missing")
    answer = normal_form(last)
    if answer is None:
        raise InputError(f"{where}: the problem has no answer: {last.strip()[:40]!r} is not one number")
    return MathProblem(str(number), value["question"].strip(), solution.strip(), answer)


def write_problems(path: Path, problems: Iterable[MathProblem]) -> int:
    """Replace `path` by a file of these problems, compressed if its name ends with .xz. Gives their number. Raises InputError."""
    lines = [json.dumps({"question": p.question, "answer": p.completion()}, ensure_ascii=False) for p in problems]
    data = "".join(line + "\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lzma.compress(data) if path.suffix == ".xz" else data)
    except OSError as error:
        raise InputError(f"{path}: cannot write the problems: {error.strerror or error}") from None
    return len(lines)
