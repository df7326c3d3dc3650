"""Progress on a terminal and without one."""

import io
import os

import pytest
from report_helpers import summary
from rich.console import Console

from solver.report.live import LiveObserver, PlainObserver, clock_text, observer_for, progress_line, rate
from solver.report.observer import Progress


def progress(done: int = 1, wave: int = 0, activity: str = "fitting") -> Progress:
    return Progress(
        tasks=4,
        done=done,
        failed=0,
        wave=wave,
        steps=60,
        trained_rate=1234.5,
        sampled_rate=0.0,
        agreement=0.5,
        seconds_left=272.9,
        activity=activity,
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_the_summary_comes_last_and_below_the_table(terminal: bool) -> None:
    file = io.StringIO()
    observer = observer_for(Console(file=file, force_terminal=terminal, width=80))
    observer.note("a note")
    observer.end(summary())
    shown = file.getvalue().rpartition("\x1b[?25h")[2]  # what is printed when the cursor is back
    assert "11 of 12 tasks" in shown
    assert ("a note" in shown) is not terminal


def test_progress_line() -> None:
    line = progress_line(progress())
    assert line == "1/4 tasks | wave 1 | 60 steps | 1,234 tok/s trained | - sampled | agreement 50% | 4:32 left | fitting"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (-3, "0:00"), (59.9, "0:59"), (290, "4:50"), (3600, "1:00:00"), (41400, "11:30:00")]
)
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_rate_shows_a_dash_before_it_is_known() -> None:
    assert rate(0.0) == "-"
    assert rate(20500.0) == "20,500 tok/s"


def test_plain_lines_come_with_notes_and_as_time_passes() -> None:
    now = 0.0
    file = io.StringIO()
    observer = PlainObserver(Console(file=file), clock=lambda: now)
    observer.progress(progress(done=0))
    now = 14.0
    observer.progress(progress(done=1))
    assert len(file.getvalue().splitlines()) == 1
    observer.note("00576224 done")
    assert file.getvalue().splitlines()[1:] == ["00576224 done"]
    now = 15.0
    observer.progress(progress(done=2))
    observer.progress(progress(done=2))
    assert len(file.getvalue().splitlines()) == 3
    assert file.getvalue().splitlines()[2].startswith("2/4 tasks")


def test_without_a_terminal_there_are_plain_lines_and_no_control_codes() -> None:
    file = io.StringIO()
    observer = observer_for(Console(file=file))
    assert isinstance(observer, PlainObserver)
    observer.progress(progress())
    observer.note("[bold]kept as it is[/bold]")
    observer.end(None)
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().splitlines()[1] == "[bold]kept as it is[/bold]"


def test_on_a_terminal_the_table_is_redrawn_and_notes_stay() -> None:
    file = io.StringIO()
    observer = observer_for(Console(file=file, force_terminal=True, width=80))
    assert isinstance(observer, LiveObserver)
    observer.progress(progress(activity="fitting [0]"))
    observer.note("00576224 [solved]")
    observer.end(None)
    text = file.getvalue()
    assert "fitting [0]" in text
    assert "00576224 [solved]" in text
    assert "\x1b[?25h" in text  # the cursor is shown again


class Full(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = 0

    def write(self, text: str) -> int:
        self.tried += 1
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stream_that_takes_nothing_is_tried_once_and_then_left_alone(terminal: bool) -> None:
    file = Full()
    observer = observer_for(Console(file=file, force_terminal=terminal, width=80))
    observer.note("one")
    tried = file.tried
    observer.progress(progress())
    observer.note("two")
    assert file.tried == tried > 0
    observer.end(summary())


def test_a_closed_pipe_ends_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as file:
        observer = observer_for(Console(file=file))
        observer.note("one")
        observer.progress(progress())
        observer.end(summary())
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is left in its buffer has to go somewhere
