"""Files of problems: GSM8K's form, the Socratic form, and bad ones."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from solver.errors import InputError
from solver.math.calculator import evaluate, written
from solver.math.problems import MathProblem, read_problems, write_problems
from solver.math.word_problems import Difficulty, make_problems

PLAIN = {
    "question": "Mia bakes 12 rolls a day for 90 days. How many rolls does she bake?",
    "answer": "She bakes 12*90 = <<12*90=1080>>1,080 rolls.\n#### 1,080",
}
SOCRATIC = {
    "question": "Tom reads 5 pages a day. How many pages does he read in 3 days?",
    "answer": "How many pages are that? ** He reads 5*3 = <<5*3=15>>15 pages.\n#### 15",
}


def lines(path: Path, *values: object) -> Path:
    path.write_text("".join(f"{value if isinstance(value, str) else json.dumps(value)}\n" for value in values), encoding="utf-8")
    return path


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    first, second = read_problems(lines(tmp_path / "problems.jsonl", PLAIN, "", SOCRATIC))
    assert (first.id, first.answer, first.question) == ("1", "1080", PLAIN["question"])
    assert first.solution == "She bakes 12*90 = <<12*90=1080>>1,080 rolls."
    assert first.completion() == f"{first.solution}\n#### 1080"
    assert first.completion(steps=False) == "#### 1080"
    assert (second.id, second.answer) == ("3", "15")
    assert second.solution.startswith("How many pages are that? ** ")


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.xz"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    problems = list(itertools.islice(make_problems(0, Difficulty(), "p"), 20))
    problems.append(MathProblem("x", "How much is 1/3 + 1/3?", "", "2/3"))
    assert write_problems(tmp_path / "new" / name, problems) == 21
    again = read_problems(tmp_path / "new" / name)
    assert [(p.question, p.solution, p.answer) for p in again] == [(p.question, p.solution, p.answer) for p in problems]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question": "Why?", "answer": "1\n', "line 2: not valid JSON at column"),
        (["Why?", "#### 1"], "line 2: a list, not a problem"),
        ({"answer": "#### 1"}, "line 2: the problem has no question: 'question' is missing"),
        ({"question": 5, "answer": "#### 1"}, "line 2: the problem has no question: 'question' is a number"),
        ({"question": "Why?"}, "line 2: the problem has no answer: 'answer' is missing"),
        ({"question": "Why?", "answer": ""}, "line 2: the problem has no answer: 'answer' is empty"),
        ({"question": "Why?", "answer": "It is 5."}, "line 2: the problem has no answer: the line '#### NUMBER' is missing"),
        ({"question": "Why?", "answer": "#### unknown"}, "line 2: the problem has no answer: 'unknown' is not one number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, problem: str) -> None:
    path = lines(tmp_path / "bad.jsonl", PLAIN, line)
    with pytest.raises(InputError, match=re.escape(f"{path}: {problem}")):
        read_problems(path)


def test_an_empty_file_and_one_that_is_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no problems"):
        read_problems(lines(tmp_path / "empty.jsonl", ""))
    with pytest.raises(InputError, match="cannot read the problems"):
        read_problems(tmp_path / "missing.jsonl")


def test_generated_problems_are_right_and_differ() -> None:
    problems = list(itertools.islice(make_problems(3, Difficulty(2, 6), "p"), 300))
    assert len({problem.question for problem in problems}) == 300
    for problem in problems:
        annotations = re.findall(r"<<(.+?)=(.+?)>>(\S+?)\.$", problem.solution, re.MULTILINE)
        assert len(annotations) == problem.solution.count("\n") + 1
        assert all(written(evaluate(expression)) == value == shown for expression, value, shown in annotations)
        assert annotations[-1][1] == problem.answer
    assert problems == list(itertools.islice(make_problems(3, Difficulty(2, 6), "p"), 300))


def test_difficulty_decides_on_people_and_order() -> None:
    easy = list(itertools.islice(make_problems(0, Difficulty(2, 2, 0, 0), "p"), 50))
    assert all(problem.question.count(".") == 2 for problem in easy)
    hard = list(itertools.islice(make_problems(0, Difficulty(6, 6, 1, 1), "p"), 50))
    assert all(problem.question.count(".") == 6 for problem in hard)
    with pytest.raises(InputError, match="1 to 5 people"):
        Difficulty(1, 5)
