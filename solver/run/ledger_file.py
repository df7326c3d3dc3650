"""The file of a ledger: opens it, and refuses one that is damaged or of another version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from solver.errors import InputError

LEDGER_VERSION = 3


class DamagedLedger(InputError):
    """The file is not a sound ledger: nothing can be read from it."""


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open the file. Raises InputError if it cannot be opened."""
    try:
        if not read_only:
            return sqlite3.connect(path, timeout=10.0, isolation_level=None)
        uri = path.absolute().as_uri()
        db = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=10.0, isolation_level=None)
        try:
            db.execute("PRAGMA user_version")
        except sqlite3.OperationalError:  # a write-ahead log on a read-only file system: nobody can be writing it
            db.close()
            db = sqlite3.connect(f"{uri}?immutable=1", uri=True, isolation_level=None)
        return db
    except sqlite3.OperationalError as error:
        raise InputError(f"{path}: cannot open the ledger: {error}") from None
    except sqlite3.DatabaseError as error:
        raise DamagedLedger(f"{path}: the ledger is damaged: {error}") from None


def version_of(path: Path, db: sqlite3.Connection) -> int:
    """The ledger's version, 0 if it is new. Raises InputError if the file is no ledger or of another version."""
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise InputError(f"{path}: cannot open the ledger: {error}") from None
    except sqlite3.DatabaseError as error:
        raise DamagedLedger(f"{path}: the ledger is damaged: {error}") from None
    if version != LEDGER_VERSION and (version or tables):
        raise InputError(f"{path}: a ledger of version {version}, this package reads version {LEDGER_VERSION}")
    return version


def check_sound(path: Path, db: sqlite3.Connection) -> None:
    """Raise DamagedLedger unless SQLite finds the file sound."""
    try:
        with closing(db.execute("PRAGMA quick_check(1)")) as rows:
            verdict = str(rows.fetchone()[0])
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise DamagedLedger(f"{path}: the ledger is damaged: {verdict.splitlines()[0]}")
