"""Tables hold the numbers they are given."""

import io

from rich.console import Console

from solver.report.doctor import Finding
from solver.report.results import TaskResult
from solver.report.tables import findings_table, phases_table, scores_table, summary_view, tasks_table
from solver.run.types import Summary


def text(*views: object) -> str:
    file = io.StringIO()
    console = Console(file=file, width=100)
    for view in views:
        console.print(view)
    return file.getvalue()


def summary(**changes: object) -> Summary:
    fields: dict[str, object] = {
        "exit_code": 0,
        "reason": "all tasks done",
        "tasks": 12,
        "queries": 13,
        "done": 11,
        "failed": 1,
        "waves": 2,
        "seconds": 281.3,
        "budget": 290.0,
        "trainer": "full",
        "engine": "hf",
        "dtype": "float32",
        "device": "cpu",
        "steps": 720,
        "trained_tokens": 1234567,
        "prompt_tokens": 5,
        "sampled_tokens": 98765,
        "trained_rate": 9000.0,
        "sampled_rate": 800.0,
        "peak_memory_worker": 900 * 2**20,
        "peak_memory_supervisor": 90 * 2**20,
        "phases": {"fit": {"planned": 200.0, "used": 190.4}},
        "agreement": 0.62,
        "events": {"oom": 2},
        "scores": {"per_prediction": {"solved": 3, "total": 13, "accuracy": 3 / 13}},
        "model": "embedded",
        "recipe": "default",
        "machine": "",
        "settings": {},
        "versions": {},
        "hardware": {},
        "commit": "",
    }
    return Summary(**{**fields, **changes})  # type: ignore[arg-type]


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
    lines = text(phases_table({"fit": {"planned": 200.0, "used": 190.4}, "load": {"planned": 0.0, "used": 3.0}})).splitlines()
    assert lines[-3].split() == ["fit", "200.0", "s", "190.4", "s"]
    assert lines[-2].split() == ["load", "-", "3.0", "s"]


def test_scores_keep_fractions() -> None:
    assert "1.5" in text(scores_table({"per_task_mean": {"solved": 1.5, "total": 2, "accuracy": 0.75}}))


def test_findings_show_reasons_and_brackets() -> None:
    shown = text(findings_table([Finding("cuda:0", "P100 [16 GB]", "refused", "no code for it")]))
    assert "P100 [16 GB]" in shown
    assert "no code for it" in shown


def test_tasks() -> None:
    results = [TaskResult("aaaa0001", 2, 1, 60, 9.25, 8, 3, 1), TaskResult("aaaa0002", 1, 0, 0, 0.0, 0, 0, None)]
    lines = text(tasks_table(results)).splitlines()
    assert lines[-3].split() == ["aaaa0001", "1", "60", "9.2", "8", "(3", "different)", "1", "of", "2"]
    assert lines[-2].split() == ["aaaa0002", "0", "0", "0.0", "-", "?"]


def test_summary_lists_the_tasks_first() -> None:
    shown = text(*summary_view(summary(results=(TaskResult("aaaa0001", 1, 1, 60, 9.25, 8, 3, 1),))))
    assert shown.index("aaaa0001") < shown.index("11 of 12 tasks")
