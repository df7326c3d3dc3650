"""`solver report`: what ledgers, submissions and summaries say is on the page, and what cannot be read is refused in a line."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_checks import Element, check_page, rows
from report_helpers import summary
from run_helpers import make_tasks, outcome, program_outcome, write_challenges, write_solutions
from simulated_run import simulated_run
from typer.testing import CliRunner

from solver.arc.submission import write_submission
from solver.cli import app
from solver.commands.shown_runs import read_shown_run, shown_tasks
from solver.config import Settings
from solver.run.ledger import BEFORE, ENDED, RESUMED, SHARED, TOTAL, Event, Ledger
from solver.run.ledger_work import WorkDone
from solver.run.run_facts import Identity, RunFacts
from solver.types import TaskPlan

WRONG = np.full((2, 2), 7, dtype=np.uint8)


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def page_of(*arguments: str | Path) -> Element:
    out = Path(str(arguments[0])).parent / "page.html"
    result = run(*arguments, "--html", out)
    assert result.exit_code == 0, result.output
    return check_page(out.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of three tasks: task000 solved by its second attempt, task001 by a program, task002 by the fallback, which repeats
    the test input."""
    tasks = make_tasks(3)
    out = tmp_path / "run"
    out.mkdir()
    ledger = Ledger.open(out / "run.db", Identity(tasks.fingerprint, "m", 0, "default", {}), tasks)
    settings = Settings.model_validate({"select": {"rule": "flat_vote"}}).model_dump(mode="json")
    challenges = str(write_challenges(tmp_path / "challenges.json", tasks))
    answers = str(write_solutions(tmp_path / "solutions.json", tasks))
    ledger.set_facts(RunFacts(1, 60.0, "", challenges, answers, settings))
    right = [task.test[0].output for task in tasks]
    assert right[0] is not None
    assert right[1] is not None
    ledger.plan("task000", 0, TaskPlan(5, 8, 1), 2.0, "all at once")
    ledger.record(outcome("task000", grids=(WRONG, WRONG, right[0]), nlls=(3.0, 2.0, 1.0), views=4))
    ledger.worked(WorkDone("task000", 0, 1, "r1i1", time.time()))
    ledger.record(outcome("task000", 1, grids=(WRONG, right[0])))
    ledger.worked(WorkDone("task000", 1, 0, "r1i2", time.time()))
    ledger.record_programs(program_outcome("task001", right[1]))
    ledger.worked(WorkDone("task001", BEFORE, 0, "", time.time()))
    ledger.event(Event("oom", "backed off", SHARED))
    ledger.close()
    return out


def test_every_number_is_that_of_solver_score(folder: Path) -> None:
    result = run(folder, "--html", folder / "page.html")
    assert result.exit_code == 0, result.output
    run_ = read_shown_run(folder)
    write_submission(folder / "submission.json", run_.submission)
    scored = CliRunner().invoke(app, ["score", str(folder / "submission.json"), str(folder.parent / "solutions.json"), "--json"])
    scores = json.loads(scored.stdout)
    root = page_of(folder)
    shown = {row[1]: row[2:5] for row in rows(root, "Scores over the tasks of each run, counted as by solver score")}
    assert shown == {
        name: [f"{score['solved']:g}", f"{score['total']:g}", f"{score['accuracy']:.1%}"] for name, score in scores.items()
    }
    counts = dict(rows(root, "What became of the test inputs whose answer is known"))
    solved = sum(int(count) for fate, count in counts.items() if fate.startswith("solved"))
    assert (str(solved), counts["all"]) == tuple(shown["per_prediction"][:2])
    origins = ("solved by the network alone", "solved by a program alone", "solved by the fallback answer")
    assert [counts[origin] for origin in origins] == ["1", "1", "1"]


def test_the_summary_of_the_run_is_shown(folder: Path) -> None:
    made = summary(reason="all <tasks> done", hardware={"cpu": "some cpu", "threads": 2, "cores": 4})
    (folder / "summary.json").write_text(json.dumps(made.to_json()))
    facts = dict(rows(page_of(folder), "What run was and did"))
    assert facts["result"] == "11 of 12 tasks, 1 failed in 4:41 of 4:50 - all <tasks> done"
    assert facts["trainer"] == "full: 720 steps, 1,234,567 tokens, 9,000 tok/s"
    assert facts["hardware"] == "2 of 4 cores, some cpu"


def test_a_summary_of_an_earlier_process_is_told(folder: Path) -> None:
    (folder / "summary.json").write_text(json.dumps(summary().to_json()))
    told = "summary.json is of an earlier process"
    assert told in page_of(folder).text()
    tasks = make_tasks(3)
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "m", 0, "default", {}), tasks)
    ledger.timing(TOTAL, 60.0, 42.0, 1)
    ledger.close()
    assert told not in page_of(folder).text()


