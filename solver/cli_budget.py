"""The verbs of the command line about seconds: what a machine needs, and what a run would do with its budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from solver.cli_options import ModelOption
from solver.errors import InputError

if TYPE_CHECKING:
    from solver.budget.profile import Profile

Quantization = Literal["none", "nf4"]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(profile)
    app.command()(dry_run)


def profile(
    *,
    model: ModelOption = "embedded",
    quantization: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Measure these: none, nf4 or both.  [default: that of the settings]")
    ] = None,
    lengths: Annotated[
        str, typer.Option(metavar="N,N", help="Lengths of a training sequence and of a prompt, in tokens.")
    ] = "512,1024,2048,4096,8192",
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Measure for at most this many seconds. Lengths that would take longer are left out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the profile to this file.  [default: profile.json]", show_default=False)
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="Print the ratio of every number to that in an older profile.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Write the table into this document, between the markers of the machine."),
    ] = None,
    throughput: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Write the table of step throughput to this file: .json, .md or .png. May be repeated."
        ),
    ] = None,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Measure nothing. Show the stored profile, or the estimate, for --machine and --model."),
    ] = False,
    machine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this machine preset, for example cpu or kaggle-l4x4.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this recipe preset, for example default or mit.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. May be repeated.")
    ] = None,
) -> None:
    """Measure what a model costs on this machine.

    The command measures seconds per optimizer step, tokens/s of training, prefill, decoding and search, peak memory, and the
    start of a worker. It does so for each quantisation and length, with the trainer and the engine that a run would use. To
    plan a run with the result: solver run --set budget.profile=FILE. A second table says how many steps a task fit 12 hours.

    \b
    Examples:
      solver profile --seconds 60 --throughput steps.md --throughput steps.png
      solver profile --machine h200 --model PATH --quantization none,nf4 --out h200.json --compare old.json
      solver profile --machine kaggle-l4x4 --model PATH --stored
    """
    from rich.console import Console

    from solver.budget.prior import model_of
    from solver.budget.prior import stored as stored_profile
    from solver.budget.profile import check_place, load_profile, save_profile
    from solver.config import load_settings
    from solver.model.shipped import model_named
    from solver.report.profile_table import (
        check_document,
        comparison_table,
        lines_about,
        notes,
        profile_tables,
        rewrite_table,
    )
    from solver.report.throughput import check_throughput_files, throughput_table, write_throughput

    settings = load_settings(machine, recipe, set_ or ())
    check_throughput_files(throughput or ())
    if out is not None or not stored:
        check_place(out or Path("profile.json"))
    if table is not None:
        check_document(table, machine)
    old = load_profile(compare) if compare is not None else None
    if stored:
        folder = model_named(model)
        found = stored_profile(machine, None if folder is None else model_of(folder))
    else:
        from solver.commands.profile import ProfileOptions
        from solver.commands.profile import profile as measure

        options = ProfileOptions(
            settings=settings,
            model=model_named(model),
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
    console.print(*profile_tables(found), throughput_table(found))
    for line in notes(found):
        typer.echo(line)
    if old is not None:
        _warn_of_differences(old, found)
        console.print(comparison_table(found, old))
    if table is not None:
        rewrite_table(table, found)
    for path in throughput or ():
        write_throughput(path, found, lambda line: typer.echo(line, err=True))


def dry_run(
    challenges: Annotated[str, typer.Argument(help="The tasks, as for `solver run`.")],
    *,
    cap: Annotated[str, typer.Option(help="Time for the sample.")] = "3m",
    budget: Annotated[str, typer.Option(help="Budget of the whole run.")] = "12h",
    as_: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Extrapolate to this machine, by the ratio of the two profiles.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the run of the sample in this folder.  [default: delete it]")] = None,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="Use this machine preset for this machine.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this recipe preset, for example default or mit.")
    ] = None,
    model: ModelOption = "embedded",
    tasks: Annotated[
        str | None, typer.Option(metavar="N|ID,ID", help="Take the first N tasks, or the tasks with these ids.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed for views and samples.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. May be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run a sample of the tasks and predict what the whole run would do.

    The command solves tasks of all sizes exactly as `solver run` would. Then it plays out all tasks and the whole budget with
    the costs it measured: steps, views, the end of the run, and what would be left out. It also says how far its own
    predictions were off.

    \b
    Examples:
      solver dry-run arc2:evaluation --cap 3m
      solver dry-run arc-agi_test_challenges.json --cap 10m --budget 11h30m --machine h200 --as kaggle-l4x4 --json
    """
    import tempfile

    from rich.console import Console

    from solver.commands.dry_run import DryRunOptions
    from solver.commands.dry_run import dry_run as run_dry
    from solver.config import load_settings, parse_duration
    from solver.model.shipped import model_named
    from solver.report.dry_run_table import dry_run_view
    from solver.report.live import observer_for
    from solver.run.types import RunOptions

    overrides = [*(set_ or ()), *([f"seed={seed}"] if seed is not None else ())]
    with tempfile.TemporaryDirectory(prefix="solver-dry-run-") as temporary:
        options = RunOptions(
            challenges=challenges,
            out=out or Path(temporary),
            budget=parse_duration(budget),
            settings=load_settings(machine, recipe, overrides),
            model=model_named(model),
            recipe=recipe,
            machine=machine,
            tasks=tasks,
        )
        found, summary = run_dry(
            DryRunOptions(options, parse_duration(cap), as_),
            observer_for(Console(stderr=True)),
            lambda line: typer.echo(line, err=True),
        )
    if found is None:
        raise typer.Exit(summary.exit_code)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    Console().print(*dry_run_view(found))


def _warn_of_differences(old: Profile, new: Profile) -> None:
    for difference in old.differences(new.machine, new.model):
        typer.echo(f"the older profile is not of the same thing: {difference}", err=True)


def _quantizations(text: str) -> tuple[Quantization, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in get_args(Quantization):
            raise InputError(f"--quantization: {name!r} is not one of: {', '.join(get_args(Quantization))}")
    return names  # type: ignore[return-value]


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or min(lengths) < 16:
        raise InputError(f"--lengths {text}: write numbers of tokens, each 16 or more, with commas between them")
    return lengths
