"""What is written when, on disks that refuse."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from solver.arc.submission import Submission
from solver.report.observer import SilentObserver
from solver.run.ledger import Event, LedgerError, UnfitError
from solver.run.ledger_work import WorkDone
from solver.run.writer import Writer


@dataclass
class Disk:
    """A ledger and a submission, refused while `full`; writing the submission takes three seconds."""

    full: bool = False
    now: float = 0.0
    rows: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of events
    submissions: int = 0

    def worked(self, done: WorkDone) -> None:
        self.put(f"{done.item} ended at {done.at:g}")

    def event(self, event: Event) -> None:
        self.times.append(event.at)
        self.put(f"{event.kind}: {event.detail}")

    def timing(self, phase: str, planned: float, used: float, start: int) -> None:
        self.put(f"{phase}: {planned:g} {used:g} of process {start}")

    def put(self, row: str) -> None:
        if self.full:
            raise LedgerError("the disk is full")
        self.rows.append(row)

    def publish(self, submission: Submission) -> None:
        self.now += 3.0
        if self.full:
            raise OSError(28, "No space left on device")
        self.submissions += 1


class Listener(SilentObserver):
    """Remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def writer_on(disk: Disk, listener: SilentObserver | None = None) -> Writer:
    return Writer(disk, disk.publish, listener or SilentObserver(), lambda: disk.now)  # type: ignore[arg-type]


def test_a_submission_is_written_when_it_is_outdated_and_timed() -> None:
    disk = Disk()
    writer = writer_on(disk)
    assert writer.flush({}) is None
    writer.outdate()
    assert writer.flush({}) == 3.0
    assert writer.flush({}) is None
    assert disk.submissions == 1


def test_writing_takes_a_twentieth_of_the_time_but_the_last_one_is_not_put_off() -> None:
    disk = Disk()
    writer = writer_on(disk)
    written = []
    for now in range(0, 100, 10):
        disk.now = float(now)
        writer.outdate()
        if writer.flush({}) is not None:
            written.append(now)
    assert written == [0, 60]
    assert writer.flush({}, last=True) == 3.0
    assert disk.submissions == 3


def test_what_a_full_disk_refuses_is_written_in_order_once_it_takes_something_again() -> None:
    disk, listener = Disk(), Listener()
    writer = writer_on(disk, listener)
    writer.outdate()
    disk.full = True
    for row in ("one", "two"):
        writer.save(lambda row=row: disk.put(row))  # type: ignore[misc]
    assert writer.flush({}) == 3.0
    writer.flush({})
    assert len(listener.notes) == 2  # of the ledger and of the submission, each once
    disk.full = False
    writer.flush({})
    assert disk.submissions == 1
    assert [row for row in disk.rows if not row.startswith("disk: ")] == ["one", "two"]
    assert len(disk.rows) == 4


def test_what_waited_for_the_disk_has_the_time_at_which_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(full=True)
    writer = writer_on(disk)
    for at, happened in ((100.0, lambda: writer.worked(0, "r1i1", "task")), (200.0, lambda: writer.event("retry", "why"))):
        monkeypatch.setattr(time, "time", lambda at=at: at)
        happened()
    monkeypatch.setattr(time, "time", lambda: 900.0)
    disk.full = False
    writer.flush({})
    assert "r1i1 ended at 100" in disk.rows
    assert dict(zip(disk.rows[1:], disk.times, strict=True))["retry: why"] == 200.0


def test_a_row_that_can_never_be_written_holds_up_no_other() -> None:
    disk = Disk()
    writer = writer_on(disk)

    def unfit() -> None:
        raise UnfitError("a number that SQLite does not hold")

    writer.save(unfit)
    writer.event("retry", "why", "task", 0)
    assert disk.rows == ["not recorded: not recorded: a number that SQLite does not hold", "retry: why"]


def test_starts_of_workers_add_up() -> None:
    disk = Disk()
    writer = writer_on(disk)
    for _ in range(2):
        writer.started({"model": 1.0, "engine": 3.0}, {"model": 2.0, "engine": 2.5}, 7)
    assert disk.rows[-3:] == ["load: model: 2 4 of process 7", "load: engine: 6 5 of process 7", "load: 8 9 of process 7"]
