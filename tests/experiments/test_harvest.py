"""Rows from ledgers: an arm that leaves out views gets the answers that it would have asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from experiment_runs import SUBJECT, TABLE, FakeRuns
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import make_tasks

from solver.arc.view import TRANSFORMS
from solver.config import Settings, load_settings
from solver.experiments.arms import Circumstances
from solver.experiments.conduct import conduct
from solver.experiments.harvest import adapters_of, last_outcomes, serves, views_of
from solver.experiments.planned import Study
from solver.experiments.rows import ResultFile
from solver.model.folder import EMBEDDED
from solver.report.observer import SilentObserver
from solver.worker.solve import inference_views

TASK = make_tasks(1).tasks[0]
RUN = load_settings(recipe="mit", overrides=["budget.policy=fixed"])


def arm(*overrides: str) -> Settings:
    return load_settings(recipe="mit", overrides=["budget.policy=fixed", *overrides])


@pytest.mark.parametrize(
    ("override", "served"),
    [
        ('select.rule="flat_vote"', True),
        ('infer.views.transforms=["transpose"]', True),
        ("infer.permutations=1", True),
        ("infer.views.count=1", True),
        ("infer.permutations=3", False),
        ("train.rank=4", False),
        ("budget.fixed_waves=[0]", False),
        ("infer.grammar=true", False),
        ("seed=1", False),
    ],
)
def test_what_a_run_serves(override: str, served: bool) -> None:
    assert serves(RUN, arm(override)) == served


def test_runs_that_score_or_leave_out_views_serve_no_other_views() -> None:
    turned = 'infer.views.transforms=["rot90"]'
    assert not serves(arm("infer.score=true"), arm("infer.score=true", turned))
    assert not serves(arm("infer.views.count=3"), arm("infer.views.count=3", turned))
    assert serves(arm("infer.score=true"), arm("infer.score=true", 'select.rule="flat_vote"'))


@given(
    st.lists(st.sampled_from(TRANSFORMS), min_size=1, max_size=8, unique=True),
    st.integers(1, 2),
    st.one_of(st.none(), st.integers(1, 16)),
)
def test_the_views_of_an_arm_are_as_many_and_of_the_same_kind(transforms: list[str], draws: int, count: int | None) -> None:
    names = ",".join(f'"{name}"' for name in transforms)
    overrides = [f"infer.views.transforms=[{names}]", f"infer.permutations={draws}"]
    settings = arm(*overrides, *([f"infer.views.count={count}"] if count else []))
    wanted = inference_views(settings, TASK, 0)[:count]
    found = views_of(RUN, settings, TASK)
    assert [key.split("/")[0] for key in found] == [view.transform for view in wanted]
    first = len(transforms)
    assert found[:first] == [view.key for view in wanted[:first]]  # those that keep colours and order are the very same
    assert set(found) <= {view.key for view in inference_views(RUN, TASK, 0)}


def test_rows_count_attempts_first_attempts_and_candidates(tmp_path: Path) -> None:
    tasks = list(make_tasks(4, tests=2))
    runs = FakeRuns(right=lambda settings, id_: id_ < "task002" and settings.train.rank != 4)
    rows = ResultFile(tmp_path)
    study = Study((SUBJECT,), tuple(tasks), (0,), Circumstances(), tmp_path)
    conduct(study, rows, None, runs, SilentObserver, lambda line: None)
    by_arm = {
        arm.name: [rows.row(study.key(SUBJECT, TABLE, arm, 0), content) for content in contents(tasks)] for arm in TABLE.arms
    }
    solved = {name: [row.solved for row in found if row is not None] for name, found in by_arm.items()}
    assert solved["usual"] == [(True, True), (True, True), (False, False), (False, False)]
    assert solved["less"] == [(False, False)] * 4
    assert solved["oracle"] == [(True, True)] * 4
    assert solved["flat"] == solved["turned"] == solved["usual"]
    views = {name: {row.candidates for row in found if row is not None} for name, found in by_arm.items()}
    assert views["usual"] == {16}
    assert views["turned"] == {2}
    first = by_arm["usual"][0]
    assert first is not None
    assert (first.first, first.steps, first.tokens, first.seconds) == ((True, True), 5, 70, 1.5)


def contents(tasks: list) -> list[str]:
    from solver.experiments.tasks import content_digest

    return [content_digest([task]) for task in tasks]


def test_adapters_of_several_runs_have_different_names(tmp_path: Path) -> None:
    """An engine keeps what it has loaded by the name of the adapter, and every run calls its first one the same."""
    rows = ResultFile(tmp_path)
    study = Study((SUBJECT,), tuple(make_tasks(2)), (0,), Circumstances(), tmp_path)
    done = conduct(study, rows, None, FakeRuns(), SilentObserver, lambda line: None)
    names = [ref.id for run in done.runs for ref in adapters_of(run.folders()[0], run.settings).values() if ref is not None]
    assert len(names) == 4
    assert len({name.rpartition("-")[0] for name in names}) == 2  # one for each run
    paths = {ref.path for run in done.runs for ref in adapters_of(run.folders()[0], run.settings).values() if ref is not None}
    assert paths == {EMBEDDED}  # as the run has it


def test_no_ledger_and_a_damaged_one_hold_nothing(tmp_path: Path) -> None:
    assert last_outcomes(tmp_path, RUN) == []
    (tmp_path / "run.db").write_bytes(b"not a database" * 100)
    assert last_outcomes(tmp_path, RUN) == []
