"""The result of a dry run, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from solver.report.live import clock_text

if TYPE_CHECKING:
    from rich.console import RenderableType

NAMED = 6  # tasks that are named, at most


@dataclass(frozen=True)
class PhaseSeconds:
    """One phase of the sample: worker seconds predicted before each pass, worker seconds used, and errors of the predictions."""

    predicted: float
    used: float
    error: float | None  # median of |predicted - used| / used over all passes
    error_later: float | None  # the same without the first `LEARNING` passes
    full: float | None  # worker seconds of the whole run


@dataclass(frozen=True)
class DryRun:
    """The result of a dry run. Seconds are wall-clock seconds unless they say worker seconds."""

    estimate: bool  # whether costs were converted to another machine than that of the sample
    derivation: str
    machine: str
    workers: int
    sample_tasks: int
    sample_seconds: float
    sample_events: Mapping[str, int]
    tasks: int
    budget: float
    start_seconds: float  # until the first pass
    finish: float  # when the last pass ends
    work_left: bool  # whether some task would still be worth a pass then
    busy: float  # share of the workers' time in passes
    steps: float  # a task
    views: float  # a task
    passes: float  # a task
    planned_steps: int  # of a full pass by the settings
    planned_views: int
    untouched: tuple[str, ...]  # tasks that would keep the fallback answer
    below: tuple[str, ...]  # tasks that would get less than one full pass by the settings
    phases: Mapping[str, PhaseSeconds]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def dry_run_view(dry_run: DryRun) -> Iterator[RenderableType]:
    """The sample, its phases, and what the whole run is expected to do."""
    events = ", ".join(f"{kind} {count}" for kind, count in sorted(dry_run.sample_events.items())) or "none"
    yield Text(
        f"sample: {dry_run.sample_tasks} of {dry_run.tasks} tasks in {clock_text(dry_run.sample_seconds)}; events: {events}"
    )
    yield phases_table(dry_run)
    kind = "ESTIMATE, not measured there" if dry_run.estimate else "extrapolation from the sample"
    workers = f"{dry_run.workers} worker{'s' if dry_run.workers > 1 else ''}"
    head = f"{dry_run.tasks} tasks in {clock_text(dry_run.budget)} on {dry_run.machine}, {workers} - {kind}"
    yield Text(head, style="bold")
    yield _expected_table(dry_run)
    if dry_run.derivation:
        yield Text(dry_run.derivation, style="dim")


def phases_table(dry_run: DryRun) -> Table:
    """Worker seconds by phase, predicted and used in the sample, and of the whole run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase")
    for column in ("predicted", "used", "median error", "after 5 tasks", "whole run"):
        table.add_column(column, justify="right")
    for phase, seconds in dry_run.phases.items():
        predicted = f"{seconds.predicted:.1f} s" if seconds.predicted else "-"
        whole = "-" if seconds.full is None else clock_text(seconds.full)
        table.add_row(phase, predicted, f"{seconds.used:.1f} s", _share(seconds.error), _share(seconds.error_later), whole)
    return table


def _expected_table(dry_run: DryRun) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column()
    table.add_row("start", f"{clock_text(dry_run.start_seconds)} until the first pass")
    ending = "the time is up, with work left" if dry_run.work_left else "all work is done"
    table.add_row("finish", f"{clock_text(dry_run.finish)}: {ending}; workers busy {dry_run.busy:.0%} of the time")
    table.add_row("per task", f"{dry_run.steps:.0f} steps, {dry_run.views:.1f} views in {dry_run.passes:.1f} passes")
    table.add_row("a full pass", f"{dry_run.planned_steps} steps, {dry_run.planned_views} views by the settings")
    table.add_row("short", f"{_named(dry_run.untouched)} without a pass, {_named(dry_run.below)} with less than one full pass")
    return table


def _named(ids: tuple[str, ...]) -> str:
    if not ids:
        return "no task"
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"{len(ids)} ({', '.join(ids[:NAMED])}{more})"


def _share(error: float | None) -> str:
    return "-" if error is None else f"{error:.0%}"
