"""Tables for people: the results of a run, scores, and the findings of `solver doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from solver.report.live import clock_text, rate
from solver.report.scores import wilson

if TYPE_CHECKING:
    from rich.console import RenderableType

    from solver.report.doctor import Finding
    from solver.report.results import Summary, TaskResult
    from solver.report.scores import HeldOutRow

Score = Mapping[str, float]  # "solved", "total", "accuracy"

SCORE_NAMES = {
    "per_prediction": "test inputs, either attempt",
    "per_task_strict": "tasks, all test inputs",
    "per_task_mean": "tasks, share of test inputs",
    "pass_at_1": "test inputs, first attempt",
}
STATE_STYLES = {"ok": "green", "missing": "yellow", "refused": "red"}


def summary_view(summary: Summary) -> list[RenderableType]:
    """The summary on the screen: why the run stopped, how its seconds were used, how fast it was, and its scores."""
    views: list[RenderableType] = [Text(summary_head(summary), style="bold"), _facts_table(summary)]
    if summary.phases:
        views.append(phases_table(summary.phases))
    if summary.results:
        views.insert(0, tasks_table(summary.results))
    if summary.events:
        events = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.events.items()))
        views.append(Text(f"events: {events}"))
    if summary.scores:
        views.append(scores_table(summary.scores))
    return views


def summary_head(summary: Summary) -> str:
    """How much of a run is done, in what time, and why it ended."""
    failed = f", {summary.failed} failed" if summary.failed else ""
    return (
        f"{summary.done} of {summary.tasks} tasks{failed} in {clock_text(summary.seconds)} of {clock_text(summary.budget)}"
        f" - {summary.reason}"
    )


def summary_facts(summary: Summary) -> list[tuple[str, str]]:
    """What a run worked with, what it did, and how fast: names and values for people."""
    facts = []
    worker, supervisor = summary.peak_memory_worker / 2**20, summary.peak_memory_supervisor / 2**20
    if summary.settings.get("train", {}).get("trainer") != "none":
        facts.append(("model", f"{Path(summary.model).name}, {summary.dtype} on {summary.device}"))
        trained = f"{summary.steps:,} steps, {summary.trained_tokens:,} tokens, {rate(summary.trained_rate)}"
        facts.append(("trainer", f"{summary.trainer}: {trained}"))
        facts.append(("engine", f"{summary.engine}: {summary.sampled_tokens:,} tokens sampled, {rate(summary.sampled_rate)}"))
        facts.append(("peak memory", f"{worker:,.0f} MiB worker, {supervisor:,.0f} MiB supervisor"))
        facts.append(("agreement", f"{summary.agreement:.0%}"))
    if summary.programs_searched:
        exact = f"{summary.programs_exact} with programs that reproduce every demonstration"
        facts.append(("programs", f"{summary.programs_searched} tasks searched in {summary.programs_seconds:.1f} s, {exact}"))
    return facts


def _facts_table(summary: Summary) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right", no_wrap=True)
    table.add_column()
    for name, value in summary_facts(summary):
        table.add_row(name, escape(value))
    return table


def tasks_table(results: Iterable[TaskResult]) -> Table:
    """Passes, steps, seconds, candidates, answers of programs and solved test inputs of each task.

    Tasks without a pass and a program search share one line.
    """
    rows = list(results)
    searched = any(r.programs is not None for r in rows)
    extra = {"programs": "right"} if searched else {}
    table = _table("task", passes="right", steps="right", seconds="right", candidates="right", **extra, solved="right")
    waiting = []
    for r in rows:
        if not r.waves and r.programs is None:
            waiting.append(r)
            continue
        found = f"{r.candidates} ({r.distinct} different)" if r.candidates else "-"
        programs = "-" if not r.programs else f"{r.programs}, exact" if r.exact == r.tests else f"{r.programs}"
        solved = "?" if r.solved is None else f"{r.solved} of {r.tests}"
        style = "green" if r.solved == r.tests else ""
        cells = [r.id, str(r.waves), str(r.steps), f"{r.seconds:.1f}", found, *([programs] if searched else []), solved]
        table.add_row(*cells, style=style)
    if waiting:
        known = [r for r in waiting if r.solved is not None]
        solved = f"{sum(r.solved or 0 for r in known)} of {sum(r.tests for r in known)}" if known else "?"
        cells = [f"{len(waiting)} without a pass", "0", "0", "0.0", "-", *(["-"] if searched else []), solved]
        table.add_row(*cells, style="dim")
    return table


def phases_table(phases: Mapping[str, Mapping[str, float]]) -> Table:
    """Planned and used seconds of every phase, and the median error of the predictions for single tasks."""
    table = _table("phase", planned="right", used="right", error="right")
    for phase, seconds in phases.items():
        planned = seconds.get("planned", 0.0)  # 0: nothing was planned
        error = f"{seconds['error']:.0%}" if "error" in seconds else "-"
        table.add_row(phase, f"{planned:.1f} s" if planned else "-", f"{seconds.get('used', 0.0):.1f} s", error)
    return table


def scores_table(scores: Mapping[str, Any]) -> Table:
    """The metrics of `solver score`: solved, total, accuracy."""
    table = _table("score", solved="right", total="right", accuracy="right")
    table.add_column("counts", style="dim")
    for name, meaning in SCORE_NAMES.items():
        if name in scores:
            entry: Score = scores[name]
            table.add_row(name, f"{entry['solved']:g}", f"{entry['total']:g}", f"{entry['accuracy']:.1%}", meaning)
    return table


def evaluation_table(row: HeldOutRow) -> Table:
    """How well a model answered queries of held-out families, by corpus and in all."""
    table = _table("corpus", queries="right", exact="right", interval="right", tokens_right="right", nats="right")
    for name, counts in (*row.corpora.items(), ("all", asdict(row))):
        queries, tokens = int(counts["queries"]), counts["tokens"]
        low, high = wilson(counts["exact"], queries)
        exact, right, nats = counts["exact"] / queries, counts["right"] / tokens, counts["nats"] / tokens
        table.add_row(name, f"{queries}", f"{exact:.1%}", f"{low:.1%} to {high:.1%}", f"{right:.1%}", f"{nats:.4f}")
    return table


def findings_table(findings: Iterable[Finding]) -> Table:
    """The findings of `solver doctor`."""
    table = _table("", found="left")
    table.add_column("why", style="dim")
    for finding in findings:
        style = STATE_STYLES[finding.state]
        table.add_row(finding.topic, f"[{style}]{escape(finding.value)}[/]", escape(finding.why))
    return table


def _table(first: str, **columns: Any) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name, justify in columns.items():
        table.add_column(name, justify=justify)
    return table
