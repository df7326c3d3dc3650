"""The verbs of the command line below `solver reproduce`: the tables of published work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from solver.cli_options import AddressOption, ExecutorOption, executor_settings, print_json, print_progress, seconds_of

if TYPE_CHECKING:
    from solver.commands.reproduce import Reproduced

OutOption = Annotated[Path, typer.Option(help="Keep rows, runs, tables and pictures here. What is there is not measured again.")]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="DIR|NAME",
        help="Base model: a folder, embedded-base, embedded-mid, or embedded, which chooses by the device. May be repeated.",
    ),
]
OnOption = Annotated[
    str | None,
    typer.Option(metavar="TASKS", help="Report on this set or file, for example arc1:evaluation.  [default: held-out tasks]"),
]
TasksOption = Annotated[
    int | None, typer.Option(min=1, help="This many tasks for all arms.  [default: 100, with --small 10; with --on all]")
]
TokensOption = Annotated[
    int | None, typer.Option(min=60, help="Grid tokens of a held-out task at most.  [default: 600, with --small 200]")
]
SmallOption = Annotated[bool, typer.Option("--small", help="Fewer and shorter tasks, fewer steps, and a budget of 15 minutes.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION", help="Time for all arms together, for example 8h. If they need more, fewer tasks are taken."
    ),
]
SeedsOption = Annotated[list[int] | None, typer.Option("--seed", min=0, help="Seed of views and fits. May be repeated.")]
CorpusOption = Annotated[Path | None, typer.Option(help="Folder of corpora whose held-out families are asked, too.")]
CacheOption = Annotated[Path, typer.Option(help="Keep the packed corpora here.")]
MachineOption = Annotated[str | None, typer.Option(metavar="NAME", help="Use this machine preset.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of all arms. May be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    reproduce = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Measure what published methods are worth: tables of arms that differ in one setting, on the same tasks.",
    )
    for verb in (mit, report, ironbar, data, sweep):
        reproduce.command()(verb)
    app.add_typer(reproduce, name="reproduce")


def mit(
    *,
    out: OutOption,
    model: ModelsOption = None,
    on: OnOption = None,
    tasks: TasksOption = None,
    tokens: TokensOption = None,
    small: SmallOption = False,
    budget: BudgetOption = None,
    seed: SeedsOption = None,
    corpus: CorpusOption = None,
    cache: CacheOption = Path("runs/pretrain"),
    machine: MachineOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test-time training with one thing changed at a time, and augmented inference (Akyurek et al. 2024, arXiv 2411.07279).

    No test-time training, direct input-output data, no transforms, a shared adapter, no loss on demonstrations, NF4,
    leave-two-out; single transforms, no permutations, the flat vote, and the oracle over all candidates.

    \b
    Examples:
      solver reproduce mit --out runs/mit --small
      solver reproduce mit --out runs/mit --on arc1:evaluation --tasks 80 --budget 10h
    """
    _reproduce("mit", model or ["embedded"], as_json, **_common(locals()))


