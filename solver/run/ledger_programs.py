"""The ledger's tables of program search. A ledger without them is read as one in which they are empty."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from solver.arc.grid import grid_from_key
from solver.types import Candidate, Program, ProgramOutcome

SCHEMA = """
CREATE TABLE IF NOT EXISTS program_searches (task TEXT PRIMARY KEY, status TEXT NOT NULL, most REAL NOT NULL,
    seconds REAL NOT NULL, error TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS programs (task TEXT, query INTEGER, rank INTEGER, program TEXT NOT NULL, cost REAL NOT NULL,
    exact INTEGER NOT NULL, agreement REAL NOT NULL, PRIMARY KEY (task, query, rank)) WITHOUT ROWID;
"""


def write(db: sqlite3.Connection, outcome: ProgramOutcome) -> None:
    """Replace the rows of a task, but not its candidates, within a transaction of the caller."""
    task = outcome.task_id
    db.execute("DELETE FROM programs WHERE task = ?", (task,))
    row = (task, outcome.status, outcome.most, outcome.seconds, outcome.error)
    db.execute("INSERT OR REPLACE INTO program_searches (task, status, most, seconds, error) VALUES (?, ?, ?, ?, ?)", row)
    rows = [
        (task, query, rank, one.program.text, one.program.cost, one.program.exact, one.program.agreement)
        for query, found in enumerate(outcome.answers)
        for rank, one in enumerate(found)
        if one.program is not None
    ]
    names = "task, query, rank, program, cost, exact, agreement"
    db.executemany(f"INSERT INTO programs ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def read(db: sqlite3.Connection, tests: Mapping[str, int], wave: int) -> list[ProgramOutcome]:
    """Every search, by task. `tests` are the test inputs of each task, `wave` is that of the candidates of programs."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'programs'").fetchone():
        return []
    found: dict[tuple[str, int], list[Candidate]] = {}
    for task, query, grid, text, cost, exact, agreement in db.execute(
        "SELECT task, query, grid, program, cost, exact, agreement FROM programs JOIN candidates USING (task, query, rank)"
        " WHERE wave = ? AND origin = 'program' ORDER BY task, query, rank",
        (wave,),
    ):
        program = Program(text, cost, bool(exact), agreement)
        found.setdefault((task, query), []).append(Candidate.of_program(grid_from_key(grid), program))
    return [
        ProgramOutcome(
            task_id=task,
            status=status,
            answers=tuple(tuple(found.get((task, query), ())) for query in range(tests[task])),
            seconds=seconds,
            most=most,
            error=error,
        )
        for task, status, most, seconds, error in db.execute(
            "SELECT task, status, most, seconds, error FROM program_searches ORDER BY task"
        )
    ]
