"""Step throughput of a profile: what optimizer steps cost by sequence length, and how many fit the hours of a competition.

The columns are those of Barbadillo's table of training on Kaggle (ironbar, ARC24). `solver profile --throughput` writes it as
JSON, as a Markdown table and as a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from solver.arc.jsonfile import write_json
from solver.budget.profile import Profile
from solver.errors import InputError
from solver.report.curves import Report, plot_throughput
from solver.report.profile_table import number

HOURS, TASKS = 12.0, 240  # of a Kaggle kernel, and of the hidden file of ARC Prize
SUFFIXES = (".json", ".md", ".png")


@dataclass(frozen=True)
class StepCost:
    """What the steps of one model, quantisation and sequence length cost on a machine."""

    model: str
    parameters: int
    context: int  # tokens a run may use at most; 0: unknown
    quantization: str
    tokens: int  # of a training sequence
    sequences: int  # of a step
    seconds_10_steps: float
    hours_1000_steps: float
    steps_a_task: float  # that fit `HOURS` if `TASKS` tasks share all devices of the machine and nothing else is done


def step_costs(profile: Profile) -> list[StepCost]:
    """A row for every quantisation and length whose steps were measured or estimated."""
    return [
        StepCost(
            model=profile.model.name,
            parameters=profile.model.parameters,
            context=variant.context,
            quantization=variant.quantization,
            tokens=row.tokens,
            sequences=variant.batch,
            seconds_10_steps=10 * row.step_seconds,
            hours_1000_steps=1000 * row.step_seconds / 3600,
            steps_a_task=HOURS * 3600 * profile.machine.devices / TASKS / row.step_seconds,
        )
        for variant in profile.variants
        for row in variant.rows
        if row.step_seconds
    ]


HEAD = ("model", "weights", "context", "quantisation", "tokens", "10 steps (s)", "1000 steps (h)", "steps a task")


def cells(cost: StepCost) -> list[str]:
    """One row of the table, in the order of `HEAD`."""
    return [
        cost.model,
        f"{cost.parameters / 1e6:,.1f}M",
        f"{cost.context:,}" if cost.context else "-",
        cost.quantization,
        f"{cost.tokens:,}",
        number(cost.seconds_10_steps),
        number(cost.hours_1000_steps),
        number(cost.steps_a_task),
    ]


def throughput_table(profile: Profile) -> Table:
    """For a terminal of 80 columns."""
    table = Table(title=_title(profile), title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in HEAD:
        table.add_column(column.replace(" ", "\n", 1), justify="left" if column in ("model", "quantisation") else "right")
    for cost in step_costs(profile):
        table.add_row(*cells(cost), style="dim" if profile.estimate else "")
    return table


def _title(profile: Profile) -> str:
    machine = profile.machine
    devices = f"{machine.devices} x {machine.device}" if machine.devices > 1 else machine.device
    estimate = " (estimate)" * profile.estimate
    return f"step throughput: {TASKS} tasks share {HOURS:g} h of {devices}, all of it in steps{estimate}"


def check_throughput_files(paths: Iterable[Path]) -> None:
    """Check the names of files before minutes of measuring. Raises InputError."""
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise InputError(f"--throughput {path}: name it {', '.join(SUFFIXES)}")
        if not path.parent.is_dir():
            raise InputError(f"--throughput {path}: there is no folder {path.parent}")


def write_throughput(path: Path, profile: Profile, report: Report) -> None:
    """Write the table in the form of the file's suffix. A picture that cannot be drawn is told to `report`.

    Raises InputError if the file cannot be written.
    """
    try:
        if path.suffix == ".json":
            write_json(path, as_json(profile))
        elif path.suffix == ".md":
            path.write_text("\n".join(_markdown(profile)) + "\n", encoding="utf-8")
        else:
            curves: dict[str, list[tuple[int, float]]] = {}
            for cost in step_costs(profile):
                curves.setdefault(f"{cost.model}, {cost.quantization}", []).append((cost.tokens, cost.steps_a_task))
            plot_throughput(curves, _title(profile), path, report)
    except OSError as error:
        raise InputError(f"--throughput {path}: cannot be written: {error.strerror or error}") from None


def as_json(profile: Profile) -> dict[str, Any]:
    """The table for machines, with what it assumes."""
    return {
        "device": profile.machine.device,
        "devices": profile.machine.devices,
        "estimate": profile.estimate,
        "hours": HOURS,
        "tasks": TASKS,
        "rows": [asdict(cost) for cost in step_costs(profile)],
    }


def _markdown(profile: Profile) -> Iterator[str]:
    suffix = ", estimate" * profile.estimate
    yield f"| {' | '.join([*HEAD[:5], *(f'{name}{suffix}' for name in HEAD[5:])])} |"
    yield f"| --- | ---: | ---: | --- {'| ---: ' * 4}|"
    for cost in step_costs(profile):
        yield f"| {' | '.join(cells(cost))} |"
    yield ""
    yield _title(profile)
