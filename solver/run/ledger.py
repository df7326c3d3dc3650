"""The ledger of a run: one SQLite file with every plan, outcome, candidate, score and event. Only the supervisor writes it.

Rows have natural keys (task, wave, adapter, view), so writing the same outcome twice changes nothing. Each outcome is written in
one transaction, so after `kill -9` it is in the ledger as a whole or not at all.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from solver.arc.datasets import TaskSet, parse_task
from solver.arc.grid import grid_from_key, grid_key
from solver.arc.task import Task
from solver.budget.costs import Timing
from solver.errors import InputError
from solver.run import ledger_programs, ledger_work
from solver.run.ledger_file import LEDGER_VERSION, DamagedLedger, check_sound, connect, version_of
from solver.run.ledger_work import WorkDone
from solver.run.run_facts import Identity, RunFacts
from solver.types import AdapterRef, Candidate, Fit, ProgramOutcome, QueryOutcome, Score, TaskOutcome, TaskPlan

LEDGER = "run.db"  # its name in the folder of a run

_SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tasks (task TEXT PRIMARY KEY, position INTEGER NOT NULL, content TEXT, tests INTEGER NOT NULL,
    status TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plans (task TEXT, wave INTEGER, steps INTEGER NOT NULL, views INTEGER NOT NULL, samples INTEGER NOT NULL,
    seconds REAL NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (task, wave)) WITHOUT ROWID;
CREATE TABLE outcomes (task TEXT, wave INTEGER, status TEXT NOT NULL, seconds TEXT NOT NULL, tokens TEXT NOT NULL,
    views TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (task, wave)) WITHOUT ROWID;
CREATE TABLE fits (task TEXT, wave INTEGER, job TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
    adapter TEXT, path TEXT, kind TEXT, steps INTEGER NOT NULL, tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    first_loss REAL, final_loss REAL, PRIMARY KEY (task, wave)) WITHOUT ROWID;
CREATE TABLE candidates (task TEXT, query INTEGER, wave INTEGER, adapter TEXT, view TEXT, rank INTEGER,
    grid BLOB NOT NULL, logprob REAL NOT NULL, origin TEXT NOT NULL,
    PRIMARY KEY (task, query, wave, adapter, view, rank)) WITHOUT ROWID;
CREATE TABLE scores (task TEXT, query INTEGER, wave INTEGER, adapter TEXT, view TEXT, grid BLOB, nll REAL NOT NULL,
    tokens INTEGER NOT NULL, PRIMARY KEY (task, query, wave, adapter, view, grid)) WITHOUT ROWID;
CREATE TABLE timings (task TEXT, wave INTEGER, phase TEXT, planned REAL, used REAL NOT NULL,
    PRIMARY KEY (task, wave, phase)) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, at REAL NOT NULL, task TEXT NOT NULL, wave INTEGER NOT NULL,
    kind TEXT NOT NULL, detail TEXT NOT NULL, of_outcome INTEGER NOT NULL);
CREATE INDEX events_task ON events (task, wave);
"""
_LATER_TABLES = ledger_programs.SCHEMA + ledger_work.SCHEMA  # that the first ledgers of this version lack
_OF_VIEWS = ("infer", "score")  # phases whose work grows with the views
_UNFIT = (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.DataError, OverflowError, UnicodeEncodeError)
_OF_AN_OUTCOME = ("outcomes", "fits", "candidates", "scores", "timings")
SHARED = ""  # in the task column, of rows about the whole run: the shared fit, its timings and events
# Kinds of events that the program itself looks for; all other kinds, and all details, are for people alone.
SHORTENED = "shortened"  # a pass that has no time for all demonstrations at once
ENDED = "end"  # a process of the run came to its end by itself
RESUMED = "resumed"  # a later process of the run began
BEFORE = -1  # in the wave column, of rows that belong to no wave: shared fit, program search, events of the whole run
PROGRAMS = "programs"  # the phase of program search
TOTAL = "total"  # the phase that is a whole process of the run


class LedgerError(Exception):
    """A write failed, and nothing of it was stored (the disk is full, the file is gone)."""


class UnfitError(LedgerError):
    """A write failed because of its values (a number that SQLite cannot store, say); trying again is pointless."""


