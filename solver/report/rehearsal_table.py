"""Shows the result of rehearsals to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

_ROWS = {  # heading -> key, form
    "runs": ("runs", "{:,}"),
    "late": ("deadline_misses", "{:,}"),
    "invalid submissions": ("invalid_submissions", "{:,}"),
    "utilisation": ("utilisation", "{:.1%}"),
    "  of the worst run": ("utilisation_least", "{:.1%}"),
    "loading": ("loading", "{:.1%}"),
    "lost": ("lost", "{:.1%}"),
    "down": ("down", "{:.1%}"),
    "steps a task": ("steps_per_task", "{:.1f}"),
    "tasks at floor": ("tasks_at_floor", "{:.1f}"),
    "tasks untouched": ("tasks_untouched", "{:.1f}"),
}


def rehearsal_table(result: Mapping[str, Any]) -> Table:
    """One column for each fault mix and one for all."""
    columns = {**result["mixes"], **({"all": result} if len(result["mixes"]) > 1 else {})}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("faults", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for heading, (key, form) in _ROWS.items():
        table.add_row(heading, *("-" if values[key] is None else form.format(values[key]) for values in columns.values()))
    return table


def rehearsal_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """Lines beside the table: what was rehearsed, where the durations come from, how runs ended."""
    yield (
        f"{result['tasks']} tasks in {result['budget'] / 3600:.2f} h on {result['machine']} ({result['workers']} workers), "
        f"policy {result['policy']}, {result['model']}, seed {result['seed']}"
    )
    yield ("durations measured: " if result["durations_measured"] else "durations are an ESTIMATE: ") + result["durations"]
    noise = result["noise"]
    where = "fitted on ledgers" if noise["fitted"] else "assumed"
    tail = f"{noise['tail_share']:.1%} in a tail of power {noise['tail_power']:.1f}"
    yield f"noise of durations ({where}): sigma {noise['sigma']:.2f}, {tail}"
    yield "ends: " + ", ".join(f"{name} {count:,}" for name, count in result["stops"].items())
    yield "events: " + (", ".join(f"{name} {count:,}" for name, count in result["events"].items()) or "none")
    yield from result["warnings"]
    if result["first_bad_seed"] is not None:
        yield f"the first run that was late or had an invalid submission is number {result['first_bad_seed']}"
