"""The command line: one command per verb. Each one parses its arguments, calls the room that does the work, and prints.

Rooms are imported inside the commands: `solver --help` answers at once, and only the commands that need torch load it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from solver import cli_budget, cli_model, cli_show
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
            help="A challenges file, a task file, rows of tasks (.jsonl), a folder with any of these below it, or a named set "
            "(arc1:training, arc1:evaluation, arc2:training, arc2:evaluation). Without it: a fixed sample of ARC-AGI-1 "
            "evaluation tasks."
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for submission.json, run.db, summary.json and log.txt.")],
    budget: Annotated[str, typer.Option(help="Wall clock from process start to exit: 90s, 5m, 11h30m.")] = "5m",
    until: Annotated[
        float | None, typer.Option(metavar="EPOCH", help="Exit by this time, in seconds since 1970, instead of --budget.")
    ] = None,
    solutions: Annotated[Path | None, typer.Option(help="Known answers, for scores only: the solver never sees them.")] = None,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="Machine preset, for example cpu or kaggle-l4x4.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Recipe preset, for example default or mit.")] = None,
    model: Annotated[Path | None, typer.Option(help="Base model folder; without it the embedded model.")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="N|ID,ID", help="The first N tasks, or the ones named.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of views and samples.")] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Where the run makes its folder for adapters; without it among temporary files.")
    ] = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Leave the adapters in the run's folder below --scratch.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
    ] = None,
) -> None:
    """Solve tasks and write a submission, in time.

    Adapts the base model to each task, samples answers under many views, and picks two for each test input.

    The submission is complete and valid from the first second. The same command with the same --out resumes.

    \b
    Examples:
      solver run --out runs/sample --budget 5m
      solver run arc1:evaluation --out runs/eval --budget 1h --tasks 40
      solver run arc-agi_test_challenges.json --out out --budget 11h30m --machine kaggle-l4x4
      solver run task.json --out runs/one --budget 90s --set train.rank=32 --set infer.mode=search
    """
    from rich.console import Console

    from solver.config import load_settings, parse_duration
    from solver.report.live import observer_for
    from solver.run.pipeline import RunOptions
    from solver.run.pipeline import run as run_pipeline

    overrides = [*(set_ or ()), *([f"seed={seed}"] if seed is not None else ())]
    options = RunOptions(
        challenges=challenges,
        out=out,
        budget=None if until is not None else parse_duration(budget),
        until=until,
        settings=load_settings(machine, recipe, overrides),
        model=model,
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
    submission: Annotated[Path, typer.Argument(help="A submission.json.")],
    solutions: Annotated[str, typer.Argument(help="A solutions file, or a named set such as arc1:evaluation.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a submission against known answers.

    \b
    per_prediction    test inputs solved by either attempt
    per_task_strict   tasks with every test input solved
    per_task_mean     mean over tasks of the solved share of their test inputs
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
        _print_json(scores)
        return
    from rich.console import Console

    from solver.report.tables import scores_table

    Console().print(scores_table(scores))


@app.command()
def select(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, of the same tasks or of others, and submissions of anybody's."),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The submission to write.")],
    rule: Annotated[str | None, typer.Option(metavar="NAME", help="Selection rule; without it the one of the first run.")] = None,
) -> None:
    """Choose the two attempts anew from finished runs, and merge runs and submissions into one.

    Reads the ledgers of one or several runs; needs no model. The candidates of runs of the same task are pooled. A submission
    counts as two ranked answers beside those of the runs: first attempts count twice, ties go to the runs, then to the
    submission named first. The result answers every task that any of them has.

    \b
    Examples:
      solver select runs/eval --rule hierarchical_vote --out hierarchical.json
      solver select runs/a runs/b runs/c --out ensemble.json
      solver select runs/first-half runs/second-half theirs/submission.json --out merged.json
    """
    from solver.run.reselect import reselect

    typer.echo(reselect(runs, rule, out))


@app.command()
def check(
    submission: Annotated[Path, typer.Argument(help="A submission.json.")],
    challenges: Annotated[str, typer.Argument(help="The tasks it answers: a file, a folder, or a named set.")],
) -> None:
    """Check that a submission is complete and valid.

    Exit code 0, or 1 with every defect on a line of its own.

    \b
    Example:
      solver check submission.json arc-agi_test_challenges.json
    """
    from solver.arc.datasets import load_tasks
    from solver.arc.submission import defects

    tasks = load_tasks(challenges)
    for note in tasks.notes:
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

    Exit code 1 if something that every run needs is missing or refused.

    \b
    Examples:
      solver doctor
      solver doctor --json
    """
    from solver.report.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        _print_json(diagnosis.to_json())
    else:
        from rich.console import Console

        from solver.report.tables import findings_table

        Console().print(findings_table(diagnosis.findings))
    if not diagnosis.ready:
        raise typer.Exit(1)