@dataclass(frozen=True)
class Event:
    """Something that happened; `at` is in seconds since the epoch (0: the time of writing)."""

    kind: str
    detail: str
    task: str = SHARED
    wave: int = BEFORE
    at: float = 0.0


@dataclass(frozen=True)
class Planned:
    """The plan of a pass."""

    plan: TaskPlan
    seconds: float  # that it was predicted to take; 0 if nothing could be predicted
    reason: str


class Records(Protocol):
    """What a supervisor writes to, and the one thing it reads back. See `Ledger` for what the methods do."""

    def shared_fit(self) -> Fit | None:  # noqa: D102
        ...

    def plan(self, task: str, wave: int, plan: TaskPlan, seconds: float, reason: str) -> None:  # noqa: D102
        ...

    def record(self, outcome: TaskOutcome) -> None:  # noqa: D102
        ...

    def record_programs(self, outcome: ProgramOutcome) -> None:  # noqa: D102
        ...

    def record_shared(self, fit: Fit) -> None:  # noqa: D102
        ...

    def event(self, event: Event) -> None:  # noqa: D102
        ...

    def set_status(self, task: str, status: str) -> None:  # noqa: D102
        ...

    def timing(self, phase: str, planned: float | None, used: float, start: int) -> None:  # noqa: D102
        ...

    def worked(self, done: WorkDone) -> None:  # noqa: D102
        ...


