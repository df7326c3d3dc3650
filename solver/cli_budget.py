"""The verbs of the command line about seconds: what a machine needs, and what a run would do with its budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from solver.errors import InputError

if TYPE_CHECKING:
    from solver.budget.profile import Profile

Quantization = Literal["none", "nf4"]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(profile)


def profile(
    *,
    model: Annotated[Path | None, typer.Option(help="Base model folder; without it the embedded model.")] = None,
    quantization: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="none, nf4 or both; without it that of the settings.")
    ] = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,N", help="Tokens of a training sequence and of a prompt.")
    ] = "512,1024,2048,4096,8192",
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Measure no longer than this; lengths that would take longer are left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the profile.  [default: profile.json]", show_default=False)] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="Print every number over that of another profile.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Put the table between the markers of the machine in this document.")
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="Measure nothing: show what is stored, or estimated, for --machine and --model.")
    ] = False,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="Machine preset, for example cpu or kaggle-l4x4.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Recipe preset, for example default or mit.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
    ] = None,
) -> None:
    """Measure what a model costs on this machine.

    Seconds per optimizer step, tokens/s of training, prefill, decoding and search, peak memory, and how long a worker takes to
    start, by quantisation and length, through the trainer and the engine that a run would use. The file is the prior of the
    cost model of `solver run --set budget.profile=FILE`.

    \b
    Examples:
      solver profile --seconds 60
      solver profile --machine h200 --model PATH --quantization none,nf4 --out h200.json --compare old.json
      solver profile --machine kaggle-l4x4 --model PATH --stored
    """
    from rich.console import Console

    from solver.budget.prior import model_of
    from solver.budget.prior import stored as stored_profile
    from solver.budget.profile import load_profile, save_profile
    from solver.config import load_settings
    from solver.report.profile_table import comparison_table, lines_about, notes, profile_tables, rewrite_table

    settings = load_settings(machine, recipe, set_ or ())
    old = load_profile(compare) if compare is not None else None
    if stored:
        found = stored_profile(machine, model_of(model))
    else:
        from solver.run.profile import ProfileOptions
        from solver.run.profile import profile as measure

        options = ProfileOptions(
            settings=settings,
            model=model,
            machine=machine,
            quantizations=_quantizations(quantization or settings.model.quantization),
            lengths=_lengths(lengths),
            seconds=seconds,
        )
        found = measure(options, lambda line: typer.echo(line, err=True))
    if out is not None or not stored:
        save_profile(out or Path("profile.json"), found)
    console = Console()
    for line in lines_about(found):
        typer.echo(line)
    console.print(*profile_tables(found))
    for line in notes(found):
        typer.echo(line)
    if old is not None:
        _warn_of_differences(old, found)
        console.print(comparison_table(found, old))
    if table is not None:
        rewrite_table(table, found)


def _warn_of_differences(old: Profile, new: Profile) -> None:
    for difference in old.differences(new.machine, new.model):
        typer.echo(f"the older profile is of something else: {difference}", err=True)


def _quantizations(text: str) -> tuple[Quantization, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in get_args(Quantization):
            raise InputError(f"--quantization: {name!r} is none of {', '.join(get_args(Quantization))}")
    return names  # type: ignore[return-value]


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 16:
        raise InputError(f"--lengths {text}: write numbers of tokens, 16 or more each, with commas between them")
    return lengths
