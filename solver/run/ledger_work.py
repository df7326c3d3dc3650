"""The ledger's table of who worked on what: it is for people. A ledger without it is read as one in which it is empty."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

SCHEMA = """
CREATE TABLE IF NOT EXISTS work_log (task TEXT, wave INTEGER, process INTEGER NOT NULL, item TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (task, wave)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class WorkDone:
    """A pass, a program search or a shared fit that ended."""

    task: str  # empty: the shared fit
    wave: int  # -1: a program search, or the shared fit
    process: int  # number of the worker, or of the process that searches for programs
    item: str  # id of the work item: passes of one item ran together; empty for a program search
    at: float  # when the supervisor heard of its end, in seconds since 1970


def write(db: sqlite3.Connection, done: WorkDone) -> None:
    """Replace the row of its task and wave, within a transaction of the caller."""
    row = (done.task, done.wave, done.process, done.item, done.at)
    db.execute("INSERT OR REPLACE INTO work_log (task, wave, process, item, at) VALUES (?, ?, ?, ?, ?)", row)


def read(db: sqlite3.Connection) -> list[WorkDone]:
    """Every row, in the order of time."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'work_log'").fetchone():
        return []
    rows = db.execute("SELECT task, wave, process, item, at FROM work_log ORDER BY at, task, wave")
    return [WorkDone(*row) for row in rows]
