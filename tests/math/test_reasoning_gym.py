"""Problems of the real reasoning-gym, which the locked environment keeps aside, and their annotations."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from solver.cli import app
from solver.errors import InputError
from solver.math.annotations import is_well_formed
from solver.math.corpus import GYM, mixed_problems
from solver.math.problems import read_problems
from solver.math.reasoning_gym import annotate, made_problems, problem_makers
from solver.math.word_problems import Difficulty

REFERENCE = Path(sys.prefix) / "reference"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REFERENCE))


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("kind", GYM)
def test_problems_have_annotations_that_the_calculator_confirms(kind: str) -> None:
    make = problem_makers()[kind]
    assert not any(name.split(".")[0] == "reasoning_gym" for name in sys.modules)  # its other parts want other packages
    problems = list(made_problems(make, Random(5), kind, 100))
    assert len({problem.question for problem in problems}) == 100
    assert all(is_well_formed(problem.solution) for problem in problems)
    annotated = [problem for problem in problems if "<<" in problem.solution]
    assert len(annotated) >= (70 if kind == "gsm_symbolic" else 100)
    last = [re.findall(r"=([^=>]*)>>", problem.solution)[-1] == problem.answer for problem in annotated]
    assert sum(last) > 0.8 * len(annotated)
    assert problems == list(made_problems(make, Random(5), kind, 100))


@pytest.mark.parametrize(
    ("line", "annotated"),
    [
        ("3 boxes * 4 pens/box = 12 pens", "3 boxes * 4 pens/box = <<3*4=12>>12 pens"),
        ("He pays 2 x $1.50 = $3", "He pays 2 x $1.50 = $<<2*1.50=3>>3"),
        ("20% * 50 = 10 and 10 + 1,000 = 1,010.", "20% * 50 = <<(20/100)*50=10>>10 and 10 + 1,000 = <<10+1000=1010>>1,010."),
        ("(3 + 4) * 2 = 14", "(3 + 4) * 2 = <<(3+4)*2=14>>14"),
        ("1 + 2 = 4", "1 + 2 = 4"),
        ("10 / 3 = 3.33", "10 / 3 = 3.33"),
        ("T = 7", "T = 7"),
        ("So x = 3 + 4 = 7 km", "So x = 3 + 4 = <<3+4=7>>7 km"),
    ],
)
def test_results_of_calculations_are_annotated_if_they_are_right(line: str, annotated: str) -> None:
    assert annotate(line) == annotated
    assert is_well_formed(annotated)


@pytest.mark.usefixtures("reference")
def test_a_corpus_mixes_kinds_and_leaves_out_known_problems(tmp_path: Path) -> None:
    first, second = tmp_path / "train.jsonl", tmp_path / "test.jsonl.xz"
    command = ["make-corpus", "math", "--kinds", "words,gsm_symbolic,leg_counting", "--problems", "31"]
    result = CliRunner().invoke(app, [*command, str(first)])
    assert (result.exit_code, result.output) == (0, f"{first}: 31 problems\n")
    result = CliRunner().invoke(app, [*command, str(second), "--without", str(first)])
    assert result.exit_code == 0
    known = {problem.question for problem in read_problems(first)}
    new = {problem.question for problem in read_problems(second)}
    assert len(known) == len(new) == 31
    assert not known & new
    assert sum("legs" in question for question in known) >= 10


def test_bad_kinds_and_missing_packages_are_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["make-corpus", "math", str(tmp_path / "x.jsonl"), "--kinds", "leg_counting"])
    assert result.exit_code == 2
    assert "pip install --no-deps reasoning-gym" in result.output
    for kinds, people, problem in (("sums", "2-5", "unknown kind 'sums'"), ("words", "5", "--people 5: write it as 2-5")):
        options = ["--kinds", kinds, "--people", people]
        result = CliRunner().invoke(app, ["make-corpus", "math", str(tmp_path / "x.jsonl"), *options])
        assert result.exit_code == 2
        assert problem in result.output


def test_a_kind_without_enough_different_problems_is_refused() -> None:
    with pytest.raises(InputError, match="only 0 different problems of kind words were found, 1 are wanted"):
        mixed_problems(["words"], 1, Difficulty(2, 2), 0, _Everything())


class _Everything(set[str]):
    """A set that has every text."""

    def __contains__(self, question: object) -> bool:
        return True
