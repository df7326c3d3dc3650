"""Experiments are conducted: rows once, whatever ends a process; the same tasks for all arms; a budget for all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import SUBJECT, TABLE, FakeRuns, Killed, flat_estimate
from run_helpers import make_tasks

from solver.arc.task import Task
from solver.errors import InputError
from solver.experiments.arms import Arm, Circumstances, Experiment
from solver.experiments.compare import reports
from solver.experiments.conduct import Conducted
from solver.experiments.conduct import conduct as conduct_with
from solver.experiments.planned import Study, Subject
from solver.experiments.rows import RESULTS, ResultFile
from solver.experiments.tasks import content_digest
from solver.report.observer import SilentObserver

TASKS = list(make_tasks(6, tests=2))
SHARED = replace(TABLE, arms=(*TABLE.arms[:1], Arm("shared", "train.shared=true", "usual")))


def conduct(
    out: Path,
    runs: Any,
    tasks: list[Task] = TASKS,
    budget: float | None = None,
    lines: list[str] | None = None,
    subjects: tuple[Subject, ...] = (SUBJECT,),
    seeds: tuple[int, ...] = (0,),
    **changes: Any,
) -> tuple[Conducted, ResultFile]:
    rows = ResultFile(out)
    study = Study(subjects, tuple(tasks), seeds, Circumstances(), out)
    given: dict[str, Any] = {"estimate": flat_estimate(), **changes}
    told = lines if lines is not None else []
    return conduct_with(study, rows, budget, runs, SilentObserver, told.append, **given), rows


def test_arms_that_only_choose_otherwise_share_a_run(tmp_path: Path) -> None:
    runs = FakeRuns()
    done, _ = conduct(tmp_path, runs)
    assert len(runs.options) == 2
    assert [[arm.name for arm in run.arms] for run in done.runs] == [["usual", "flat", "turned", "oracle"], ["less"]]
    assert len((tmp_path / RESULTS).read_text().splitlines()) == 5 * len(TASKS)
    for options in runs.options:
        assert (options.settings.budget.policy, options.settings.programs.enabled) == ("fixed", False)
        assert options.challenges == runs.options[0].challenges


def test_what_has_a_row_is_not_measured_again(tmp_path: Path) -> None:
    conduct(tmp_path, FakeRuns())
    again, lines = FakeRuns(), []
    conduct(tmp_path, again, lines=lines)
    assert again.asked == []
    assert lines == ["5 arms over 6 tasks: every row is there"]
    conduct(tmp_path, again, list(make_tasks(8, tests=2)))
    assert sorted(again.asked) == [(rank, f"task{n:03}") for rank in (4, 32) for n in (6, 7)]


def test_a_kill_loses_no_finished_task(tmp_path: Path) -> None:
    first = FakeRuns(dies_after=8)  # in the second run
    with pytest.raises(Killed):
        conduct(tmp_path, first)
    second = FakeRuns()
    done, rows = conduct(tmp_path, second)
    assert sorted(first.asked + second.asked) == sorted((rank, task.id) for rank in (4, 32) for task in TASKS)
    assert all(not run.lacking(rows) for run in done.runs)


def test_rows_survive_the_loss_of_the_runs_and_torn_lines(tmp_path: Path) -> None:
    conduct(tmp_path, FakeRuns())
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    file = tmp_path / RESULTS
    file.write_text(file.read_text()[:-40])  # the end of the last line
    runs = FakeRuns()
    conduct(tmp_path, runs)
    assert runs.asked == [(4, "task005")]
    file.write_text("{}\n")
    with pytest.raises(InputError, match="line 1 is not a row"):
        ResultFile(tmp_path)


def test_other_settings_seeds_or_models_are_other_rows(tmp_path: Path) -> None:
    conduct(tmp_path, FakeRuns())
    for changes in ({"seeds": (1,)}, {"subjects": (replace(SUBJECT, identity="another"),)}):
        runs = FakeRuns()
        conduct(tmp_path, runs, **changes)
        assert len(runs.asked) == 2 * len(TASKS)
    runs = FakeRuns()
    table = replace(TABLE, base=(*TABLE.base, "train.lr=1e-3"))
    conduct(tmp_path, runs, subjects=(replace(SUBJECT, tables=(table,)),))
    assert len(runs.asked) == 2 * len(TASKS)


def test_a_shared_adapter_is_fitted_again_for_other_tasks(tmp_path: Path) -> None:
    subjects = (replace(SUBJECT, tables=(SHARED,)),)
    conduct(tmp_path, FakeRuns(), TASKS[:3], subjects=subjects)
    runs = FakeRuns()
    done, rows = conduct(tmp_path, runs, TASKS, subjects=subjects)
    study = done.study
    assert len([options for options in runs.options if options.settings.train.shared]) == 1
    assert len(runs.asked) == 3 + 6  # three new ones, and all of the shared adapter
    row = rows.row(study.key(subjects[0], SHARED, SHARED.arms[1], 0), content_digest([TASKS[0]]))
    assert row is not None
    assert (row.steps, row.tokens, row.seconds) == (2, 170, 2.5)  # a sixth of the shared fit, and the pass itself


def test_the_budget_takes_fewer_tasks_for_all_arms(tmp_path: Path) -> None:
    lines: list[str] = []
    runs = FakeRuns(seconds=10.0)
    # 2 runs x (2 s + 10 s a task): 4 tasks are 84 s
    done, _ = conduct(tmp_path, runs, budget=100.0, lines=lines, estimate=flat_estimate(10.0), clock=lambda: runs.now)
    assert list(done.study.tasks) == TASKS[:4]
    assert lines[0] == "5 arms over 6 tasks: 2 runs are needed, estimated 2 min"
    assert "the first 4 of 6 tasks" in lines[1]
    assert sorted(runs.asked) == [(rank, task.id) for rank in (4, 32) for task in TASKS[:4]]
    assert [options.budget for options in runs.options] == [50.0, 58.0]


def test_rows_that_are_there_leave_room_in_the_budget(tmp_path: Path) -> None:
    conduct(tmp_path, FakeRuns(seconds=10.0), TASKS[:4])
    done, _ = conduct(tmp_path, FakeRuns(seconds=10.0), budget=50.0, estimate=flat_estimate(10.0))
    assert len(done.study.tasks) == 6  # only two are left


@pytest.mark.parametrize(("seconds", "tasks"), [(1.5, 6), (10.0, 4), (12.0, 3)])
def test_the_first_run_corrects_the_estimate(seconds: float, tasks: int, tmp_path: Path) -> None:
    lines: list[str] = []
    runs = FakeRuns(seconds=seconds)
    done, rows = conduct(tmp_path, runs, budget=100.0, lines=lines, estimate=flat_estimate(10.0), clock=lambda: runs.now)
    assert len(done.study.tasks) == tasks
    assert all(not run.lacking(rows) for run in done.runs)
    assert len(runs.asked) == len(set(runs.asked))
    assert ("by the time that was used" in lines[3]) == (tasks != 4)


def test_without_a_budget_the_first_run_tells_how_long_the_others_take(tmp_path: Path) -> None:
    lines: list[str] = []
    conduct(tmp_path, FakeRuns(seconds=100.0), lines=lines)
    assert lines[0].endswith("estimated 22 s")
    assert lines[2] == "the other runs: estimated 10 min"


def test_no_run_is_started_without_time(tmp_path: Path) -> None:
    now = iter([0.0, 0.0, *([95.0] * 20)])
    runs = FakeRuns()
    done, _ = conduct(tmp_path, runs, TASKS[:1], budget=100.0, clock=lambda: next(now))
    assert len(runs.options) == 1
    assert done.runs[1].failure == "the budget is used up"


def test_a_signal_ends_the_experiment_and_keeps_its_rows(tmp_path: Path) -> None:
    runs = FakeRuns(exit_code=143, stops_after=2)
    done, rows = conduct(tmp_path, runs)
    assert (done.exit_code, done.stopped) == (143, "the end")
    assert len(runs.options) == 1
    assert rows.row(done.runs[0].key, content_digest([TASKS[1]])) is not None


def test_an_arm_that_cannot_be_run_leaves_the_others(tmp_path: Path) -> None:
    good = FakeRuns()

    def some_fail(options: Any, observer: Any) -> Any:
        if options.settings.train.rank == 4:
            raise InputError("no such quantisation")
        return good(options, observer)

    done, rows = conduct(tmp_path, some_fail)
    (table,) = reports(Experiment("e", "E", "nobody", (TABLE,)), [SUBJECT], done, rows, "made tasks")
    assert [line.failure for line in table.lines if line.tasks == 0] == ["no such quantisation"]

    def all_fail(options: Any, observer: Any) -> Any:
        raise InputError("no model")

    with pytest.raises(InputError, match="no model"):
        conduct(tmp_path / "other", all_fail)


def test_a_run_that_ends_early_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    done, _ = conduct(tmp_path, FakeRuns(stops_after=4), lines=lines)
    assert done.runs[0].failure == "2 of 6 tasks: the end"
    assert any("no result for 2 of 6 tasks" in line for line in lines)
    runs = FakeRuns()
    conduct(tmp_path, runs)
    assert sorted(runs.asked) == [(rank, task.id) for rank in (4, 32) for task in TASKS[4:]]


def test_every_seed_has_runs_of_its_own() -> None:
    runs = Study((SUBJECT,), tuple(TASKS), (0, 1), Circumstances(), Path()).runs()
    assert [run.settings.seed for run in runs] == [0, 0, 1, 1]
    assert len({arm.key for run in runs for arm in run.arms}) == 10
