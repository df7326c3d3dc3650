"""What a dry run found, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from solver.report.live import clock_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from solver.run.dry_run import DryRun

NAMED = 6  # tasks that are named, at most


def dry_run_view(found: DryRun) -> Iterator[RenderableType]:
    """The sample, the phases, and what is to be expected of the whole."""
    events = ", ".join(f"{kind} {count}" for kind, count in sorted(found.sample_events.items())) or "none"
    yield Text(f"sample: {found.sample_tasks} of {found.tasks} tasks in {clock_text(found.sample_seconds)}; events: {events}")
    yield phases_table(found)
    kind = "ESTIMATE, not measured there" if found.estimate else "extrapolation from the sample"
    workers = f"{found.workers} worker{'s' if found.workers > 1 else ''}"
    head = f"{found.tasks} tasks in {clock_text(found.budget)} on {found.machine}, {workers} - {kind}"
    yield Text(head, style="bold")
    yield _expected_table(found)
    if found.derivation:
        yield Text(found.derivation, style="dim")


def phases_table(found: DryRun) -> Table:
    """Worker seconds by phase, predicted and used in the sample, and of the whole run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase")
    for column in ("predicted", "used", "median error", "after 5 tasks", "whole run"):
        table.add_column(column, justify="right")
    for phase, seconds in found.phases.items():
        predicted = f"{seconds.predicted:.1f} s" if seconds.predicted else "-"
        whole = "-" if seconds.full is None else clock_text(seconds.full)
        table.add_row(phase, predicted, f"{seconds.used:.1f} s", _share(seconds.error), _share(seconds.error_later), whole)
    return table


def _expected_table(found: DryRun) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column()
    table.add_row("start", f"{clock_text(found.start_seconds)} until the first pass")
    ending = "the time is up, with work left" if found.work_left else "nothing is left to do"
    table.add_row("finish", f"{clock_text(found.finish)}: {ending}; workers busy {found.busy:.0%} of the time")
    table.add_row("a task", f"{found.steps:.0f} steps, {found.views:.1f} views in {found.passes:.1f} passes")
    table.add_row("a full pass", f"{found.planned_steps} steps, {found.planned_views} views by the settings")
    table.add_row("cut", f"{_named(found.untouched)} without a pass, {_named(found.below)} with less than one full pass")
    return table


def _named(ids: tuple[str, ...]) -> str:
    if not ids:
        return "no task"
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"{len(ids)} ({', '.join(ids[:NAMED])}{more})"


def _share(error: float | None) -> str:
    return "-" if error is None else f"{error:.0%}"