@app.command("fit-gains")
def fit_gains(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs of tasks with known answers.")],
    *,
    out: Annotated[Path, typer.Option(help="The file to write, for solver/budget/gains.json.")],
    solutions: Annotated[
        str | None,
        typer.Option(help="Known answers, or a named set; without it those the runs were started with, or of their task set."),
    ] = None,
) -> None:
    """Fit what more steps, views and passes are worth, for the policy adaptive.

    Reads the ledgers of runs whose answers are known. A run that cannot be read is named and left out.

    \b
    Example:
      solver fit-gains runs/record runs/eval --out solver/budget/gains.json
    """
    from solver.run.record import fit_gains as fit_gains_of

    typer.echo(fit_gains_of(runs, solutions, out, lambda line: typer.echo(line, err=True)))


@app.command()
def pretrain(
    *,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints (OUT/latest is the newest) and metrics.jsonl.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train; 0 only writes what --resume holds.")],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder of corpora beside the ARC-AGI training sets and procedural tasks: {family: [pairs]}, {id: task}, rows "
            "(.jsonl), folders of task files; or one file."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Size of a new model: tiny, small or base; without it small.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint or base model folder to go on from.")] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="HF_MODEL", help="Fine-tune this Llama or Qwen folder instead of a grid model.")
    ] = None,
    lora: Annotated[bool, typer.Option("--lora", help="With --init: LoRA, merged into OUT/model at the end.")] = False,
    rank: Annotated[int, typer.Option(min=1, help="Rank of --lora.")] = 128,
    transforms: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE,...",
            help="What the view of a sequence changes: both, input or output; of several one is drawn for each sequence. "
            "Without it both, and in one sequence of ten the outputs are turned once more.",
        ),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE=SHARE,...",
            help="Shares of the sequences by source: a corpus, arc1, arc2, procedural. Those left out stay as usual.",
        ),
    ] = None,
    cooldown: Annotated[float, typer.Option(min=0, max=1, help="Share of the minutes over which the rate falls to zero.")] = 0.4,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; without it 3e-3, with --init 2e-5, with --lora 1e-4.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=64, help="Length of the longest training sequence.")] = 1024,
    batch_tokens: Annotated[int, typer.Option(min=64, help="Padded tokens of a batch; more keep a GPU busy.")] = 4096,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make batches ahead of a GPU.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Make or continue a base model, or fine-tune another one on the same data.

    Evaluation tasks of ARC-AGI-1 and -2 never enter the data: they are barred by id and by content. One family in twenty
    is held out. SIGTERM saves and ends; the same command with --resume OUT/latest goes on.

    \b
    Examples:
      solver pretrain --corpus corpora --minutes 60 --out runs/pretrain
      solver pretrain --corpus corpora --minutes 30 --out runs/pretrain --resume runs/pretrain/latest
      solver pretrain --corpus corpora --minutes 60 --out runs/llama --init llama --lora --transforms both,input,output
    """
    from solver.pretrain.command import MIXTURE, PretrainOptions
    from solver.pretrain.command import pretrain as run_pretrain
    from solver.pretrain.loop import LoopSettings
    from solver.pretrain.sampler import SamplerSettings, parse_mixture, parse_sides

    chosen: dict[str, Any] = {} if transforms is None else {"sides": parse_sides(transforms), "output_transform": 0.0}
    options = PretrainOptions(
        out=out,
        corpus=corpus,
        loop=LoopSettings(minutes=minutes, cooldown=cooldown, lr=lr, workers=workers),
        preset=preset,
        resume=resume,
        init=init,
        lora_rank=rank if lora else None,
        seed=seed,
        device=device,
        sampler=SamplerSettings(max_tokens=max_tokens, batch_tokens=max(batch_tokens, max_tokens), **chosen),
        mixture=MIXTURE if mixture is None else parse_mixture(mixture, MIXTURE),
    )
    run_pretrain(options, lambda line: typer.echo(line, err=True))


@app.command()
def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help='Checkpoints or model folders; "embedded" is the one that ships.')
    ],
    corpus: Annotated[Path | None, typer.Option(help="Folder of corpora, as for `solver pretrain`.")] = None,
    cache: Annotated[Path, typer.Option(help="Keeps the packed corpora; the OUT of `solver pretrain`.")] = Path("runs/pretrain"),
    queries: Annotated[int, typer.Option(min=1, help="About how many; every held-out family is asked as often.")] = 1000,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="TASKS", help="Run on these tasks instead, for example arc1:evaluation; may be repeated."),
    ] = None,
    budgets: Annotated[str, typer.Option(help="With --on: budgets of runs; 0 is one pass without test-time training.")] = "0,5m",
    tasks: Annotated[
        int | None, typer.Option(min=1, help="With --on: only so many, those with the smallest sha256 of their id.")
    ] = None,
    shortest: Annotated[int | None, typer.Option(min=1, help="With --on: among the so many shortest.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Seed of pairs, views and runs; with --on it may be repeated.")
    ] = None,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="With --on: machine preset.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="With --on: recipe preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="With --on: change one setting; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of tables that rows are added to, and of runs; what is there is not measured again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure base models: on families held out of training, or on tasks by whole runs.

    Without --on: greedy answers to queries of held-out families, no fitting; shares with 95 % intervals.
    With --on: pass@1 and pass@2 of `solver run` at every budget, with and without test-time training.

    \b
    OUT/held_out.md, .png   exact answers over the tokens a checkpoint was trained on
    OUT/tasks.md            scores of runs; the same command goes on where it was stopped

    \b
    Examples:
      solver evaluate runs/pretrain/latest --corpus corpora --out runs/scores
      solver evaluate embedded --on arc1:evaluation --budgets 0,10m,1h --shortest 60 --out runs/scores
    """
    from rich.console import Console

    from solver.report.live import observer_for
    from solver.report.scores import held_out_table, task_table
    from solver.run.evaluation import TaskChoice, TaskEvaluation, evaluate_held_out, evaluate_tasks

    def report(line: str) -> None:
        typer.echo(line, err=True)

    seeds = tuple(seed or (0,))
    folders = [None if model == "embedded" else Path(model) for model in models]
    if on:
        if out is None:
            raise InputError("--on needs a folder for the runs: --out DIR")
        choices = tuple(TaskChoice(source, tasks, shortest) for source in on)
        plan = TaskEvaluation(choices, tuple(budgets.split(",")), seeds, machine, recipe, tuple(set_ or ()))
        rows = evaluate_tasks(folders, plan, out, lambda: observer_for(Console(stderr=True)), report)
        _print_json([asdict(row) for row in rows]) if as_json else typer.echo(task_table(rows), nl=False)
        return
    found = evaluate_held_out(folders, corpus, cache, queries, seeds[0], out, report)
    if as_json:
        _print_json([asdict(row) for row in found])
        return
    from solver.report.tables import evaluation_table

    for row in found:
        typer.echo(f"{row.model} {row.identity}")
        Console().print(evaluation_table(row))
    typer.echo(held_out_table(found), nl=False)


