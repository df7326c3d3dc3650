"""The verbs of the command line that show tasks, answers and runs to people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from solver.cli_options import KnownAnswersOption, print_progress


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(show)
    app.command()(report)


def show(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK...", help="Task files, folders, named sets, or ids; with --run ids of its tasks, or all."),
    ] = None,
    *,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of a run: what it found for these tasks.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a page of these tasks instead. solver report shows whole runs.")
    ] = None,
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

    show_tasks(tasks or (), run, html, Console(), print_progress)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs. Later ones are compared with the first.")
    ],
    *,
    html: Annotated[Path, typer.Option(metavar="OUT", help="Write the page to this file, which needs no other file.")],
    solutions: KnownAnswersOption = None,
) -> None:
    """Write a page about a run, or about several runs and where they differ.

    The page shows the scores and what became of every test input, planned and used seconds, the agreement over waves, what each
    process did when, and every task with its grids, candidates, answers by view, passes and attempts. With several runs it shows
    the tasks gained and lost, with a paired test. The runs need not have ended.

    \b
    Examples:
      solver report runs/eval --html eval.html
      solver report runs/before runs/after --html comparison.html
    """
    from solver.commands.report import report as write_report

    typer.echo(write_report(runs, solutions, html, print_progress))