def test_names_that_utf_8_cannot_hold_are_written_in_another_way(folder: Path) -> None:
    strange = folder.rename(folder.parent / "run\udcff")
    (strange / "summary.json").write_text(json.dumps(summary(reason="\ud800").to_json()))
    text = page_of(strange).text()
    assert "run\\udcff" in text
    assert "\\ud800" in text


BAD_SUMMARIES = [
    "{",
    "[]",
    "{}",
    '{"results": [], "tasks": 1}',
    '{"results": [{"id": 1}]}',
    json.dumps(summary(steps="many").to_json()),
    json.dumps(summary(settings=3).to_json()),
    json.dumps(summary(seconds=float("inf")).to_json()),
]


@pytest.mark.parametrize("text", BAD_SUMMARIES)
def test_a_summary_that_cannot_be_read_costs_its_facts_alone(folder: Path, text: str) -> None:
    (folder / "summary.json").write_text(text)
    assert "summary.json" in page_of(folder).text()


def test_the_attempts_are_those_of_the_submission(folder: Path) -> None:
    run_ = read_shown_run(folder)
    solved = {id_: one.solved() for id_, one in shown_tasks(run_, run_.past.tasks).items()}
    assert solved == {"task000": [True], "task001": [True], "task002": [True]}
    attempts = dict.fromkeys(run_.submission, ((WRONG, WRONG[:1]),))
    write_submission(folder / "submission.json", attempts)
    assert "0 of 3 test inputs solved" in page_of(folder).every("header")[0].text()
    for text in ("{", json.dumps({"other": []})):
        (folder / "submission.json").write_text(text)
        root = page_of(folder)
        assert "3 of 3 test inputs solved" in root.every("header")[0].text()
        assert "the attempts were selected again from the ledger" in root.text()


def test_passes_views_and_programs_of_a_task(folder: Path) -> None:
    root = page_of(folder)
    first, second, third = [one for one in root.every("details") if one.has_class("task")]
    passes = rows(first, "Passes")
    assert [row[0] for row in passes] == ["1", "2"]
    assert passes[0][2] == "5 steps, 8 views"
    assert passes[0][6:8] == ["2.0 s", "1.8 s (fit 1.2, infer 0.5)"]
    assert passes[0][9].startswith("worker 1, ")
    (views,) = [one for one in first.every("pre") if not one.has_class("grid")]
    assert [line.split()[:2] for line in views.text().split("\n")[1:]] == [
        ["1", "identity"],
        ["1", "rot90"],
        ["1", "rot180"],
        ["2", "identity"],
        ["2", "rot90"],
    ]
    assert "wave 1: all at once" in first.text()
    assert "wave 1: note: something" in first.text()
    assert "turn > mirror 0" in second.text()
    assert "candidate 1: program" in second.text()
    assert "attempt 1: fallback, ✓ right" in third.text()


def test_the_time_line_has_a_lane_for_each_process(folder: Path) -> None:
    root = page_of(folder)
    table = rows(root, "Seconds of the run by process")
    assert [row[:2] for row in table] == [["programs 0", "1"], ["worker 0", "1"], ["worker 1", "1"]]
    assert [row[-2] for row in table] == ["1.5 s", "1.8 s", "1.8 s"]


def test_each_process_of_a_resumed_run_has_a_time_line(folder: Path) -> None:
    tasks = make_tasks(3)
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "m", 0, "default", {}), tasks)
    now = ledger.work_log()[-1].at
    ledger.timing(TOTAL, 60.0, 42.0, 1)
    ledger.event(Event(ENDED, "stopped", at=now + 1))
    ledger.event(Event(RESUMED, "process 2 of this run begins", at=now + 3600))
    ledger.record_programs(program_outcome("task002", WRONG))
    ledger.worked(WorkDone("task002", BEFORE, 0, "", now + 3605))
    ledger.close()
    run_ = read_shown_run(folder)
    assert run_.starts == pytest.approx([now + 1 - 42, now + 3600])
    root = page_of(folder)
    assert len(rows(root, "Seconds of process 1 by process")) == 3
    assert rows(root, "Seconds of process 2 by process") == [["programs 0", "1", "1.5 s", "1.5 s", "30%"]]


def test_a_ledger_without_the_log_of_work_has_no_time_line(folder: Path) -> None:
    with sqlite3.connect(folder / "run.db") as db:
        db.execute("DROP TABLE work_log")
    assert "does not say which process did what" in page_of(folder).text()


def test_agreement_over_waves(folder: Path) -> None:
    table = rows(page_of(folder), "Agreement by wave: the share of the top candidate over the views")
    assert table == [["1", "1", "50%", "50% to 50%", "-", "50%"], ["2", "1", "50%", "50% to 50%", "50%", "50%"]]


