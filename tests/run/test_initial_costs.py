"""Where a run's idea of costs comes from, and what it learns from: profiles good and bad, its own ledger, finished passes."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from run_helpers import FAST, assert_valid, grid, make_tasks, outcome, run_it, write_challenges

from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.budget.gains import load_gains
from solver.budget.prior import model_of, stored
from solver.budget.profile import save_profile
from solver.budget.workload import TaskShape, shape_of
from solver.commands.record import fit_gains, read_record
from solver.config import load_settings
from solver.errors import InputError
from solver.host import hardware
from solver.run.initial_costs import initial_costs, remember
from solver.run.ledger import Event, Ledger
from solver.run.run_facts import Identity, RunFacts
from solver.run.types import RunOptions
from solver.types import TaskPlan
from solver.worker.solve import inference_views


def options(profile: Path | None, **more: object) -> RunOptions:
    overrides = [f'budget.profile="{profile}"'] if profile is not None else []
    return RunOptions(None, Path("out"), 60.0, settings=load_settings(overrides=overrides), **more)  # type: ignore[arg-type]


def test_a_profile_of_this_machine_is_believed(tmp_path: Path) -> None:
    profile = stored().model_copy(update={"model": model_of(None)})
    here = profile.machine.model_copy(update={"device": hardware({})["cpu"], "threads": hardware({})["cores"]})
    save_profile(tmp_path / "profile.json", profile.model_copy(update={"machine": here, "derivation": ""}))
    warnings: list[str] = []
    costs = initial_costs(options(tmp_path / "profile.json"), warnings.append)
    assert warnings == []
    assert costs.known("fit")
    elsewhere = here.model_copy(update={"device": "some other processor"})
    save_profile(tmp_path / "profile.json", profile.model_copy(update={"machine": elsewhere, "derivation": ""}))
    assert not initial_costs(options(tmp_path / "profile.json"), warnings.append).known("fit")
    fewer = here.model_copy(update={"threads": here.threads + 1})
    save_profile(tmp_path / "profile.json", profile.model_copy(update={"machine": fewer, "derivation": ""}))
    assert not initial_costs(options(tmp_path / "profile.json"), warnings.append).known("fit")
    assert len(warnings) == 2
    assert "some other processor" in warnings[0]
    assert f"made with {here.threads + 1} threads, a worker here has {here.threads}" in warnings[1]


def test_a_profile_of_another_model_is_a_hint(tmp_path: Path, tiny_base: Path) -> None:
    save_profile(tmp_path / "profile.json", stored().model_copy(update={"derivation": ""}))
    warnings: list[str] = []
    costs = initial_costs(options(tmp_path / "profile.json", model=tiny_base), warnings.append)
    assert any("embedded" in warning for warning in warnings)
    assert not costs.known("fit")


@pytest.mark.parametrize("content", [None, "{", "[1, 2]", '{"version": 99}', '{"version": 1, "machine": 3}', "\x00\x01"])
def test_a_profile_that_cannot_be_read_is_named_and_set_aside(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_text(content)
    warnings: list[str] = []
    costs = initial_costs(options(path), warnings.append)
    assert "profile.json" in warnings[0]
    assert costs.forecast(next(iter(make_shapes())), TaskPlan(10, 8, 1)).seconds > 0


@pytest.mark.parametrize(("content", "said"), [("{", "cut off"), (None, "is about the model embedded")])
def test_a_run_goes_on_with_a_profile_that_says_little(tmp_path: Path, tiny_base: Path, content: str | None, said: str) -> None:
    """Damaged, or of another model: the ledger tells, and the run is done in full."""
    path = tmp_path / "profile.json"
    if content is None:
        save_profile(path, stored())
    else:
        path.write_text(content)
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(2))
    settings = [*FAST, f'budget.profile="{path}"']
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), set=settings)
    assert done.returncode == 0, done.stderr + done.stdout
    ledger = Ledger.read(tmp_path / "out" / "run.db")
    assert any(event.kind == "profile" and said in event.detail for event in ledger.events())
    assert set(ledger.statuses().values()) == {"complete"}


def make_shapes() -> list[TaskShape]:
    return [shape_of(task) for task in make_tasks(3)]


def answer(task: Task) -> Grid:
    """Not the input, which is what a run falls back on."""
    return (task.test[0].input + 1) % 10


def ledger_of(folder: Path, right: bool, given: str | None = None) -> Ledger:
    """A run of two tasks, two passes each, whose candidates are right from the second pass on, or never."""
    folder.mkdir()
    tasks = make_tasks(2)
    settings = load_settings(overrides=["select.rule=flat_vote"])
    ledger = Ledger.open(folder / "run.db", Identity(tasks.fingerprint, "m", 0, "r", {}), tasks)
    ledger.set_facts(RunFacts(all_settings=settings.model_dump(mode="json"), solutions=given))
    for wave in (0, 1):
        for task in tasks:
            keys = [view.key for view in inference_views(settings, task, wave)]
            shown = answer(task) if right and wave else grid(77, 5, 5)
            made = outcome(task.id, wave, grids=(shown, shown), views=8)
            (query,) = made.queries
            candidates = tuple(replace(c, view=key) for c, key in zip(query.candidates, keys, strict=False))
            ledger.plan(task.id, wave, TaskPlan(5, 8, 1), 2.0, "why")
            ledger.record(replace(made, queries=(replace(query, candidates=candidates, scores=()),)))
    return ledger


def solutions(folder: Path) -> str:
    path = folder / "solutions.json"
    path.write_text(json.dumps({task.id: [answer(task).tolist()] for task in make_tasks(2)}))
    return str(path)


def test_passes_over_parts_of_tasks_are_not_remembered(tmp_path: Path) -> None:
    costs = initial_costs(options(None), lambda _: None)
    with_ledger = ledger_of(tmp_path / "run", right=True)
    with_ledger.event(Event("shortened", "8 of 400 demonstrations", make_tasks(2).ids[0], 1))
    remember(costs, with_ledger)
    assert costs.tasks == 3


def test_a_resumed_run_remembers_what_work_cost(tmp_path: Path) -> None:
    costs, fresh = (initial_costs(options(None), lambda _: None) for _ in range(2))
    with_ledger = ledger_of(tmp_path / "run", right=True)
    remember(costs, with_ledger)
    assert costs.tasks == 4
    shape = make_shapes()[0]
    plan = TaskPlan(5, 8, 1)
    gaps = [abs(one.forecast(shape, plan).median["fit"] - 1.25) for one in (costs, fresh)]
    assert gaps[0] < gaps[1]
    assert gaps[0] < 0.3


def test_the_ledger_tells_predictions_in_the_order_of_the_work(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "run", right=True)
    assert ledger.order() == [("task000", 0), ("task001", 0), ("task000", 1), ("task001", 1)]
    assert ledger.plans()["task001", 1].plan == TaskPlan(5, 8, 1)
    assert ledger.plans()["task001", 1].reason == "why"
    rows = ledger.forecasts()
    assert len(rows) == 8
    assert set(rows) == {("fit", 2.0, 1.25), ("infer", None, 0.5)}


def test_what_the_deadline_cut_is_no_error_of_prediction(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "run", right=True)
    for number, views in enumerate((8, 3)):
        made = outcome(f"task00{number}", 2, views=views)
        ledger.plan(made.task_id, 2, TaskPlan(5, 8, 1), 2.0, "why")
        ledger.record(replace(made, planned={"fit": 1.0, "infer": 0.4}))
    assert ledger.forecasts()[-4:] == [("fit", 1.0, 1.25), ("infer", 0.4, 0.5), ("fit", 1.0, 1.25), ("infer", None, 0.5)]


def test_a_record_tells_what_passes_come_to(tmp_path: Path) -> None:
    ledger_of(tmp_path / "right", right=True, given=solutions(tmp_path)).close()
    record = read_record(tmp_path / "right")
    task = record.tasks[0]
    assert [rung.steps for rung in task.rungs] == [5, 10]
    assert (task.views, task.samples) == (8, 1)
    assert task.found(((0, 8),)).solved == 0
    assert task.found(((1, 8),)).solved == 1
    assert task.found(((0, 8), (1, 8))).solved == 1  # either attempt
    assert task.found(((1, 2),)).agreement == 1.0
    assert task.found(((1, 8),)).agreement == 0.25  # of the eight views asked
    assert task.found(((0, 8), (1, 8))).agreement == 0.25


def test_fitting_gains_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    answers = solutions(tmp_path)
    ledger_of(tmp_path / "right", right=True).close()
    ledger_of(tmp_path / "wrong", right=False).close()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.db").write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 8)
    spoils = {
        "old": "UPDATE run SET value = '{\"model\": {\"depth\": 3}}' WHERE key = 'all_settings'",
        "torn": "UPDATE outcomes SET seconds = 'torn'",
    }
    for name, spoil in spoils.items():
        ledger_of(tmp_path / name, right=True).close()
        with contextlib.closing(sqlite3.connect(tmp_path / name / "run.db", isolation_level=None)) as db:
            db.execute(spoil)
    told: list[str] = []
    folders = [tmp_path / name for name in ("right", "damaged", "missing", "wrong", *spoils)]
    line = fit_gains(folders, answers, tmp_path / "gains.json", told.append)
    assert "4 tasks" in line
    assert sum("left out" in one for one in told) == 4
    assert any("damaged" in one for one in told)
    assert any("was written by another version of this package: setting model.depth" in one for one in told)
    assert any("torn" in one and "JSONDecodeError" in one for one in told)
    assert "right, wrong" in load_gains(tmp_path / "gains.json").fitted_on
    for folder, reason in (("missing", "no such ledger"), ("right", "answers are not known")):
        with pytest.raises(InputError, match=reason):
            fit_gains([tmp_path / folder], None, tmp_path / "gains.json", told.append)


def test_solutions_of_other_tasks_are_no_answers(tmp_path: Path) -> None:
    ledger_of(tmp_path / "run", right=True).close()
    (tmp_path / "other.json").write_text('{"else": [[[1]]]}')
    with pytest.raises(InputError, match="no answer is known"):
        read_record(tmp_path / "run", str(tmp_path / "other.json"))


@pytest.mark.parametrize("torn", [b"", b"not a ledger at all", b"SQLite format 3\x00" + bytes(range(256)) * 8])
def test_a_damaged_ledger_is_named_and_set_aside_and_the_run_goes_on(tmp_path: Path, tiny_base: Path, torn: bytes) -> None:
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(2))
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.db").write_bytes(torn)
    (out / "submission.json").write_text('{"answers": "of before"}')
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "run.db" in done.stdout + done.stderr
    assert ("damaged" if torn else "empty") in done.stdout + done.stderr
    assert (out / "run.db.damaged1").read_bytes() == torn
    assert "of before" in (out / "submission.json.damaged1").read_text()
    assert_valid(out, challenges)
    assert [event.kind for event in Ledger.read(out / "run.db").events()].count("damaged ledger") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE outcomes SET seconds = 'torn'",
        "UPDATE candidates SET grid = x'ff00ff'",
        "UPDATE run SET value = '{' WHERE key = 'settings'",
        "DROP TABLE outcomes",
        "UPDATE plans SET steps = 'x'",
        "UPDATE run SET value = 'one' WHERE key = 'starts'",
    ],
)
def test_a_sound_file_with_senseless_rows_is_a_damaged_ledger(tmp_path: Path, tiny_base: Path, spoil: str) -> None:
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(2))
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    assert run_it(tmp_path, {}, **spec).returncode == 0
    out = tmp_path / "out"
    with contextlib.closing(sqlite3.connect(out / "run.db", isolation_level=None)) as db:
        db.execute(spoil)
    done = run_it(tmp_path, {}, **spec)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (out / "run.db.damaged1").exists()
    assert (out / "submission.json.damaged1").exists()
    ledger = Ledger.read(out / "run.db")
    assert [event.kind for event in ledger.events()].count("damaged ledger") == 1
    assert set(ledger.statuses().values()) == {"complete"}
    assert_valid(out, challenges)
