"""What several commands share: options, and how they print JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

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


def print_json(value: Any) -> None:
    """Print a value for machines, indented."""
    typer.echo(json.dumps(value, indent=2))
