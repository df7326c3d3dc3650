"""What several commands share: options, and how they print JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        metavar="DIR|NAME", help="Base model: a folder, embedded-base, embedded-mid, or embedded, which chooses by the device."
    ),
]

KnownAnswersOption = Annotated[
    str | None,
    typer.Option(
        help="The known answers: a file, or a named set.  [default: the --solutions of the runs, or those of their task set]"
    ),
]

SeedOption = Annotated[int, typer.Option(min=0, help="Seed for everything that is drawn at random.")]


ExecutorOption = Annotated[
    Literal["local", "ray"] | None,
    typer.Option(help="Where the workers run: on this machine, or on the nodes of a Ray cluster.  [default: local]"),
]

AddressOption = Annotated[
    str | None,
    typer.Option(
        help="The cluster for --executor ray: auto (the one that this machine belongs to), local (one that is started here), or "
        "ray://HOST:PORT.  [default: auto]"
    ),
]


def executor_settings(executor: str | None, address: str | None) -> list[str]:
    """What --executor and --address set, as for --set."""
    chosen = {"workers.executor": executor, "workers.address": address}
    return [f"{key}={json.dumps(value)}" for key, value in chosen.items() if value is not None]


def seconds_of(duration: str | None) -> float | None:
    """The seconds of a text like 90s or 2h; None for None. Raises InputError."""
    from solver.config import parse_duration

    return None if duration is None else parse_duration(duration)


def print_progress(line: str) -> None:
    """Print a line of progress to standard error."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a value for machines, indented."""
    typer.echo(json.dumps(value, indent=2))
