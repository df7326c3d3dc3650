"""`solver show`: tasks by file, set and id, and what a run made of them, in the terminal and as a page."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_checks import check_page
from rich.console import Console
from run_helpers import make_tasks, outcome, program_outcome, write_challenges, write_solutions
from typer.testing import CliRunner

from solver.arc.datasets import TaskSet
from solver.cli import app
from solver.config import Settings
from solver.report.palette import COLOURS, grid_text, grids_in_rows
from solver.run.ledger import Ledger
from solver.run.run_facts import Identity, RunFacts

TASK = {
    "train": [{"input": [[0, 1], [2, 3]], "output": [[4, 5, 6]]}, {"input": [[7]], "output": [[8]]}],
    "test": [{"input": [[9, 9]], "output": [[1, 2]]}, {"input": [[3]]}],
}


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["show", *map(str, arguments)], env={"COLUMNS": "100"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three tasks: task000 solved by its second attempt, task001 not, task002 by the fallback. Answers are known."""
    tasks = make_tasks(3)
    out = tmp_path / "run"
    out.mkdir()
    ledger = Ledger.open(out / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    settings = Settings.model_validate({"select": {"rule": "flat_vote"}})
    challenges = str(write_challenges(tmp_path / "challenges.json", tasks))
    answers = str(write_solutions(tmp_path / "solutions.json", tasks))
    ledger.set_facts(RunFacts(all_settings=settings.model_dump(mode="json"), challenges=challenges, solutions=answers))
    wrong = np.full((2, 2), 7, dtype=np.uint8)
    right = tasks.tasks[0].test[0].output
    assert right is not None
    ledger.record(outcome("task000", grids=(wrong, wrong, right), nlls=(3.0, 2.0, 1.0)))
    ledger.record(outcome("task001", grids=(wrong, wrong[:1])))
    ledger.close()
    return out


def test_a_task_file_a_folder_and_a_public_id_are_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(TASK))
    result = run(tmp_path / "mine.json")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0].startswith("mine ")
    assert lines[1:4] == ["train 0 input  train 0 output", " 0 1            4 5 6", " 2 3"]
    assert [line for line in lines if line.startswith("test")] == ["test 0 input  test 0 output", "test 1 input"]
    assert run(tmp_path).stdout == result.stdout
    public = run("007bbfb7", tmp_path / "mine.json")
    assert public.stdout.startswith("007bbfb7 ")
    assert public.stdout.endswith(result.stdout)


def test_a_run_is_shown_with_candidates_and_attempts(folder: Path) -> None:
    result = run("task000", "--run", folder)
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert text.startswith("task000: 1 of 1 solved ")
    assert "1 passes, 5 steps, 1.8 s" in text
    assert "attempt 1: wrong  attempt 2: right" in text
    assert "candidates of test 0: 2 different" in text
    assert "2 votes, nll 1.50, scored 2.00  1 vote, nll 3.50, scored 1.00" in text
    assert "identity, rot90" in text
    assert "rot180" in text


def test_all_tasks_of_a_run_and_other_tasks_beside_it(folder: Path) -> None:
    text = run("--run", folder).stdout
    heads = [line for line in text.splitlines() if line.startswith("task0")]
    assert [head.split(" ──")[0] for head in heads] == [
        "task000: 1 of 1 solved",
        "task001: 0 of 1 solved",
        "task002: 1 of 1 solved",
    ]
    assert "no pass: the fallback answer" in text
    (folder / "mine.json").write_text(json.dumps(TASK))
    beside = run(folder / "mine.json", "task001", "--run", folder).stdout
    assert beside.startswith("mine ──")
    assert "attempt 1" not in beside.split("task001")[0]


def test_a_run_whose_answers_have_gone_is_shown_without_verdicts(folder: Path) -> None:
    for name in ("challenges.json", "solutions.json"):
        (folder.parent / name).unlink()
    text = run("task000", "--run", folder).stdout
    assert text.startswith("task000 ──")
    assert "attempt 1  " in text


def test_the_page_shows_the_same_tasks_and_escapes_what_it_shows(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("--run", folder, "--html", page)
    assert result.exit_code == 0, result.output
    root = check_page(page.read_text())
    assert "2 of 3 test inputs solved" in root.every("header")[0].text()
    tasks = [one for one in root.every("details") if one.has_class("task")]
    assert [one.attributes["data-id"] for one in tasks] == ["task000", "task001", "task002"]
    assert "identity, rot90" in tasks[0].text()
    evil = tmp_path / "evil.json"
    evil.write_text(json.dumps({'<b onload="x">': TASK}))
    assert run(evil, "--html", page).exit_code == 0
    assert check_page(page.read_text()).every("h3")[0].text() == '<b onload="x">'
    assert "<b onload" not in page.read_text()


def test_programs_are_shown_with_their_text(folder: Path, tmp_path: Path) -> None:
    tasks = make_tasks(3)
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    right = tasks.tasks[2].test[0].output
    assert right is not None
    ledger.record_programs(program_outcome("task002", right, right[:1], text="<turn> & mirror"))
    ledger.record_programs(program_outcome("task001", np.full((2, 2), 7, dtype=np.uint8)))
    ledger.close()
    text = run("task001", "task002", "--run", folder).stdout
    assert "exact program, cost 3" in text
    assert "found in 75% of copies" in text
    assert "program of candidate 1: <turn> & mirror 0" in text
    assert "program of candidate 2: <turn> & mirror 1" in text
    assert "1 passes, 5 steps, 1.8 s; programs searched for 1.5 s" in text
    assert "1 vote, nll 1.50" in text  # of the network, which found the program's grid, too
    page = tmp_path / "page.html"
    assert run("--run", folder, "--html", page).exit_code == 0
    root = check_page(page.read_text())
    assert "<turn> & mirror 0" in [one.text() for one in root.every("code")]
    assert "candidate 1: network and program" in root.text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a task"),
        (("nothere",), "nothere: is no file, no named set, and no task of arc1:training"),
        (("nothere", "--run", "RUN"), "nothere: is no file, no named set, and no task of"),
        (("--run", "ABSENT"), "run.db: no such ledger"),
        (("--run", "RUN", "--html", "ABSENT/page.html"), "--html"),
    ],
)
def test_what_cannot_be_shown_is_refused(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    given = [argument.replace("RUN", str(folder)).replace("ABSENT", str(folder / "absent")) for argument in arguments]
    result = run(*given)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_grids_are_in_colour_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    grid = np.arange(10, dtype=np.uint8).reshape(2, 5)
    console = Console(force_terminal=True, color_system="truecolor", width=40)
    console.print(grid_text(grid))
    shown = capsys.readouterr().out
    for colour, code in enumerate(COLOURS):
        red, green, blue = bytes.fromhex(code[1:])
        assert re.search(rf"\x1b\[[\d;]*48;2;{red};{green};{blue}m {colour}", shown), colour


def test_grids_are_wrapped_to_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    wide = np.zeros((1, 30), dtype=np.uint8)
    for width, lines in ((200, 3), (70, 9), (40, 9)):
        Console(width=width).print(grids_in_rows([("one", wide), ("two", wide), ("three", wide)], width))
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) == lines
        assert max(map(len, shown)) <= width


def test_a_set_of_tasks_is_a_page_too(tmp_path: Path) -> None:
    tasks: TaskSet = make_tasks(2)
    write_challenges(tmp_path / "challenges.json", tasks)
    assert run(tmp_path / "challenges.json", "--html", tmp_path / "page.html").exit_code == 0
    root = check_page((tmp_path / "page.html").read_text())
    assert len([one for one in root.every("details") if one.has_class("task")]) == 2
