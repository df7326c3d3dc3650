"""Tables hold the numbers they are given."""

import io

from report_helpers import summary
from rich.console import Console

from solver.report.doctor import Finding
from solver.report.results import TaskResult
from solver.report.tables import findings_table, phases_table, scores_table, summary_view, tasks_table


def text(*views: object) -> str:
    file = io.StringIO()
    console = Console(file=file, width=100)
    for view in views:
        console.print(view)
    return file.getvalue()


def test_summary_says_what_was_done_how_fast_and_why_it_stopped() -> None:
    shown = text(*summary_view(summary()))
    for part in (
        "11 of 12 tasks",
        "1 failed",
        "4:41 of 4:50",
        "all tasks done",
        "720 steps",
        "9,000 tok/s",
        "900 MiB",
        "oom 2",
        "23.1%",
    ):
        assert part in shown, part


def test_summary_without_solutions_shows_no_scores() -> None:
    assert "per_prediction" not in text(*summary_view(summary(scores={})))


def test_phases() -> None:
    phases = {"fit": {"planned": 200.0, "used": 190.4, "error": 0.124}, "load": {"planned": 0.0, "used": 3.0}}
    lines = text(phases_table(phases)).splitlines()
    assert lines[-3].split() == ["fit", "200.0", "s", "190.4", "s", "12%"]
    assert lines[-2].split() == ["load", "-", "3.0", "s", "-"]


def test_scores_keep_fractions() -> None:
    assert "1.5" in text(scores_table({"per_task_mean": {"solved": 1.5, "total": 2, "accuracy": 0.75}}))


def test_findings_show_reasons_and_brackets() -> None:
    shown = text(findings_table([Finding("cuda:0", "P100 [16 GB]", "refused", "no code for it")]))
    assert "P100 [16 GB]" in shown
    assert "no code for it" in shown


def test_tasks() -> None:
    waiting = [TaskResult(f"aaaa000{i}", 2, 0, 0, 0.0, 0, 0, solved) for i, solved in ((2, None), (3, 1), (4, 0))]
    results = [waiting[0], TaskResult("aaaa0001", 2, 1, 60, 9.25, 8, 3, 1), *waiting[1:]]
    lines = text(tasks_table(results)).splitlines()
    assert lines[-3].split() == ["aaaa0001", "1", "60", "9.2", "8", "(3", "different)", "1", "of", "2"]
    assert lines[-2].split() == ["3", "without", "a", "pass", "0", "0", "0.0", "-", "1", "of", "4"]
    assert text(tasks_table(waiting[:1])).split()[-9:] == ["1", "without", "a", "pass", "0", "0", "0.0", "-", "?"]


def test_tasks_with_programs() -> None:
    results = [
        TaskResult("aaaa0001", 2, 1, 60, 9.25, 8, 3, 1, programs=5, exact=2),
        TaskResult("aaaa0002", 2, 0, 0, 0.0, 0, 0, 1, programs=1, exact=1),
        TaskResult("aaaa0003", 1, 1, 60, 9.25, 8, 3, 1),
        TaskResult("aaaa0004", 1, 0, 0, 0.0, 0, 0, 0),
    ]
    first, second, third, last = (line.split() for line in text(tasks_table(results)).splitlines()[-5:-1])
    assert first == ["aaaa0001", "1", "60", "9.2", "8", "(3", "different)", "5,", "exact", "1", "of", "2"]
    assert second == ["aaaa0002", "0", "0", "0.0", "-", "1", "1", "of", "2"]
    assert third[-4:] == ["-", "1", "of", "1"]
    assert last == ["1", "without", "a", "pass", "0", "0", "0.0", "-", "-", "0", "of", "1"]


def test_a_summary_of_programs_alone_names_no_model() -> None:
    settings = {"train": {"trainer": "none"}}
    shown = text(*summary_view(summary(settings=settings, programs_searched=9, programs_exact=4, programs_seconds=12.34)))
    assert "9 tasks searched in 12.3 s, 4 with programs that reproduce every demonstration" in shown
    assert "embedded" not in shown
    assert "programs" not in text(*summary_view(summary()))


def test_summary_lists_the_tasks_first() -> None:
    shown = text(*summary_view(summary(results=(TaskResult("aaaa0001", 1, 1, 60, 9.25, 8, 3, 1),))))
    assert shown.index("aaaa0001") < shown.index("11 of 12 tasks")
