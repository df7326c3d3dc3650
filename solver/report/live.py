"""Shows the progress of a run: a live table on a terminal, plain lines elsewhere.

Both are an `Observer` of `solver.report.observer`. If they cannot write (a closed pipe, a full disk), they stay silent from then
on and never raise.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from solver.report.observer import Progress
    from solver.report.results import Summary

PLAIN_SECONDS = 15.0  # between two plain progress lines


class _Quiet:
    """Calls functions that write, until one fails because its output is closed or full; after that it does nothing."""

    def __init__(self) -> None:
        self._silent = False

    def __call__(self, write: Callable[[], object]) -> None:
        if self._silent:
            return
        try:
            write()
        except (OSError, ValueError):  # ValueError: the file is closed, or cannot encode the text
            self._silent = True


class PlainObserver:
    """One line for every note (a task done, a worker lost), and one for the progress every `PLAIN_SECONDS`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._due = clock()
        self._quietly = _Quiet()

    def progress(self, progress: Progress) -> None:
        """Write the line if it is due."""
        if self._clock() >= self._due:
            self._due = self._clock() + PLAIN_SECONDS
            self._quietly(lambda: self._write(progress_line(progress)))

    def note(self, line: str) -> None:
        """Write the line."""
        self._quietly(lambda: self._write(line))

    def end(self, summary: Summary | None) -> None:
        """Print the summary."""
        self._quietly(lambda: _show(self._console, summary))

    def _write(self, line: str) -> None:
        self._console.file.write(line + "\n")
        self._console.file.flush()  # a notebook or a pipe shows the line now, not when a buffer is full


class LiveObserver:
    """A table that is redrawn in place from the first call on; notes scroll by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True, redirect_stderr=False)
        self._quietly = _Quiet()

    def progress(self, progress: Progress) -> None:
        """Redraw the table."""
        self._quietly(self._live.start)
        self._quietly(lambda: self._live.update(progress_table(progress)))

    def note(self, line: str) -> None:
        """Print the line above the table."""
        self._quietly(self._live.start)
        self._quietly(lambda: self._live.console.print(escape(line), highlight=False))

    def end(self, summary: Summary | None) -> None:
        """Take the table away and print the summary."""
        with contextlib.suppress(OSError, ValueError):  # always, because it restores standard output
            self._live.stop()
        self._quietly(lambda: _show(self._console, summary))


def observer_for(console: Console) -> PlainObserver | LiveObserver:
    """The live table if `console` is a terminal that can redraw, else plain lines, written through at once."""
    return LiveObserver(console) if console.is_terminal and not console.is_dumb_terminal else PlainObserver(console)


def _show(console: Console, summary: Summary | None) -> None:
    from solver.report.tables import summary_view

    for view in summary_view(summary) if summary is not None else ():
        console.print(view)


def progress_line(progress: Progress) -> str:
    """The progress in one line of plain text."""
    failed = f", {progress.failed} failed" if progress.failed else ""
    parts = [
        f"{progress.done}/{progress.tasks} tasks{failed}",
        f"wave {progress.wave + 1}",
        f"{progress.steps} steps",
        f"{rate(progress.trained_rate)} trained",
        f"{rate(progress.sampled_rate)} sampled",
        f"agreement {progress.agreement:.0%}",
        f"{clock_text(progress.seconds_left)} left",
        progress.activity,
    ]
    return " | ".join(part for part in parts if part)


def progress_table(progress: Progress) -> Table:
    """The progress as a two-column table with a bar."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    failed = f", [red]{progress.failed} failed[/]" if progress.failed else ""
    table.add_row("tasks done", f"{progress.done} of {progress.tasks}{failed}")
    table.add_row("", ProgressBar(total=max(progress.tasks, 1), completed=progress.done, width=40))
    table.add_row("wave", str(progress.wave + 1))
    table.add_row("steps", f"{progress.steps:,}")
    table.add_row("trained", rate(progress.trained_rate))
    table.add_row("sampled", rate(progress.sampled_rate))
    table.add_row("agreement", f"{progress.agreement:.0%}")
    table.add_row("time left", clock_text(progress.seconds_left))
    table.add_row("now", escape(progress.activity))
    return table


def rate(tokens_a_second: float) -> str:
    """A rate in tokens a second; a dash before the first measurement."""
    return f"{tokens_a_second:,.0f} tok/s" if tokens_a_second > 0 else "-"


def clock_text(seconds: float) -> str:
    """Seconds as 0:05, 4:50 or 11:30:00; never negative."""
    whole = max(0, int(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
