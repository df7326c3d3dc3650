"""Evaluations: rows are measured once, counted right, and shown with intervals; answers never reach a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from solver.arc.datasets import load_tasks, sample_tasks, shortest_tasks
from solver.cli import app
from solver.commands import evaluate
from solver.commands.evaluate import TaskChoice, TaskEvaluation, evaluate_held_out, evaluate_tasks
from solver.errors import InputError
from solver.report.curves import plot_held_out
from solver.report.observer import SilentObserver
from solver.report.scores import HeldOutRow, TaskRow, append_row, hardware_text, held_out_table, read_rows, task_table, wilson
from solver.run.types import RunOptions

ROW = TaskRow("m", "0123456789", "arc1:evaluation", "5m", 0, 300.0, "2 cores", "abcdef0123+", (1, 15), (3, 15), (1, 12))
COUNTS = {"queries": 200, "exact": 20, "tokens": 5000, "right": 4000, "nats": 3000.0}
HELD = HeldOutRow(
    "runs/latest", "0123456789", 100, 1_000_000, 0, 50, **COUNTS, hardware="2 cores", commit="abc", corpora={"rearc": COUNTS}
)


def quiet(line: str) -> None:
    pass


class FakeRuns:
    """Stands for the pipeline: notes what it was asked for and gives scores by the number of the run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[RunOptions] = []
        self.exit_code = 0
        monkeypatch.setattr(evaluate, "run_pipeline", self)

    def __call__(self, options: RunOptions, observer: Any) -> Any:
        self.asked.append(options)
        count = len(options.tasks.split(","))  # type: ignore[union-attr]
        entry = {"solved": min(len(self.asked), count), "total": count, "accuracy": 0.0}
        scores = dict.fromkeys(("pass_at_1", "per_prediction", "per_task_strict"), entry)
        found = {
            "exit_code": self.exit_code,
            "reason": "stopped by SIGTERM" if self.exit_code else "",
            "scores": scores,
            "seconds": 12.34,
            "hardware": {"cpu": "A CPU", "cores": 2, "threads": 1, "device": "cpu"},
            "commit": "c0ffee",
            "settings": options.settings.model_dump(mode="json"),
        }
        options.out.mkdir(parents=True)
        (options.out / "summary.json").write_text(json.dumps(found))
        return type("S", (), {"to_json": lambda _: found})()


PLAN = TaskEvaluation((TaskChoice("arc1:evaluation", 3, 60),), ("0", "90s"))


