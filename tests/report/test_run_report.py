"""The page of `solver report` says what it is given, whatever it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from arc_strategies import grids
from arc_strategies import tasks as any_task
from hypothesis import given
from hypothesis import strategies as st
from page_checks import Element, check_page, rows
from run_helpers import grid, make_task

from solver.arc.grid import Grid
from solver.arc.submission import score
from solver.arc.task import Task
from solver.report.results import TaskResult
from solver.report.run_report import (
    NO_CANDIDATES,
    NOT_CHOSEN,
    NOT_FOUND,
    SOLVED_BY,
    SOLVED_BY_FALLBACK,
    ReportedRun,
    WaveAgreement,
    fates,
    report_page,
)
from solver.report.shown import ShownCandidate, ShownPass, ShownQuery, ShownTask, ViewAnswers
from solver.report.shown_html import ANSWERS, CANDIDATES, VIEWS, tasks_page
from solver.report.time_line import Mark, TimeLine, Work
from solver.types import Program

EVIL = '<script>alert("1")</script>\'&"'
VIEW = "rot90/0213456789/1.0.2"


def candidate(grid: Grid, votes: int = 1, program: str = "", exact: bool = True) -> ShownCandidate:
    found = Program(program, 3.0, exact, 0.5) if program else None
    return ShownCandidate(grid, (VIEW,) * votes, -1.5, 2.5, found)


def shown(task: Task, attempts: Sequence[Grid], *candidates: ShownCandidate, passes: tuple[ShownPass, ...] = ()) -> ShownTask:
    views = tuple(ViewAnswers(0, VIEW, ((place, 2, -1.5),)) for place in range(len(candidates)))
    return ShownTask(task, (ShownQuery(candidates, tuple(attempts), views),), "spent little", passes)


def run_of(name: str, tasks: Sequence[ShownTask], **changes: object) -> ReportedRun:
    submission = {one.task.id: tuple((query.attempts[0], query.attempts[1]) for query in one.queries) for one in tasks}
    answers = {one.task.id: [pair.output for pair in one.task.test] for one in tasks}
    known = any(output is not None for outputs in answers.values() for output in outputs)
    fields: dict[str, object] = {
        "name": name,
        "facts": [("folder", f"runs/{name}")],
        "settings": {"train.lr": "0.001", "seed": "0"},
        "scores": score(submission, answers) if known else {},
        "results": [TaskResult(one.task.id, len(one.queries), 1, 5, 2.0, 3, 2, None) for one in tasks],
        "phases": {"fit": {"planned": 2.0, "used": 3.0, "error": 0.25}, "validate": {"planned": 0.0, "used": 0.5}},
        "passes": [(1.0, 2.0), (3.0, 2.5)],
        "waves": [WaveAgreement(0, 3, 0.5, 0.25, 0.75, None, 0.5), WaveAgreement(1, 2, 0.4, 0.3, 0.5, 0.2, 0.6)],
        "time_lines": [TimeLine("the run", 60.0, (Work("worker", 0, 30.0, {"fit": 20.0}),), (Mark(5.0, "oom"),))],
        "tasks": {one.task.id: one for one in tasks},
    }
    return ReportedRun(**{**fields, **changes})  # type: ignore[arg-type]


def wrong(seed: int) -> Grid:
    return grid(seed, 5, 4)


def four_tasks(second: bool = False) -> list[ShownTask]:
    """In order: solved by the network and a program, solved by the fallback, found but not chosen, not found.

    In the `second` run the first one is lost and the last one gained.
    """
    made = [make_task(f"task{number}", number) for number in range(4)]
    right = [task.test[0].output for task in made]
    assert all(one is not None for one in right)
    first, last = (wrong(1), wrong(2)) if second else (right[0], wrong(1)), (right[3] if second else wrong(7), wrong(6))
    return [
        shown(made[0], first, candidate(right[0], 2, "turn"), candidate(wrong(1))),
        shown(made[1], (wrong(3), right[1]), candidate(wrong(3))),
        shown(made[2], (wrong(4), wrong(5)), candidate(wrong(4), 3), candidate(right[2])),
        shown(made[3], last, candidate(wrong(6))),
    ]


def view_lines(root: Element) -> list[str]:
    (lines,) = [one for one in root.every("pre") if not one.has_class("grid")]
    return lines.text().split("\n")


def test_scores_and_what_became_of_the_test_inputs() -> None:
    root = check_page(report_page([run_of("a", four_tasks())]))
    table = rows(root, "Scores over the tasks of each run, counted as by solver score")
    assert [row[1:5] for row in table] == [
        ["per_prediction", "2", "4", "50.0%"],
        ["per_task_strict", "2", "4", "50.0%"],
        ["per_task_mean", "2", "4", "50.0%"],
        ["pass_at_1", "1", "4", "25.0%"],
    ]
    assert table[0][5] == "15.0% to 85.0%"
    counts = dict(rows(root, "What became of the test inputs whose answer is known"))
    assert {fate: int(count) for fate, count in counts.items() if int(count)} == {
        SOLVED_BY["network and program"]: 1,
        SOLVED_BY_FALLBACK: 1,
        NOT_CHOSEN: 1,
        NOT_FOUND: 1,
        "all": 4,
    }
    assert "2 of 4 test inputs solved (50.0%)" in root.every("header")[0].text()


def test_fates_tell_the_origins_apart() -> None:
    task = make_task("t")
    right = task.test[0].output
    assert right is not None
    program = ShownCandidate(right, (), -math.inf, None, Program("turn", 1.0, True, 1.0))
    queries = {
        SOLVED_BY["network and program"]: candidate(right, 1, "turn"),
        SOLVED_BY["network"]: candidate(right),
        SOLVED_BY["program"]: program,
    }
    for fate, found in queries.items():
        assert fates([shown(task, (right, wrong(1)), found)]) == {fate: 1}
    assert fates([shown(task, (wrong(2), wrong(1)))]) == {NO_CANDIDATES: 1}
    assert fates([shown(task.without_answers(), (wrong(2), wrong(1)))]) == {}


def test_runs_are_compared_task_by_task() -> None:
    before, after = run_of("a", four_tasks()), run_of("b", four_tasks(second=True), settings={"train.lr": "0.002", "seed": "0"})
    root = check_page(report_page([before, after]))
    compared = rows(root, "Against a, on what both runs answered")
    assert [row[:5] for row in compared] == [["b", "test inputs", "4", "1", "1"], ["b", "tasks", "4", "1", "1"]]
    assert compared[0][5:] == ["+0.0 points (-56.6 to +56.6)", "1"]
    assert rows(root, "Settings in which the runs differ") == [["train.lr", "0.001", "0.002"]]
    (section,) = [one for one in root.every("section") if one.attributes["aria-labelledby"] == "comparison"]
    said = [one for one in section.every("p") if one.text().startswith(("Tasks gained", "Tasks lost"))]
    assert [[link.text() for link in one.every("a")] for one in said] == [["task3"], ["task0"]]
    ids = {one.attributes["id"]: one for one in root.every("details") if one.has_class("task")}
    assert ids[said[0].every("a")[0].attributes["href"][1:]].attributes["data-id"] == "task3"
    assert [set(one.attributes["data-kinds"].split()) for one in ids.values()] == [
        {"solved", "differs", "found"},
        {"solved"},
        {"unsolved", "found"},
        {"solved", "differs"},
    ]


def test_runs_without_a_task_in_common_are_not_compared() -> None:
    one, other = four_tasks()[:1], four_tasks()[1:2]
    root = check_page(report_page([run_of("a", one), run_of("b", other)]))
    assert "cannot be compared" in root.text()
    assert len([task for task in root.every("details") if task.has_class("task")]) == 2


def test_without_answers_there_are_no_scores_and_the_page_says_so() -> None:
    unknown = [replace(one, task=one.task.without_answers()) for one in four_tasks()]
    root = check_page(report_page([run_of("a", unknown)]))
    assert "no answers are known, so there are no scores" in root.every("header")[0].text()
    assert not [one for one in root.every("table") if "Scores" in one.children[0].text()]
    assert "answer not known" in root.text()
    assert "✓" not in root.text()
    assert "✗" not in root.text()


def test_an_empty_run_is_a_page() -> None:
    root = check_page(report_page([run_of("a", [], phases={}, passes=[], waves=[], time_lines=[])]))
    assert "No wave of the network found candidates" in root.text()
    assert "does not say which process did what" in root.text()


def test_a_task_shows_its_attempts_candidates_views_and_passes() -> None:
    one = ShownPass(
        wave=0,
        status="cut",
        plan="5 steps, 8 views",
        reason="because <b>",
        planned=2.0,
        seconds={"fit": 1.25, "infer": 0.5},
        fit="5 steps, loss 2.000 to 1.000, stopped by deadline",
        views=(7,),
        agreement=(0.5,),
        tokens={"trained": 1234},
        worker=2,
        ended=31.75,
        events=("oom: backed off",),
    )
    task = make_task("one")
    right = task.test[0].output
    assert right is not None
    found = candidate(right, 2, "turn & flip", exact=False), candidate(wrong(1))
    made = shown(task, (right, task.train[0].input), *found, passes=(one,))
    root = check_page(report_page([run_of("a", [made])]))
    (entry,) = [details for details in root.every("details") if details.has_class("task")]
    assert "✓ 1 of 1 solved" in entry.every("summary")[0].text()
    captions = [caption.text().split("\n") for caption in entry.every("figcaption")]
    assert [lines[0] for lines in captions[8:]] == [
        "attempt 1: candidate 1, ✓ right",
        "attempt 2: fallback, ✗ wrong",
        "candidate 1: network and program, ✓ right",
        "candidate 2: network, ✗ wrong",
    ]
    words = ["program, cost 3", "found in 50% of copies", "2 votes, nll 1.50, scored 2.50", "rot90 x2", "2 by 3"]
    assert captions[10][1:] == words
    assert "turn & flip" in entry.every("code")[0].text()
    assert view_lines(root)[1].split(maxsplit=4) == ["1", "rot90", "0213456789", "1.0.2", "1 x2 (nll 1.50)"]
    assert rows(root, "Passes") == [
        [
            "1",
            "cut",
            "5 steps, 8 views",
            "5 steps, loss 2.000 to 1.000, stopped by deadline",
            "7",
            "50%",
            "2.0 s",
            "1.8 s (fit 1.2, infer 0.5)",
            "1,234 trained",
            "worker 2, 30 to 32 s",
        ]
    ]
    assert "wave 1: because <b>" in entry.text()
    assert "wave 1: oom: backed off" in entry.text()


def test_what_is_left_out_of_a_task_is_said_and_the_right_candidate_is_drawn() -> None:
    task = make_task("one")
    right = task.test[0].output
    assert right is not None
    found = [*(candidate(wrong(number)) for number in range(20)), candidate(right)]
    answers = tuple((place, 1, -1.0) for place in range(ANSWERS + 3))
    views = tuple(ViewAnswers(wave, VIEW, answers) for wave in range(VIEWS + 5))
    query = ShownQuery(tuple(found), (wrong(0), wrong(1)), views)
    root = check_page(tasks_page("t", [], [ShownTask(task, (query,))]))
    assert f"21 different, {CANDIDATES + 1} of them drawn" in root.text()
    assert "candidate 21: network, ✓ right" in root.text()
    assert len(view_lines(root)) == 1 + VIEWS
    assert view_lines(root)[1].endswith("(nll 1.00), 3 more")
    assert "5 more views are not listed" in root.text()


def test_hostile_names_are_text() -> None:
    task = make_task(EVIL)
    right = task.test[0].output
    assert right is not None
    made = replace(shown(task, (right, wrong(1)), candidate(right, 1, EVIL)), note=EVIL, events=(EVIL,))
    lines = [TimeLine(EVIL, 9.0, (Work(EVIL, 0, 3.0, {"fit": 2.0}),), (Mark(1.0, EVIL),))]
    names = {"facts": [(EVIL, EVIL)], "notes": [EVIL], "time_lines": lines}
    runs = [run_of(f"{EVIL}{number}", [made], settings={EVIL: f"{EVIL}{number}"}, **names) for number in range(2)]
    page = report_page(runs)
    root = check_page(page)
    assert page.count("<script") == 1
    assert root.every("h3")[-1].text() == EVIL


@given(st.lists(st.tuples(any_task(), st.text(max_size=8), grids(6), grids(6)), max_size=3))
def test_every_grid_is_there_as_digits(drawn: list[tuple[Task, str, Grid, Grid]]) -> None:
    """The digits are what a page without script shows, and the text alternative of the pictures."""
    made = [
        ShownTask(replace(task, id=name), (ShownQuery((), (one, other)),) * len(task.test)) for task, name, one, other in drawn
    ]
    root = check_page(tasks_page("tasks", ["a line"], made))
    entries = [one for one in root.every("details") if one.has_class("task")]
    for shown_task, entry in zip(made, entries, strict=True):
        pairs = (*shown_task.task.train, *shown_task.task.test)
        wanted = [side for pair in pairs for side in (pair.input, pair.output) if side is not None]
        wanted += [attempt for query in shown_task.queries for attempt in query.attempts]
        found = [one.text() for one in entry.every("pre")]
        assert found == ["\n".join("".join(map(str, row)) for row in one.tolist()) for one in wanted]


@pytest.mark.parametrize("known", [True, False])
def test_the_filter_offers_only_kinds_that_occur(known: bool) -> None:
    tasks = [one if known else replace(one, task=one.task.without_answers()) for one in four_tasks()]
    root = check_page(report_page([run_of("a", tasks)]))
    offered = {option.attributes["value"] for option in root.every("option")}
    assert offered == ({"", "solved", "unsolved", "found"} if known else {"", "unknown"})