def test_runs_are_compared_and_share_their_answers(folder: Path) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    attempts = dict.fromkeys(("task000", "task001", "task002"), ((WRONG, WRONG[:1]),))
    write_submission(other / "submission.json", attempts)
    with sqlite3.connect(other / "run.db") as db:
        db.execute("UPDATE run SET value = '' WHERE key IN ('solutions', 'challenges')")
    root = page_of(folder, other)
    assert rows(root, "Against run, on what both runs answered")[0][:5] == ["other", "test inputs", "3", "0", "3"]


def test_a_run_whose_answers_are_not_known_has_no_scores_until_they_are_given(folder: Path) -> None:
    answers = folder.parent / "elsewhere.json"
    (folder.parent / "solutions.json").rename(answers)
    (folder.parent / "challenges.json").unlink()
    assert "no answers are known" in page_of(folder).every("header")[0].text()
    assert "3 of 3 test inputs solved" in page_of(folder, "--solutions", answers).every("header")[0].text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ABSENT", "--html", "OUT"), "run.db: no such ledger"),
        (("RUN", "ABSENT", "--html", "OUT"), "run.db: no such ledger"),
        (("RUN", "--html", "RUN"), "is a folder"),
        (("RUN", "--html", "ABSENT/page.html"), "cannot be written"),
        (("RUN", "--html", "OUT", "--solutions", "ABSENT"), "absent"),
    ],
)
def test_what_cannot_be_reported_is_refused(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    names = {"RUN": str(folder), "ABSENT": str(folder / "absent"), "OUT": str(folder / "out.html")}
    result = run(
        *(
            argument.replace("ABSENT", names["ABSENT"]) if "/" in argument else names.get(argument, argument)
            for argument in arguments
        )
    )
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stderr.splitlines()[-1].startswith("solver: ")
    assert not (folder / "out.html").exists()


@pytest.mark.parametrize("damage", ["torn", "rows", "table", "identity", "unbegun"])
def test_a_damaged_ledger_is_refused_in_one_line(folder: Path, damage: str) -> None:
    path = folder / "run.db"
    if damage == "torn":
        path.write_bytes(b"SQLite format 3\0" + bytes(500))
    else:
        statements = {
            "rows": "UPDATE outcomes SET seconds = '{'",
            "table": "DROP TABLE plans",
            "identity": "DELETE FROM run WHERE key = 'recipe'",
            "unbegun": "DELETE FROM run WHERE key = 'all_settings'",
        }
        with sqlite3.connect(path) as db:
            db.execute(statements[damage])
    result = run(folder, "--html", folder / "page.html")
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"solver: {path}: ")


def test_runs_with_different_tasks_of_one_id_are_refused(folder: Path) -> None:
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    with sqlite3.connect(other / "run.db") as db:
        (content,) = db.execute("SELECT content FROM tasks WHERE task = 'task001'").fetchone()
        db.execute("UPDATE tasks SET content = ? WHERE task = 'task000'", (content,))
    result = run(folder, other, "--html", folder / "page.html")
    assert result.exit_code == 2
    assert "task task000: differs from the task of this id in" in result.stderr


def test_answers_for_another_number_of_test_inputs_are_refused_if_given_and_else_left_out(folder: Path) -> None:
    answers = folder.parent / "more.json"
    answers.write_text(json.dumps({"task000": [[[1]], [[2]]]}))
    result = run(folder, "--html", folder / "page.html", "--solutions", answers)
    assert result.exit_code == 2
    assert "another number of test inputs" in result.stderr
    known = json.loads((folder.parent / "solutions.json").read_text())
    (folder.parent / "solutions.json").write_text(json.dumps({**known, "task000": [[[1]], [[2]]]}))
    root = page_of(folder)
    assert "2 of 2 test inputs solved" in root.every("header")[0].text()
    assert "another number of test inputs are left out: task000" in root.text()


@pytest.mark.slow
def test_a_run_of_400_tasks_stays_below_10_megabytes(tmp_path: Path) -> None:
    simulated_run(tmp_path / "run", tasks=400, budget=2 * 3600.0)
    with sqlite3.connect(tmp_path / "run" / "run.db") as db:
        passes, candidates = (db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("outcomes", "candidates"))
    assert passes > 400
    assert candidates > 4000
    page = tmp_path / "page.html"
    assert run(tmp_path / "run", "--html", page).exit_code == 0
    assert 1e6 < page.stat().st_size < 10e6
    text = page.read_text(encoding="utf-8")
    assert text.count('<details class="task"') == 400
    assert text.count('<pre class="grid">') > 400 * 8