def test_every_budget_gets_the_same_tasks_and_samples(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = FakeRuns(monkeypatch)
    rows = evaluate_tasks([tiny_base], PLAN, tmp_path, SilentObserver, quiet)
    none, some = runs.asked
    expected = sample_tasks(shortest_tasks(load_tasks("arc1:evaluation"), 60), 3)
    assert none.tasks == some.tasks == ",".join(expected.ids)
    assert (none.settings.train.steps, none.settings.budget.policy) == (0, "fixed")
    assert none.settings.infer == some.settings.infer
    assert some.settings.train.steps != 0
    assert some.budget == 90.0
    assert [row.pass_at_2 for row in rows] == [(1, 3), (2, 3)]
    assert rows[0].hardware == "1 of 2 cores, A CPU"
    assert rows[0].tasks == "arc1:evaluation, the 60 shortest, 3 by hash"
    table = (tmp_path / "tasks.md").read_text()
    assert "no test-time training" in table
    assert "2 of 3: 66.7% (20.8% to 93.9%)" in table


def test_what_is_in_the_table_is_not_run_again(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = FakeRuns(monkeypatch)
    first = evaluate_tasks([tiny_base], PLAN, tmp_path, SilentObserver, quiet)
    assert evaluate_tasks([tiny_base], PLAN, tmp_path, SilentObserver, quiet) == first
    assert len(runs.asked) == 2
    evaluate_tasks([tiny_base], replace(PLAN, seeds=(0, 1)), tmp_path, SilentObserver, quiet)
    assert [options.settings.seed for options in runs.asked] == [0, 0, 1, 1]
    evaluate_tasks([tiny_base], replace(PLAN, overrides=("train.rank=8",)), tmp_path, SilentObserver, quiet)
    assert len(runs.asked) == 6
    assert len({options.out for options in runs.asked}) == 6
    # a run whose row was lost is read, not repeated
    (tmp_path / "tasks.jsonl").unlink()
    assert evaluate_tasks([tiny_base], PLAN, tmp_path, SilentObserver, quiet) == first
    assert len(runs.asked) == 6


def test_many_settings_still_make_a_folder_of_their_own(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = FakeRuns(monkeypatch)
    ranks = tuple(f"train.rank={rank}" for rank in range(1, 40))
    for overrides in (ranks, (*ranks, "train.rank=8")):
        evaluate_tasks([tiny_base], replace(PLAN, overrides=overrides), tmp_path, SilentObserver, quiet)
    assert len({options.out for options in runs.asked}) == 4
    assert all((options.out / "summary.json").exists() for options in runs.asked)


def test_a_run_that_was_stopped_leaves_no_row(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = FakeRuns(monkeypatch)
    runs.exit_code = 143
    with pytest.raises(InputError, match="SIGTERM"):
        evaluate_tasks([tiny_base], PLAN, tmp_path, SilentObserver, quiet)
    assert read_rows(tmp_path / "tasks.jsonl", TaskRow) == []


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["embedded", "--on", "arc1:evaluation"], "--out"),
        (["nowhere", "--on", "arc1:evaluation", "--out", "OUT"], "nowhere: no such model folder"),
        (["nowhere"], "nowhere: no such model folder"),
        (["embedded", "--on", "arc1:evaluation", "--out", "OUT", "--budgets", "0,5x"], "'5x' is not a duration"),
        (["embedded", "--on", "arc3:nothing", "--out", "OUT"], "arc3:nothing"),
        (["embedded", "--on", "arc1:evaluation", "--out", "OUT", "--set", "train.ranks=3"], "train.ranks"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(options: list[str], wanted: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["evaluate", *(str(out) if option == "OUT" else option for option in options)])
    assert done.exit_code == 2
    assert wanted in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not out.exists()


def test_rows_survive_the_disk_and_bad_lines_are_named(tmp_path: Path) -> None:
    append_row(tmp_path / "a" / "tasks.jsonl", ROW)
    append_row(tmp_path / "a" / "tasks.jsonl", replace(ROW, settings=("train.rank=8",)))
    assert read_rows(tmp_path / "a" / "tasks.jsonl", TaskRow) == [ROW, replace(ROW, settings=("train.rank=8",))]
    append_row(tmp_path / "held.jsonl", HELD)
    assert read_rows(tmp_path / "held.jsonl", HeldOutRow) == [HELD]
    with (tmp_path / "held.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(InputError, match=r"held\.jsonl: line 2"):
        read_rows(tmp_path / "held.jsonl", HeldOutRow)


def test_tables_have_as_many_cells_as_heads() -> None:
    for text in (task_table([ROW, replace(ROW, recipe="mit", settings=("a=1",))]), held_out_table([HELD])):
        widths = {line.count("|") for line in text.splitlines()}
        assert len(widths) == 1
    assert "abcdef0+" in task_table([ROW])
    assert "20 of 200: 10.0% (6.6% to 14.9%)" in held_out_table([HELD])
    later = replace(HELD, trained_tokens=9_000_000)
    assert held_out_table([later, HELD]).index("1.00M") < held_out_table([later, HELD]).index("9.00M")


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(counts: tuple[int, int]) -> None:
    hits, total = counts
    low, high = wilson(hits, total)
    assert 0 <= low <= hits / total <= high <= 1
    assert low < high


def test_a_curve_is_drawn_from_rows_that_know_their_tokens(tmp_path: Path) -> None:
    rows = [HELD, replace(HELD, trained_tokens=None), replace(HELD, trained_tokens=2_000_000, exact=30)]
    plot_held_out(rows, tmp_path / "c.png", pytest.fail)
    plot_held_out([], tmp_path / "empty.png", pytest.fail)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "empty.png").read_bytes()


def test_a_gpu_is_named_instead_of_its_cores() -> None:
    assert hardware_text({"cpu": "x", "cores": 16, "threads": "16", "device": "NVIDIA H200"}) == "NVIDIA H200"


def test_held_out_rows_gather_over_checkpoints(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solver.pretrain.evaluate import AnswerCounts, HeldOut

    asked: list[Path] = []

    def fake(folder: Path, *rest: Any) -> HeldOut:
        asked.append(folder)
        counts = {"rearc": AnswerCounts(60, 6, 900, 800, 300.0), "arc1": AnswerCounts(40, 0, 100, 50, 90.0)}
        return HeldOut(counts, 50, {"device": "cpu"})

    monkeypatch.setattr("solver.pretrain.evaluate.evaluate", fake)
    (row,) = evaluate_held_out([tiny_base], None, tmp_path, 90, 0, tmp_path / "out", quiet)
    assert (row.queries, row.exact, row.tokens, row.right, row.nats, row.families) == (100, 6, 1000, 850, 390.0, 50)
    assert row.trained_tokens is None
    evaluate_held_out([tiny_base], None, tmp_path, 90, 0, tmp_path / "out", quiet)
    assert len(asked) == 1
    evaluate_held_out([tiny_base, None], None, tmp_path, 90, 1, tmp_path / "out", quiet)
    assert len(asked) == 3
    assert len(read_rows(tmp_path / "out" / "held_out.jsonl", HeldOutRow)) == 3
    assert (tmp_path / "out" / "held_out.md").read_text().count("\n") == 5
    # other corpora, other queries; the same ones elsewhere are the same
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.json").write_text("{}")
        evaluate_held_out([tiny_base], tmp_path / place, tmp_path, 90, 0, tmp_path / "out", quiet)
        assert len(asked) == 4
    (tmp_path / "there" / "more.json").write_text("{}")
    evaluate_held_out([tiny_base], tmp_path / "there", tmp_path, 90, 0, tmp_path / "out", quiet)
    assert len(asked) == 5
    assert (tmp_path / "out" / "held_out.png").exists()


@pytest.mark.slow
def test_real_runs_with_and_without_test_time_training(tiny_base: Path, tmp_path: Path) -> None:
    plan = TaskEvaluation(
        (TaskChoice("arc1:evaluation", 1, 10),), ("0", "60s"), overrides=("infer.views.count=2", "model.threads=1")
    )
    none, some = evaluate_tasks([tiny_base], plan, tmp_path, SilentObserver, quiet)
    for row in (none, some):
        assert row.pass_at_2[1] >= 1
        assert row.tasks_solved[1] == 1
    assert none.seconds < 86400
    steps = [json.loads((folder / "summary.json").read_text())["steps"] for folder in sorted((tmp_path / "runs").iterdir())]
    assert sorted(step > 0 for step in steps) == [False, True]
