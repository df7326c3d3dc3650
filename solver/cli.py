"""The command line: one command per verb. Each one parses its arguments, calls the room that does the work, and prints.

Rooms are imported inside the commands: `solver --help` answers at once, and only the commands that need torch load it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from solver import cli_budget, cli_math, cli_model, cli_pretrain, cli_reproduce, cli_show, cli_verify
from solver.cli_options import AddressOption, ExecutorOption, KnownAnswersOption, ModelOption, executor_settings, print_json
from solver.errors import InputError


class _Commands(TyperGroup):
    """Turns an `InputError` of any command into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"solver: {' '.join(str(error).splitlines())}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of `solver` and of `python -m solver`."""
    app(prog_name="solver")


def _version(wanted: bool) -> None:
    if wanted:
        import solver

        typer.echo(f"solver {solver.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Solve ARC-AGI tasks by test-time training under a wall-clock budget."""


@app.command()
def run(
    challenges: Annotated[
        str | None,
        typer.Argument(
            help="The tasks to solve: a challenges file, a task file, rows of tasks (.jsonl), a folder with any of these, "
            "or a named set (arc1:training, arc1:evaluation, arc2:training, arc2:evaluation).  [default: a fixed sample of "
            "arc1:evaluation]"
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Write submission.json, run.db, summary.json and log.txt to this folder.")],
    budget: Annotated[str, typer.Option(help="Time from the start of the process to its exit: 90s, 5m, 11h30m.")] = "5m",
    until: Annotated[
        float | None, typer.Option(metavar="EPOCH", help="Exit by this time (seconds since 1970). Replaces --budget.")
    ] = None,
    solutions: Annotated[
        Path | None, typer.Option(help="File of known answers. They are used for scores only; the solver never sees them.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this machine preset, for example cpu or kaggle-l4x4.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this recipe preset, for example default or mit.")
    ] = None,
    model: ModelOption = "embedded",
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Start every fit from this LoRA adapter of the model, in PEFT's format.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="N|ID,ID", help="Take the first N tasks, or the tasks with these ids.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed for views and samples.")] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(help="The run makes its folder for adapters in here.  [default: the folder for temporary files]"),
    ] = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Do not delete the adapters when the run ends. They lie below --scratch.")
    ] = False,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. May be repeated.")
    ] = None,
) -> None:
    """Solve tasks and write a submission before the time is up.

    The solver adapts the base model to each task, samples answers under many views, and picks two for each test input.

    The submission is complete and valid from the first second. To resume a run, give the same command with the same --out.

    \b
    Examples:
      solver run --out runs/sample --budget 5m
      solver run arc1:evaluation --out runs/eval --budget 1h --tasks 40
      solver run arc-agi_test_challenges.json --out out --budget 11h30m --machine kaggle-l4x4
      solver run task.json --out runs/one --budget 90s --set train.rank=32 --set infer.mode=search
      solver run arc1:evaluation --out runs/cluster --budget 1h --executor ray --address auto
    """
    from rich.console import Console

    from solver.config import load_settings, parse_duration
    from solver.model.shipped import model_named
    from solver.report.live import observer_for
    from solver.run.pipeline import run as run_pipeline
    from solver.run.types import RunOptions

    overrides = [*(set_ or ()), *([f"seed={seed}"] if seed is not None else ()), *executor_settings(executor, address)]
    options = RunOptions(
        challenges=challenges,
        out=out,
        budget=None if until is not None else parse_duration(budget),
        until=until,
        settings=load_settings(machine, recipe, overrides),
        model=model_named(model),
        adapter=adapter,
        recipe=recipe,
        machine=machine,
        tasks=tasks,
        solutions=solutions,
        scratch=scratch,
        keep_adapters=keep_adapters,
    )
    raise typer.Exit(run_pipeline(options, observer_for(Console())).exit_code)