class Ledger:
    """An open ledger. Methods that write raise LedgerError if the disk refuses, UnfitError if SQLite does."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._latest: float | None = None  # when the last outcome ended; None: not looked up yet

    @staticmethod
    def open(path: Path, identity: Identity, tasks: TaskSet) -> Ledger:
        """Create a ledger, or continue the one at `path`.

        Raises InputError if the file is damaged, of another version, or of a run that differs in `identity`.
        """
        db = connect(path, read_only=False)
        try:
            version = version_of(path, db)
            ledger = Ledger(path, db)
            if version == 0:
                db.execute("PRAGMA journal_mode = WAL")
                ledger._create(identity, tasks)
            else:
                check_sound(path, db)
                difference = identity.difference(ledger.identity())
                if difference is not None:
                    raise InputError(f"{path.parent}: cannot resume: {difference}; choose another --out")
                ledger._add_tables()
            db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            db.close()
            raise InputError(f"{path}: cannot use the ledger: {error}") from None
        except LedgerError as error:
            db.close()
            raise InputError(str(error)) from None
        except (ValueError, KeyError) as error:
            db.close()
            raise DamagedLedger(f"{path}: the ledger is damaged: {type(error).__name__}: {error}") from None
        except InputError:
            db.close()
            raise
        return ledger

    @staticmethod
    def read(path: Path) -> Ledger:
        """Open an existing ledger for reading. Raises InputError if it is missing, damaged or of another version."""
        if not path.is_file():
            raise InputError(f"{path}: no such ledger")
        db = connect(path, read_only=True)
        try:
            if version_of(path, db) == 0:
                raise InputError(f"{path}: the ledger is empty")
            check_sound(path, db)
        except InputError:
            db.close()
            raise
        return Ledger(path, db)

    def close(self) -> None:
        """Close the file, with everything moved from the write-ahead log into it. Idempotent."""
        self._db.close()

    # -- writing

    def set_facts(self, facts: RunFacts) -> None:
        """Record facts about the run; those that are None stay as they were."""
        with self._transaction():
            self._put("run", ("key", "value"), facts.rows().items())

    def record(self, outcome: TaskOutcome) -> None:
        """Record one pass over one task, replacing an earlier record of the same (task, wave)."""
        key = (outcome.task_id, outcome.wave)
        with self._transaction():
            self._delete_outcome(*key)
            row = (*key, outcome.status, json.dumps(outcome.seconds), json.dumps(outcome.tokens))
            views = json.dumps({query.index: query.views for query in outcome.queries})
            at = self._next_time()
            self._put("outcomes", ("task", "wave", "status", "seconds", "tokens", "views", "at"), [(*row, views, at)])
            if outcome.fit is not None:
                self._put_fit(*key, outcome.fit)
            for query in outcome.queries:
                self._put_query(*key, query)
            rows = [(*key, phase, outcome.planned.get(phase), used) for phase, used in outcome.seconds.items()]
            self._put("timings", ("task", "wave", "phase", "planned", "used"), rows)
            for kind, detail in outcome.events:
                self._put_event(Event(kind, detail, *key), of_outcome=True)
            self._db.execute("UPDATE tasks SET status = ? WHERE task = ?", (outcome.status, outcome.task_id))
        self._latest = at

    def record_programs(self, outcome: ProgramOutcome) -> None:
        """Record the program search for one task, replacing an earlier record of it."""
        task = outcome.task_id
        with self._transaction():
            self._db.execute("DELETE FROM candidates WHERE task = ? AND wave = ? AND origin = 'program'", (task, BEFORE))
            for query, found in enumerate(outcome.answers):
                self._put_query(task, BEFORE, QueryOutcome(query, found, ()))
            ledger_programs.write(self._db, outcome)
            self._put("timings", ("task", "wave", "phase", "used"), [(task, BEFORE, PROGRAMS, outcome.seconds)])

    def record_shared(self, fit: Fit) -> None:
        """Record the fit of the adapter that all tasks share."""
        with self._transaction():
            self._put_fit(SHARED, BEFORE, fit)

    def plan(self, task: str, wave: int, plan: TaskPlan, seconds: float, reason: str) -> None:
        """Record the plan of a pass and its reason. `seconds` is its predicted time; 0 if nothing could be predicted."""
        with self._transaction():
            names = ("task", "wave", "steps", "views", "samples", "seconds", "reason")
            self._put("plans", names, [(task, wave, plan.steps, plan.views, plan.samples, seconds, reason)])

    def event(self, event: Event) -> None:
        """Add an event."""
        with self._transaction():
            self._put_event(event)

    def set_status(self, task: str, status: str) -> None:
        """Set a task's status: "waiting", "bad", "complete", "cut", "failed" or "skipped"."""
        with self._transaction():
            self._db.execute("UPDATE tasks SET status = ? WHERE task = ?", (status, task))

    def timing(self, phase: str, planned: float | None, used: float, start: int) -> None:
        """Record a phase of the whole run, for its `start`-th process."""
        with self._transaction():
            self._put("timings", ("task", "wave", "phase", "planned", "used"), [(SHARED, start, phase, planned, used)])

    def worked(self, done: WorkDone) -> None:
        """Record which process ended a pass, a program search (wave `BEFORE`) or the shared fit (task `SHARED`)."""
        with self._transaction():
            ledger_work.write(self._db, done)

    # -- reading

    def check_rows(self) -> None:
        """Read what a resumed run needs beside the outcomes. Raises ValueError, TypeError or LookupError for bad rows."""
        self.facts()
        self.tasks()
        self.plans()
        self.order()
        self.events()

    def identity(self) -> Identity:
        """What the run must share with its resumption. Raises ValueError or KeyError for a table without it."""
        return Identity.of(dict(self._db.execute("SELECT key, value FROM run")))

    def facts(self) -> RunFacts:
        """The facts about the run that may change. Raises ValueError for values that make no sense."""
        return RunFacts.of(dict(self._db.execute("SELECT key, value FROM run")))

    def tasks(self) -> list[Task]:
        """The good tasks in file order, without answers."""
        rows = self._db.execute("SELECT task, content FROM tasks WHERE content IS NOT NULL ORDER BY position")
        return [parse_task(task, json.loads(content)) for task, content in rows]

    def test_counts(self) -> dict[str, int]:
        """Test inputs of every task, bad ones included, in file order."""
        return dict(self._db.execute("SELECT task, tests FROM tasks ORDER BY position"))

    def statuses(self) -> dict[str, str]:
        """Status of every task."""
        return dict(self._db.execute("SELECT task, status FROM tasks ORDER BY position"))

    def outcomes(self) -> list[TaskOutcome]:
        """Every recorded pass, by task and wave; without its events."""
        fits = {(row[0], row[1]): _fit(row[2:]) for row in self._db.execute(f"SELECT task, wave, {_FIT_COLUMNS} FROM fits")}
        candidates: dict[tuple[str, int, int], list[Candidate]] = {}
        for task, query, wave, adapter, view, grid, logprob, origin in self._db.execute(
            "SELECT task, query, wave, adapter, view, grid, logprob, origin FROM candidates WHERE origin != 'program'"
            " ORDER BY task, query, wave, rank"
        ):
            candidate = Candidate(grid_from_key(grid), view, logprob, origin, adapter)
            candidates.setdefault((task, wave, query), []).append(candidate)
        scores: dict[tuple[str, int, int], list[Score]] = {}
        for task, query, wave, adapter, view, grid, nll, tokens in self._db.execute(
            "SELECT task, query, wave, adapter, view, grid, nll, tokens FROM scores "
            "ORDER BY task, query, wave, adapter, view, grid"
        ):
            score = Score(grid_from_key(grid), view, nll, tokens, adapter)
            scores.setdefault((task, wave, query), []).append(score)
        tests = self.test_counts()
        return [
            TaskOutcome(
                task_id=task,
                wave=wave,
                status=status,
                fit=fits.get((task, wave)),
                queries=tuple(
                    QueryOutcome(
                        q,
                        tuple(candidates.get((task, wave, q), ())),
                        tuple(scores.get((task, wave, q), ())),
                        json.loads(views).get(str(q), 0),
                    )
                    for q in range(tests[task])
                ),
                seconds=json.loads(seconds),
                tokens=json.loads(tokens),
            )
            for task, wave, status, seconds, tokens, views in self._db.execute(
                "SELECT task, wave, status, seconds, tokens, views FROM outcomes ORDER BY task, wave"
            )
        ]

    def program_outcomes(self) -> list[ProgramOutcome]:
        """Every recorded program search, by task; none in a ledger that was made before there were any."""
        return ledger_programs.read(self._db, self.test_counts(), BEFORE)

    def work_log(self) -> list[WorkDone]:
        """What each process ended, in the order of time; nothing in a ledger that was made before this was recorded."""
        return ledger_work.read(self._db)

    def shared_fit(self) -> Fit | None:
        """The fit of the shared adapter, if it was done."""
        row = self._db.execute(f"SELECT {_FIT_COLUMNS} FROM fits WHERE task = ? AND wave = ?", (SHARED, BEFORE)).fetchone()
        return _fit(row) if row else None

    def events(self) -> list[Event]:
        """Every event, oldest first."""
        rows = self._db.execute("SELECT kind, detail, task, wave, at FROM events ORDER BY id")
        return [Event(*row) for row in rows]

    def plans(self) -> dict[tuple[str, int], Planned]:
        """The plan of every pass, by task and wave."""
        rows = self._db.execute("SELECT task, wave, steps, views, samples, seconds, reason FROM plans ORDER BY wave, task")
        return {
            (task, wave): Planned(TaskPlan(*map(int, numbers)), seconds, reason) for task, wave, *numbers, seconds, reason in rows
        }

    def order(self) -> list[tuple[str, int]]:
        """(task, wave) of every recorded pass, in the order in which they ended."""
        return [(task, wave) for task, wave in self._db.execute("SELECT task, wave FROM outcomes ORDER BY at, task, wave")]

    def forecasts(self) -> list[Timing]:
        """Predicted and used seconds of every phase of every pass, in the order in which they ended.

        A phase counts as not predicted where the deadline cut it: fewer views were answered than planned.
        """
        rows = self._db.execute(
            "SELECT phase, planned, used, outcomes.views, plans.views FROM timings JOIN outcomes USING (task, wave)"
            " LEFT JOIN plans USING (task, wave) ORDER BY at, task, wave, phase"
        )
        timings = []
        for phase, planned, used, answered, wanted in rows:
            cut = phase in _OF_VIEWS and wanted is not None and min(json.loads(answered).values(), default=0) < wanted
            timings.append(Timing(phase, None if cut else planned, used))
        return timings

    def processes(self) -> dict[int, float]:
        """Seconds of every process of the run that came to its end by itself, by its number from 1."""
        rows = self._db.execute("SELECT wave, used FROM timings WHERE task = ? AND phase = ? ORDER BY wave", (SHARED, TOTAL))
        return dict(rows.fetchall())

    def timings(self) -> dict[str, tuple[float, float]]:
        """phase -> (planned, used) seconds summed over the run; planned counts only where there was a plan."""
        rows = self._db.execute("SELECT phase, total(planned), total(used) FROM timings GROUP BY phase")
        return {phase: (planned, used) for phase, planned, used in rows}

    # -- inside

    def _create(self, identity: Identity, tasks: TaskSet) -> None:
        with self._transaction():
            for statement in (_SCHEMA + _LATER_TABLES).split(";"):
                self._db.execute(statement)
            self._put("run", ("key", "value"), identity.rows().items())
            rows = []
            for position, (id_, tests) in enumerate(tasks.test_counts.items()):
                task = tasks.by_id.get(id_)
                content = None if task is None else json.dumps(task.without_answers().to_json(), separators=(",", ":"))
                rows.append((id_, position, content, tests, "bad" if task is None else "waiting"))
            self._put("tasks", ("task", "position", "content", "tests", "status"), rows)
            for id_, bad in tasks.bad.items():
                self._put_event(Event("bad task", bad.message, id_))
            self._db.execute(f"PRAGMA user_version = {LEDGER_VERSION}")

    def _add_tables(self) -> None:
        """Add those that this ledger lacks."""
        with self._transaction():
            for statement in _LATER_TABLES.split(";"):
                self._db.execute(statement)

    def _delete_outcome(self, task: str, wave: int) -> None:
        """Delete the record of a pass, if there is one. Without one there is nothing to search the tables for."""
        key = task, wave
        if self._db.execute("SELECT 1 FROM outcomes WHERE task = ? AND wave = ?", key).fetchone() is None:
            return
        for table in _OF_AN_OUTCOME:
            self._db.execute(f"DELETE FROM {table} WHERE task = ? AND wave = ?", key)
        self._db.execute("DELETE FROM events WHERE task = ? AND wave = ? AND of_outcome", key)

    def _next_time(self) -> float:
        """Now, or just after the last outcome if the wall clock was set back: outcomes keep their order."""
        if self._latest is None:
            (self._latest,) = self._db.execute("SELECT ifnull(max(at), 0) FROM outcomes").fetchone()
        return max(time.time(), self._latest + 1e-6)

    def _put_fit(self, task: str, wave: int, fit: Fit) -> None:
        adapter: tuple[str | None, ...] = (None, None, None)
        if fit.adapter is not None:
            adapter = (fit.adapter.id, str(fit.adapter.path), fit.adapter.kind)
        head = (task, wave, fit.adapter_id, fit.status, fit.reason, *adapter)
        row = (*head, fit.steps, fit.tokens, fit.seconds, _finite(fit.first_loss), _finite(fit.final_loss))
        self._put("fits", ("task", "wave", *_FIT_COLUMNS.split(", ")), [row])

    def _put_query(self, task: str, wave: int, query: QueryOutcome) -> None:
        rows = [
            (task, query.index, wave, c.adapter, c.view, rank, grid_key(c.grid), c.logprob, c.origin)
            for rank, c in enumerate(query.candidates)
        ]
        self._put("candidates", ("task", "query", "wave", "adapter", "view", "rank", "grid", "logprob", "origin"), rows)
        scored = [(task, query.index, wave, s.adapter, s.view, grid_key(s.grid), s.nll, s.tokens) for s in query.scores]
        self._put("scores", ("task", "query", "wave", "adapter", "view", "grid", "nll", "tokens"), scored)

    def _put_event(self, event: Event, of_outcome: bool = False) -> None:
        row = (event.at or time.time(), event.task, event.wave, event.kind, event.detail, of_outcome)
        self._db.execute("INSERT INTO events (at, task, wave, kind, detail, of_outcome) VALUES (?, ?, ?, ?, ?, ?)", row)

    def _put(self, table: str, names: Sequence[str], rows: Any) -> None:
        marks = ", ".join("?" * len(names))
        self._db.executemany(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            kind = UnfitError if isinstance(error, _UNFIT) else LedgerError
            raise kind(f"{self.path}: cannot write the ledger: {error}") from error


_FIT_COLUMNS = "job, status, reason, adapter, path, kind, steps, tokens, seconds, first_loss, final_loss"


def _fit(row: Sequence[Any]) -> Fit:
    job, status, reason, adapter, path, kind, steps, tokens, seconds, first, final = row
    where: Literal["lora", "full"] = "full" if kind == "full" else "lora"
    return Fit(
        adapter_id=job,
        status=status,
        reason=reason,
        adapter=None if adapter is None else AdapterRef(adapter, Path(path), where),
        steps=steps,
        tokens=tokens,
        seconds=seconds,
        first_loss=float("nan") if first is None else first,
        final_loss=float("nan") if final is None else final,
    )


def _finite(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
