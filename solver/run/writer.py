"""The writer of a run: it writes rows of the ledger, the submission, and lines for people.

A disk that refuses writes never stops the run. Rows of the ledger wait in memory and are written later in the same order, and the
submission is written again at the next chance.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial

from solver.arc.submission import Submission
from solver.report.observer import Observer
from solver.run.ledger import BEFORE, SHARED, Event, LedgerError, Records, UnfitError
from solver.run.ledger_work import WorkDone

SHARE = 0.05  # of the time that writing the submission may take: that of 100,000 tasks takes a second


class Writer:
    """Writes for one run. A write that fails never raises."""

    def __init__(
        self, ledger: Records, publish: Callable[[Submission], None], observer: Observer, now: Callable[[], float]
    ) -> None:
        """`publish` writes the submission and may raise OSError; `now` is the clock of the run."""
        self._ledger = ledger
        self._publish = publish
        self._observer = observer
        self._now = now
        self._unsaved: list[Callable[[], None]] = []
        self._complaints: set[str] = set()
        self._stale = False
        self._next_write = float("-inf")  # not before that time, except for the last one
        self._starts: dict[str, tuple[float, float]] = {}  # part of a worker's start -> planned and used seconds of all workers

    def outdate(self) -> None:
        """Note that the submission on disk may be out of date, so that `flush` writes it."""
        self._stale = True

    def flush(self, submission: Submission, last: bool = False) -> float | None:
        """Write everything that waits. Gives the seconds that the submission took, written or not; None if it was not its turn.

        `last`: the submission is not put off.
        """
        self._flush_ledger()
        began = self._now()
        if not self._stale or (began < self._next_write and not last):
            return None
        try:
            self._publish(submission)
            self._stale = False
            self._next_write = began + (self._now() - began) / SHARE
        except OSError as error:
            self._complain(f"cannot write the submission; the earlier one stays on disk: {error}")
        return self._now() - began

    def save(self, write: Callable[[], None]) -> None:
        """Write an entry of the ledger after those that still wait."""
        self._unsaved.append(write)
        self._flush_ledger()

    def started(self, planned: Mapping[str, float], used: Mapping[str, float], start: int) -> None:
        """Add the seconds of a worker's start, by part, to those of the run's `start`-th process."""
        for part, seconds in used.items():
            before = self._starts.get(part, (0.0, 0.0))
            self._starts[part] = before[0] + planned[part], before[1] + seconds
        rows = {f"load: {part}": both for part, both in self._starts.items()}
        rows["load"] = sum(planned for planned, _ in rows.values()), sum(used for _, used in rows.values())
        for phase, (planned_seconds, used_seconds) in rows.items():
            self.save(partial(self._ledger.timing, phase, planned_seconds, used_seconds, start))

    def event(self, kind: str, detail: str, task: str = SHARED, wave: int = BEFORE) -> None:
        """Record an event. Events of a task are also shown as a line."""
        event = Event(kind, detail, task, wave, time.time())
        self.save(lambda: self._ledger.event(event))
        if task != SHARED:
            self.note(f"{task}: {kind}: {detail}")

    def worked(self, process: int, item: str, task: str = SHARED, wave: int = BEFORE) -> None:
        """Record which process ended a pass, a program search (of no item) or the shared fit just now."""
        done = WorkDone(task, wave, process, item, time.time())
        self.save(lambda: self._ledger.worked(done))

    def note(self, line: str) -> None:
        """Show a line to people."""
        with contextlib.suppress(OSError, ValueError):  # an output that is closed or full must not stop the run
            self._observer.note(line)

    def _flush_ledger(self) -> None:
        """Write the waiting rows in order. On a full disk they go on waiting; a row that SQLite can never store is dropped."""
        while self._unsaved:
            try:
                self._unsaved[0]()
            except UnfitError as error:
                self._complain(f"not recorded: {error}", "not recorded")
            except LedgerError as error:
                self._complain(str(error))
                return
            self._unsaved.pop(0)

    def _complain(self, line: str, kind: str = "disk") -> None:
        """Report a failed write, but the same failure only once."""
        if line not in self._complaints:
            self._complaints.add(line)
            self.note(line)
            event = Event(kind, line, at=time.time())
            self._unsaved.append(lambda: self._ledger.event(event))
