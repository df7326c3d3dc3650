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

from solver import cli_budget
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
            help="A challenges file, a task file, a folder of task files, or a named set (arc1:training, arc1:evaluation, "
            "arc2:training, arc2:evaluation). Without it: a fixed sample of ARC-AGI-1 evaluation tasks."
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
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs of the same tasks.")],
    *,
    out: Annotated[Path, typer.Option(help="The submission to write.")],
    rule: Annotated[str | None, typer.Option(metavar="NAME", help="Selection rule; without it the one of the first run.")] = None,
) -> None:
    """Choose the two attempts anew from finished runs.

    Reads the ledgers of one or several runs of the same tasks; needs no model.

    \b
    Examples:
      solver select runs/eval --rule hierarchical_vote --out hierarchical.json
      solver select runs/a runs/b runs/c --out ensemble.json
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

    found = defects(submission, load_tasks(challenges))
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


@app.command()
def pretrain(
    *,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints (OUT/latest is the newest) and metrics.jsonl.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train; 0 only writes what --resume holds.")],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder of corpora beside the ARC-AGI training sets and procedural tasks: {family: [pairs]}, {id: task}, or "
            "folders of task files."
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
    from solver.pretrain.command import PretrainOptions
    from solver.pretrain.command import pretrain as run_pretrain
    from solver.pretrain.loop import LoopSettings
    from solver.pretrain.sampler import SamplerSettings, parse_sides

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
    )
    run_pretrain(options, lambda line: typer.echo(line, err=True))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Checkpoint or model folder.")],
    corpus: Annotated[Path | None, typer.Option(help="Folder of corpora, as for `solver pretrain`.")] = None,
    cache: Annotated[Path, typer.Option(help="Keeps the packed corpora; the OUT of `solver pretrain`.")] = Path("runs/pretrain"),
    queries: Annotated[int, typer.Option(min=1, help="About how many; every held-out family is asked as often.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of pairs and views.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Ask a base model about families that were held out of its training, without any fitting.

    \b
    exact    answers that greedy decoding gets right to the last cell, with a 95 % interval
    nats     loss per token of the answers

    \b
    Example:
      solver evaluate runs/pretrain/latest --corpus corpora --cache runs/pretrain
    """
    from solver.pretrain.evaluate import Tally
    from solver.pretrain.evaluate import evaluate as run_evaluate

    tallies = run_evaluate(model, corpus, cache, queries, seed, lambda line: typer.echo(line, err=True))
    if as_json:
        _print_json({name: asdict(tally) for name, tally in sorted(tallies.items())})
        return
    from rich.console import Console

    from solver.report.tables import evaluation_table

    Console().print(evaluation_table(tallies, sum(tallies.values(), Tally())))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


cli_budget.register(app)
