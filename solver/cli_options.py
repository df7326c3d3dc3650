"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        metavar="DIR|NAME", help="Base model: a folder, embedded-base, embedded-mid, or embedded, which chooses by the device."
    ),
]