@app.command()
def score(
    submission: Annotated[Path, typer.Argument(help="The submission.json to read.")],
    solutions: Annotated[
        str, typer.Argument(help="The known answers: a solutions file, or a named set such as arc1:evaluation.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a submission against known answers.

    \b
    per_prediction    test inputs solved by either attempt
    per_task_strict   tasks with every test input solved
    per_task_mean     the share of test inputs solved in each task, averaged over tasks
    pass_at_1         test inputs solved by the first attempt

    \b
    Examples:
      solver score runs/eval/submission.json arc1:evaluation
      solver score submission.json arc-agi_evaluation_solutions.json --json
    """
    from solver.arc.datasets import load_solutions
    from solver.arc.submission import load_submission
    from solver.arc.submission import score as score_attempts

    scores = score_attempts(load_submission(submission), load_solutions(solutions))
    if as_json:
        print_json(scores)
        return
    from rich.console import Console

    from solver.report.tables import scores_table

    Console().print(scores_table(scores))


@app.command()
def select(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of finished runs, of the same tasks or of others, and submissions."),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Write the submission to this file.")],
    rule: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this selection rule.  [default: the rule of the first run]")
    ] = None,
    verifier: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --rule verifier: the verifier that ranks the candidates.")
    ] = None,
) -> None:
    """Choose the two attempts again from the candidates of finished runs, and merge runs and submissions into one.

    The command reads the ledgers of one or more runs. It needs no model, except for the rule verifier (see solver verify grids).
    The candidates of runs of the same task are pooled. A submission counts as two ranked answers beside those of the runs: first
    attempts count twice, ties go to the runs, then to the submission named first. The result answers every task that any has.

    \b
    Examples:
      solver select runs/eval --rule hierarchical_vote --out hierarchical.json
      solver select runs/a runs/b runs/c --out ensemble.json
      solver select runs/first-half runs/second-half theirs/submission.json --out merged.json
    """
    from solver.commands.select import reselect

    typer.echo(reselect(runs, rule, out, verifier))


@app.command()
def check(
    submission: Annotated[Path, typer.Argument(help="The submission.json to read.")],
    challenges: Annotated[str, typer.Argument(help="The tasks that the submission answers: a file, a folder, or a named set.")],
) -> None:
    """Check that a submission is complete and valid.

    The exit code is 0, or 1 if there are defects. Each defect is printed on a line of its own. A task that cannot be read needs
    answers, too.

    \b
    Example:
      solver check submission.json arc-agi_test_challenges.json
    """
    from solver.arc.datasets import load_tasks
    from solver.arc.submission import defects

    tasks = load_tasks(challenges, "fallback")
    for note in (*tasks.notes, *(f"{bad.message}; any two grids count as its answers" for bad in tasks.bad.values())):
        typer.echo(note, err=True)
    found = defects(submission, tasks)
    for defect in found:
        typer.echo(defect)
    if found:
        raise typer.Exit(1)
    typer.echo(f"{submission}: complete and valid")


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show what this machine offers and what a run would use.

    The exit code is 1 if something that every run needs is missing or cannot be used.

    \b
    Examples:
      solver doctor
      solver doctor --json
    """
    from solver.report.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_json())
    else:
        from rich.console import Console

        from solver.report.tables import findings_table

        Console().print(findings_table(diagnosis.findings))
    if not diagnosis.ready:
        raise typer.Exit(1)


@app.command("fit-gains")
def fit_gains(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs whose tasks have known answers.")],
    *,
    out: Annotated[Path, typer.Option(help="Write the gains to this file, in the format of solver/budget/gains.json.")],
    solutions: KnownAnswersOption = None,
) -> None:
    """Estimate from finished runs how steps, views and passes raise the chance of a solution.

    The policy "adaptive" plans with these estimates. The command reads the ledgers of runs whose answers are known. If a run
    cannot be read, the command says so and leaves it out.

    \b
    Example:
      solver fit-gains runs/record runs/eval --out solver/budget/gains.json
    """
    from solver.commands.record import fit_gains as fit_gains_of

    typer.echo(fit_gains_of(runs, solutions, out, lambda line: typer.echo(line, err=True)))


@app.command("fit-ensemble")
def fit_ensemble(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs of the network, of programs, or of both.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Write the ensemble to this file, in the format of solver/arc/ensemble.json.")],
    solutions: KnownAnswersOption = None,
) -> None:
    """Estimate from finished runs how likely answers of programs and of the network are right.

    Where programs give answers, both attempts are chosen by these estimates. The command needs runs over tasks that the model was
    not trained on and whose answers are known. Programs and the network may come from different runs over the same tasks.

    \b
    Example:
      solver fit-ensemble runs/record runs/programs --out solver/arc/ensemble.json
    """
    from solver.commands.fit_ensemble import fit_ensemble as fit_ensemble_of

    typer.echo(fit_ensemble_of(runs, solutions, out, lambda line: typer.echo(line, err=True)))


@app.command()
def rehearse(
    *,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="Use this machine preset.  [default: cpu]")] = None,
    tasks: Annotated[
        int, typer.Option(min=1, help="Number of tasks, taken from the ARC-AGI evaluation sets over all sizes.")
    ] = 240,
    budget: Annotated[str, typer.Option(help="Budget of each run: 5m, 12h.")] = "12h",
    runs: Annotated[int, typer.Option(min=1, help="Number of runs to rehearse.")] = 1000,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Use this budget policy instead of that of the settings.")
    ] = None,
    faults: Annotated[
        str, typer.Option(metavar="MIX", help="Which faults happen: none, usual, harsh, hostile, or all of these in turn.")
    ] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Seed for everything that is drawn at random.")] = 0,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Use this recipe preset.")] = None,
    model: Annotated[str | None, typer.Option(metavar="DIR|NAME", help="Base model whose shape decides what work costs.")] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Use this profile.json instead of the one that comes with the package.")
    ] = None,
    noise_from: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Fit the noise to the run in this folder. May be repeated.")
    ] = None,
    processes: Annotated[int, typer.Option(min=0, help="Number of processes that rehearse. 0: one for each core.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. May be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Rehearse runs on a simulated clock: the real supervisor and policy drive simulated workers that fail.

    The exit code is 1 if a run ended after its budget, or if a submission was not complete and valid.

    \b
    utilisation    share spent on work, of the worker time that loading and faults left; least: the worst run's
    loading        share of all worker time before the workers had started
    lost, down     shares of all worker time: work without a result; workers that hung, were dead or restarted
    at floor       tasks with no more than a quarter of the configured steps

    \b
    Example:
      solver rehearse --machine kaggle-l4x4 --tasks 240 --budget 12h --runs 1000
    """
    from rich.console import Console
    from rich.progress import Progress

    from solver.commands.rehearse import RehearseOptions
    from solver.commands.rehearse import rehearse as run_rehearsals
    from solver.config import load_settings, parse_duration
    from solver.model.shipped import model_named
    from solver.report.rehearsal_table import rehearsal_notes, rehearsal_table

    overrides = [*(set_ or ()), *([f"budget.policy={policy}"] if policy is not None else ())]
    options = RehearseOptions(
        machine=machine,
        settings=load_settings(machine, recipe, overrides),
        tasks=tasks,
        budget=parse_duration(budget),
        runs=runs,
        seed=seed,
        mix=faults,
        model=None if model is None else model_named(model),
        profile=profile,
        ledgers=tuple(noise_from or ()),
        processes=processes,
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("rehearsing", total=runs)
        result = run_rehearsals(options, lambda done: bar.update(shown, completed=done))
    if as_json:
        print_json(result)
    else:
        Console().print(rehearsal_table(result))
        for line in rehearsal_notes(result):
            typer.echo(line)
    if result["deadline_misses"] or result["invalid_submissions"]:
        raise typer.Exit(1)


cli_budget.register(app)
cli_math.register(app)
cli_model.register(app)
cli_pretrain.register(app)
cli_reproduce.register(app)
cli_show.register(app)
cli_verify.register(app)