def report(
    *,
    out: OutOption,
    model: ModelsOption = None,
    on: OnOption = None,
    tasks: TasksOption = None,
    tokens: TokensOption = None,
    small: SmallOption = False,
    budget: BudgetOption = None,
    seed: SeedsOption = None,
    corpus: CorpusOption = None,
    cache: CacheOption = Path("runs/pretrain"),
    machine: MachineOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Models of several sizes, with and without test-time training, and with parts of augmented inference.

    Test inputs and tasks are counted apart, and the table says why the counts differ. Default models: both that ship.

    \b
    Examples:
      solver reproduce report --out runs/report --small
      solver reproduce report --out runs/report --on arc1:evaluation --model embedded-base --model PATH
    """
    _reproduce("report", model or ["embedded-base", "embedded-mid"], as_json, **_common(locals()))


def ironbar(
    *,
    out: OutOption,
    model: ModelsOption = None,
    on: OnOption = None,
    tasks: TasksOption = None,
    tokens: TokensOption = None,
    small: SmallOption = False,
    budget: BudgetOption = None,
    seed: SeedsOption = None,
    corpus: CorpusOption = None,
    cache: CacheOption = Path("runs/pretrain"),
    machine: MachineOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Data for test-time training step by step (Barbadillo 2024, ARC24): n-1, geometric changes, colour swaps, n-2.

    With the loss of the true answers; batch sizes and learning rates at equal tokens; and the seconds of an optimizer step.

    \b
    Examples:
      solver reproduce ironbar --out runs/ironbar --small
      solver reproduce ironbar --out runs/ironbar --budget 10h
    """
    _reproduce("ironbar", model or ["embedded"], as_json, **_common(locals()))


def sweep(
    *,
    out: OutOption,
    arm: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="One setting to compare with the recipe. May be repeated.")],
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Use this recipe preset.  [default: default]")] = None,
    model: ModelsOption = None,
    on: OnOption = None,
    tasks: TasksOption = None,
    tokens: TokensOption = None,
    small: SmallOption = False,
    budget: BudgetOption = None,
    seed: SeedsOption = None,
    corpus: CorpusOption = None,
    cache: CacheOption = Path("runs/pretrain"),
    machine: MachineOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare settings of your choice with a recipe, by solved tasks and by the loss of the true answers.

    \b
    Example:
      solver reproduce sweep --out runs/rates --arm train.lr=1e-3 --arm train.lr=4e-3 --tasks 24
    """
    _reproduce("sweep", model or ["embedded"], as_json, recipe=recipe, arms=tuple(arm), **_common(locals()))


def data(
    *,
    out: OutOption,
    preset: Annotated[str, typer.Option(help="Size of the models to train: tiny, small, base or mid.")] = "tiny",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of a training.  [default: 2000, with --small 60]")
    ] = None,
    device: Annotated[str, typer.Option(help="Train on this device: cpu or cuda.")] = "cpu",
    on: OnOption = None,
    tasks: TasksOption = None,
    tokens: TokensOption = None,
    small: SmallOption = False,
    budget: BudgetOption = None,
    seed: SeedsOption = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Folder of corpora to train on; each of them is left out once. Held-out families are asked."),
    ] = None,
    cache: CacheOption = Path("runs/pretrain"),
    machine: MachineOption = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What fine-tuning data is worth before test-time training: corpora, and transforms of inputs, outputs or both.

    A small model is trained from nothing on each choice of data, for the same steps.

    \b
    Example:
      solver reproduce data --out runs/data --small
    """
    from rich.console import Console

    from solver.commands.reproduce_data import SMALL_STEPS, USUAL_STEPS, DataOptions, reproduce_data
    from solver.experiments.pretrainings import Training
    from solver.report.live import observer_for

    common = _options("data", ["embedded"], **_common(locals()))
    training = Training(
        preset, steps or (SMALL_STEPS if small else USUAL_STEPS), corpus=corpus, device=device, seed=common.seeds[0]
    )
    _end(reproduce_data(DataOptions(common, training), lambda: observer_for(Console(stderr=True)), print_progress), as_json)


def _common(given: dict[str, Any]) -> dict[str, Any]:
    """The options that all verbs share, out of the arguments of one."""
    names = ("out", "on", "tasks", "tokens", "small", "budget", "seed", "corpus", "cache", "machine", "set_")
    executor = executor_settings(given["executor"], given["address"])
    return {name: given[name] for name in names} | {"executor": executor}


def _options(experiment: str, models: list[str], recipe: str | None = None, arms: tuple[str, ...] = (), **given: Any) -> Any:
    from solver.commands.reproduce import ReproduceOptions
    from solver.model.shipped import model_named

    return ReproduceOptions(
        experiment=experiment,
        out=given["out"],
        models=tuple(model_named(model) for model in models),
        on=given["on"],
        tasks=given["tasks"],
        tokens=given["tokens"],
        small=given["small"],
        budget=seconds_of(given["budget"]),
        seeds=tuple(dict.fromkeys(given["seed"] or [0])),
        corpus=given["corpus"],
        cache=given["cache"],
        machine=given["machine"],
        overrides=(*(given["set_"] or ()), *given["executor"]),
        recipe=recipe,
        arms=arms,
    )


def _reproduce(experiment: str, models: list[str], as_json: bool, **given: Any) -> None:
    from rich.console import Console

    from solver.commands.reproduce import reproduce
    from solver.report.live import observer_for

    options = _options(experiment, models, **given)
    _end(reproduce(options, lambda: observer_for(Console(stderr=True)), print_progress), as_json)


def _end(done: Reproduced, as_json: bool) -> None:
    from solver.report.arms_table import as_json as json_of

    if as_json:
        print_json([json_of(table) for table in done.reports])
    else:
        typer.echo(done.text, nl=False)
    raise typer.Exit(done.exit_code)
