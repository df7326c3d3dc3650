"""Reports from rows: the same tasks on both sides of a comparison, means over seeds, losses, and what the source says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from experiment_runs import SUBJECT, TABLE, FakeRuns
from run_helpers import make_tasks

from solver.experiments.arms import Circumstances, Experiment, Lowest
from solver.experiments.compare import compare_losses, mean_loss, reports
from solver.experiments.conduct import Conducted, conduct
from solver.experiments.planned import Study, Subject
from solver.experiments.rows import LossRow, ResultFile
from solver.report.arms_table import AGREES, ArmLine, ArmsReport
from solver.report.observer import SilentObserver

TASKS = list(make_tasks(6, tests=2))
EXPERIMENT = Experiment("e", "E", "nobody", (TABLE,))


def conducted(
    out: Path, runs: FakeRuns, subjects: tuple[Subject, ...] = (SUBJECT,), seeds: tuple[int, ...] = (0,)
) -> tuple[Conducted, ResultFile]:
    rows = ResultFile(out)
    study = Study(subjects, tuple(TASKS), seeds, Circumstances(), out)
    done = conduct(study, rows, None, runs, SilentObserver, lambda line: None)
    return done, rows


def lines_of(report: ArmsReport) -> dict[str, ArmLine]:
    return {line.arm: line for line in report.lines}


def test_counts_pairs_and_verdicts(tmp_path: Path) -> None:
    done, rows = conducted(tmp_path, FakeRuns(right=lambda s, id_: id_ < ("task001" if s.train.rank == 4 else "task004")))
    (report,) = reports(EXPERIMENT, [SUBJECT], done, rows, "made tasks")
    lines = lines_of(report)
    usual = lines["usual"]
    assert (usual.tasks_solved, usual.tasks, usual.inputs_solved, usual.inputs) == (4, 6, 8, 12)
    compared = lines["less"].compared
    assert compared is not None
    assert (compared.against, compared.total, compared.better, compared.worse) == ("usual", 6, 0, 3)
    assert compared.difference == pytest.approx(-0.5)
    assert lines["less"].verdict == AGREES
    assert any("12 test inputs belong to 6 tasks, each of which has more than one." in fact for fact in report.facts)
    agreeing = "less, p = 0.25 (may be chance); oracle, p = 0.5 (may be chance)."
    assert report.statements[0] == f"The direction agrees with the source: {agreeing}"


def test_only_tasks_that_both_have_are_compared(tmp_path: Path) -> None:
    class Cut(FakeRuns):
        def __call__(self, options, observer):  # type: ignore[no-untyped-def]
            self.stops_after = 2 if options.settings.train.rank == 4 else None
            return super().__call__(options, observer)

    done, rows = conducted(tmp_path, Cut())
    (report,) = reports(EXPERIMENT, [SUBJECT], done, rows, "made tasks")
    less = lines_of(report)["less"]
    assert (less.tasks, less.failure) == (2, "4 of 6 tasks: the end")
    assert less.compared is not None
    assert less.compared.total == 2


def test_a_task_counts_once_however_many_seeds_there_are(tmp_path: Path) -> None:
    right = lambda s, id_: s.seed == 0 or id_ == "task000"  # noqa: E731
    done, rows = conducted(tmp_path, FakeRuns(right=right), seeds=(0, 1))
    (report,) = reports(EXPERIMENT, [SUBJECT], done, rows, "made tasks")
    usual = lines_of(report)["usual"]
    assert (usual.tasks, usual.tasks_solved) == (6, 3.5)
    assert "seeds 0, 1" in report.facts[0]


def test_models_are_compared_with_the_reference(tmp_path: Path) -> None:
    other = replace(SUBJECT, name="another", identity="another")
    done, rows = conducted(tmp_path, FakeRuns(), (other, SUBJECT))
    (report,) = reports(EXPERIMENT, [other, SUBJECT], done, rows, "made tasks", reference="a model")
    against = {(line.model, line.arm): line.compared.against if line.compared else "" for line in report.lines}
    assert against["another", "usual"] == against["another", "less"] == "a model"
    assert against["a model", "usual"] == ""
    assert against["a model", "less"] == "usual"


def test_the_weakest_arm_is_named(tmp_path: Path) -> None:
    table = replace(TABLE, lowest=Lowest(("usual", "less"), "less", "rank"))
    subject = replace(SUBJECT, tables=(table,))
    done, rows = conducted(tmp_path, FakeRuns(right=lambda s, id_: s.train.rank != 4), (subject,))
    (report,) = reports(replace(EXPERIMENT, tables=(table,)), [subject], done, rows, "made tasks")
    assert report.statements[-1] == "The weakest rank of the source is less; measured (a model): less, 0.0 % of tasks: agrees."


def loss(*nats: float) -> list[LossRow]:
    return [LossRow("k", "c", "t", nats, (10,) * len(nats), "", "")]


def test_losses() -> None:
    assert mean_loss(loss(2.0, 4.0)) == (3.0, 0.3)
    assert mean_loss(loss(2.0, float("nan"))) == (2.0, 0.2)
    assert mean_loss([]) is None
    compared = compare_losses({"a": loss(1.0), "b": loss(2.0), "c": loss(9.0)}, {"a": loss(2.0), "b": loss(5.0), "d": loss(0.0)})
    assert compared is not None
    assert (compared.total, compared.mean, compared.median, compared.fewer) == (2, -2.0, -2.0, 2)
    assert compared.error == pytest.approx(1.0)
    assert compare_losses({}, {}) is None
