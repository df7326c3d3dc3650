"""The verb of the command line that shows tasks and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(show)


def show(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK...", help="Task files, folders, named sets, or ids; with --run ids of its tasks, or all."),
    ] = None,
    *,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of a run: what it found for these tasks.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="OUT", help="Write a page instead, which needs no other file.")] = None,
) -> None:
    """Look at tasks, and at what a run made of them: its candidates, the views they came from, the two attempts.

    \b
    nll     negative log-likelihood of the answer in nats, the best of the views that gave it
    scored  the same as the mean over all views, by the newest adapter

    \b
    Examples:
      solver show 0c9aba6e
      solver show task.json 0c9aba6e --run runs/eval
      solver show --run runs/eval --html eval.html
    """
    from rich.console import Console

    from solver.commands.show import show as show_tasks

    show_tasks(tasks or (), run, html, Console(), lambda line: typer.echo(line, err=True))