@app.command()
def rehearse(
    *,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="Machine preset; without it cpu.")] = None,
    tasks: Annotated[int, typer.Option(min=1, help="How many, of the ARC-AGI evaluation sets, spread over all sizes.")] = 240,
    budget: Annotated[str, typer.Option(help="Wall clock of a run: 5m, 12h.")] = "12h",
    runs: Annotated[int, typer.Option(min=1, help="How many runs to rehearse.")] = 1000,
    policy: Annotated[str | None, typer.Option(metavar="NAME", help="Budget policy instead of that of the settings.")] = None,
    faults: Annotated[str, typer.Option(metavar="MIX", help="none, usual, harsh, hostile, or all of them in turn.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Recipe preset.")] = None,
    model: Annotated[Path | None, typer.Option(help="Base model folder whose shape decides what work costs.")] = None,
    profile: Annotated[Path | None, typer.Option(help="A profile.json instead of the one that comes with the package.")] = None,
    noise_from: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Folder of a run to fit the noise on; may be repeated.")
    ] = None,
    processes: Annotated[int, typer.Option(min=0, help="Processes to rehearse in; 0: one for each core.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Rehearse runs on a simulated clock: the real supervisor and policy over simulated workers that fail.

    Exit code 1 if a run ended after its budget or a submission was not complete and valid.

    \b
    utilisation    share spent on work, of the worker time that loading and faults left; least: of the worst run
    loading        share of all worker time before workers have started
    lost, down     shares of all worker time: work that brought nothing; workers hung, dead or starting again
    at floor       tasks with no more than a quarter of the steps of the settings

    \b
    Example:
      solver rehearse --machine kaggle-l4x4 --tasks 240 --budget 12h --runs 1000
    """
    from rich.console import Console
    from rich.progress import Progress

    from solver.config import load_settings, parse_duration
    from solver.report.rehearsal_table import rehearsal_notes, rehearsal_table
    from solver.run.rehearse import RehearseOptions
    from solver.run.rehearse import rehearse as run_rehearsals

    overrides = [*(set_ or ()), *([f"budget.policy={policy}"] if policy is not None else ())]
    options = RehearseOptions(
        machine=machine,
        settings=load_settings(machine, recipe, overrides),
        tasks=tasks,
        budget=parse_duration(budget),
        runs=runs,
        seed=seed,
        mix=faults,
        model=model,
        profile=profile,
        ledgers=tuple(noise_from or ()),
        processes=processes,
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("rehearsing", total=runs)
        result = run_rehearsals(options, lambda done: bar.update(shown, completed=done))
    if as_json:
        _print_json(result)
    else:
        Console().print(rehearsal_table(result))
        for line in rehearsal_notes(result):
            typer.echo(line)
    if result["deadline_misses"] or result["invalid_submissions"]:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


cli_budget.register(app)
cli_model.register(app)
cli_show.register(app)
