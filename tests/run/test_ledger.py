"""The ledger gives back what was written, whatever is written twice, and refuses what is not its own."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_helpers import grid, make_tasks, outcome, program_outcome

from solver.arc.grid import grid_key
from solver.errors import InputError
from solver.run.ledger import BEFORE, SHARED, Event, Ledger
from solver.run.ledger_file import LEDGER_VERSION
from solver.run.ledger_work import WorkDone
from solver.run.run_facts import Identity, RunFacts
from solver.types import Fit, ProgramOutcome, QueryOutcome, TaskOutcome, TaskPlan

TASKS = make_tasks(3, tests=2)
IDENTITY = Identity(TASKS.fingerprint, "model-a", 0, "default", {"train.lr": 1e-3, "infer.mode": "greedy"})


def plain(outcomes: list[TaskOutcome]) -> list[object]:
    """What an outcome says, in values that compare; queries without candidates are left out."""
    return [
        (o.task_id, o.wave, o.status, plain_fit(o.fit), o.seconds, o.tokens, [plain_query(q) for q in o.queries if q.candidates])
        for o in outcomes
    ]


def plain_fit(fit: Fit | None) -> object:
    return fit and (fit.adapter_id, fit.adapter, fit.steps, fit.tokens, fit.status, fit.reason, fit.first_loss)


def plain_query(query: QueryOutcome) -> object:
    candidates = [(grid_key(c.grid), c.view, c.logprob, c.origin, c.adapter) for c in query.candidates]
    return query.index, query.views, candidates, [(grid_key(s.grid), s.view, s.nll, s.tokens, s.adapter) for s in query.scores]


def test_round_trip(tmp_path: Path) -> None:
    written = [
        outcome("task000", 0, "complete", (grid(1), grid(2), grid(1)), (3.5, 4.5)),
        outcome("task000", 1, "cut", (grid(3, 30, 30),), (9.0,), views=8),
        outcome("task002", 0, "failed"),
    ]
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    for one in written:
        ledger.record(one)
    ledger.plan("task000", 0, TaskPlan(5, 8, 1), float("inf"), "why")
    ledger.close()
    again = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    assert plain(again.outcomes()) == plain(written)
    assert np.isnan(again.outcomes()[0].fit.final_loss)  # type: ignore[union-attr]
    assert again.tasks() == [task.without_answers() for task in TASKS]
    assert again.test_counts() == {"task000": 2, "task001": 2, "task002": 2}
    assert again.statuses() == {"task000": "cut", "task001": "waiting", "task002": "failed"}
    assert again.timings() == {"fit": (6.0, 3.75), "infer": (0.0, 1.5)}


def test_writing_twice_changes_nothing_and_a_rewrite_replaces(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    first = outcome("task001", 0, "cut", (grid(1), grid(2)), (1.0, 2.0))
    ledger.record(first)
    ledger.record(first)
    assert plain(ledger.outcomes()) == plain([first])
    assert [event.kind for event in ledger.events()] == ["note"]
    final = outcome("task001", 0, "complete", (grid(5),), (1.0,))
    ledger.record(final)
    assert plain(ledger.outcomes()) == plain([final])
    without_events = replace(final, events=())
    ledger.record(without_events)
    assert plain(ledger.outcomes()) == plain([final])
    assert ledger.events() == []


def plain_programs(outcomes: list[ProgramOutcome]) -> list[object]:
    return [
        (
            o.task_id,
            o.status,
            o.seconds,
            o.most,
            o.error,
            [[(grid_key(c.grid), c.origin, c.program) for c in q] for q in o.answers],
        )
        for o in outcomes
    ]


def test_programs_come_back_beside_the_candidates_of_the_network(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    found = program_outcome("task000", grid(1), grid(2, 30, 30))
    written = [replace(found, answers=(*found.answers, ())), ProgramOutcome("task002", "failed", ((), ()), 5.0, 5.0, "why")]
    ledger.record(outcome("task000", 0, "complete", (grid(1), grid(3))))
    for one in (program_outcome("task000", grid(7)), *written, written[0]):  # the last record of a task counts
        ledger.record_programs(one)
    ledger.close()
    again = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    assert plain_programs(again.program_outcomes()) == plain_programs(written)
    assert plain(again.outcomes()) == plain([outcome("task000", 0, "complete", (grid(1), grid(3)))])
    assert again.timings()["programs"] == (0.0, 6.5)
    again.record(outcome("task000", 0, "cut", (grid(4),)))  # a pass that is recorded again leaves programs alone
    assert plain_programs(again.program_outcomes()) == plain_programs(written)


def test_a_ledger_from_before_program_search_is_read_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    ledger = Ledger.open(path, IDENTITY, TASKS)
    ledger.record(outcome("task000", 0, "complete", (grid(1),)))
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE programs")
        db.execute("DROP TABLE program_searches")
        db.execute("DROP TABLE work_log")
    db.close()
    assert Ledger.read(path).program_outcomes() == []
    assert Ledger.read(path).work_log() == []
    resumed = Ledger.open(path, IDENTITY, TASKS)
    assert resumed.program_outcomes() == []
    resumed.worked(WorkDone("task001", BEFORE, 0, "", 1e9))
    assert len(resumed.work_log()) == 1
    resumed.record_programs(program_outcome("task001", grid(5)))
    assert [one.task_id for one in resumed.program_outcomes()] == ["task001"]
    assert len(resumed.outcomes()) == 1


def test_who_worked_on_what_comes_back_in_the_order_of_time(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    rows = [("task001", 0, 3, "r1i2"), (SHARED, BEFORE, 0, "r1i1"), ("task001", BEFORE, 1, ""), ("task001", 0, 2, "r2i1")]
    log = [WorkDone(*row, 1e9 + at) for at, row in enumerate(rows)]
    for done in log:
        ledger.worked(done)
    assert ledger.work_log() == log[1:]  # the last row of a pass counts


def test_a_wall_clock_that_is_set_back_does_not_turn_the_order_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    for at, id_ in ((1e9, "task002"), (1e9 - 3600, "task001"), (1e9 - 7200, "task000")):
        monkeypatch.setattr("solver.run.ledger.time.time", lambda at=at: at)
        ledger.record(outcome(id_))
        if id_ == "task001":  # the run is resumed
            ledger.close()
            ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    assert [id_ for id_, _ in ledger.order()] == ["task002", "task001", "task000"]


def test_facts_keep_their_types_and_those_not_given_stay(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    assert ledger.identity() == IDENTITY
    assert ledger.facts() == RunFacts()
    first = RunFacts(1, 300.0, "", "arc1:training", "", {"train": {"lr": 1e-3, "epochs": None}}, "id", tmp_path)
    ledger.set_facts(first)
    ledger.set_facts(RunFacts(starts=2, machine="h200"))
    ledger.close()
    assert Ledger.open(tmp_path / "run.db", IDENTITY, TASKS).facts() == replace(first, starts=2, machine="h200")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": "other"}, "another task set"),
        ({"model": "model-b"}, "model-b"),
        ({"seed": 7}, "seed 0, now 7"),
        ({"recipe": "mit"}, "recipe default, now mit"),
        ({"settings": {"train.lr": 2e-3, "infer.mode": "greedy"}}, "train.lr = 0.001, now 0.002"),
    ],
)
def test_another_run_is_refused_and_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    Ledger.open(tmp_path / "run.db", IDENTITY, TASKS).close()
    with pytest.raises(InputError, match=said):
        Ledger.open(tmp_path / "run.db", replace(IDENTITY, **change), TASKS)
    Ledger.open(tmp_path / "run.db", IDENTITY, TASKS).close()


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    path.write_bytes(b"not a database at all, but long enough to be taken for one" * 100)
    for attempt in (lambda: Ledger.open(path, IDENTITY, TASKS), lambda: Ledger.read(path)):
        with pytest.raises(InputError, match=r"run\.db.*damaged"):
            attempt()


def test_a_ledger_with_a_torn_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    ledger = Ledger.open(path, IDENTITY, TASKS)
    for wave in range(40):
        ledger.record(outcome("task000", wave, "complete", (grid(wave, 30, 30),) * 4))
    ledger.close()
    data = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(data) - 4096, 4096 * 2):
        data[at : at + 2048] = b"\xff" * 2048
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        Ledger.open(path, IDENTITY, TASKS)


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Ledger.open(path, IDENTITY, TASKS).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {LEDGER_VERSION + 1}")
    db.close()
    with pytest.raises(InputError, match=f"version {LEDGER_VERSION + 1}"):
        Ledger.open(path, IDENTITY, TASKS)


def test_an_empty_file_is_a_new_ledger_and_a_missing_one_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "run.db").touch()  # what a kill between creation and the first transaction leaves
    with pytest.raises(InputError, match="empty"):
        Ledger.read(tmp_path / "run.db")
    Ledger.open(tmp_path / "run.db", IDENTITY, TASKS).close()
    with pytest.raises(InputError, match="no such ledger"):
        Ledger.read(tmp_path / "none.db")


def test_readers_work_beside_a_writer_and_on_a_read_only_copy(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "run.db", IDENTITY, TASKS)
    ledger.event(Event("kind", "detail", "task001", 2))
    beside = Ledger.read(tmp_path / "run.db")
    assert [(e.kind, e.detail, e.task, e.wave) for e in beside.events()] == [("kind", "detail", "task001", 2)]
    ledger.close()
    beside.close()
    (tmp_path / "run.db").chmod(0o444)
    assert len(Ledger.read(tmp_path / "run.db").events()) == 1
