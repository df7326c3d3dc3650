"""The verbs of the command line that train base models and measure them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from solver.cli_options import AddressOption, ExecutorOption, executor_settings, print_json
from solver.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(pretrain)
    app.command()(evaluate)


def pretrain(
    *,
    out: Annotated[Path, typer.Option(help="Write checkpoints (OUT/latest is the newest) and metrics.jsonl to this folder.")],
    minutes: Annotated[
        float, typer.Option(min=0, help="Train for this many minutes. 0 only writes the model of --resume as a checkpoint.")
    ],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder of corpora to train on, beside the ARC-AGI training sets and procedural tasks: files {family: [pairs]} "
            "or {id: task}, rows (.jsonl), folders of task files; or one file."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Size of a new model: tiny, small or base.  [default: small]")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue from this checkpoint or base model folder.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="HF_MODEL", help="Fine-tune the Llama or Qwen model in this folder instead of a grid model."),
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="With --init: train LoRA weights, and merge them into OUT/model at the end.")
    ] = False,
    rank: Annotated[int, typer.Option(min=1, help="With --lora: the rank.")] = 128,
    transforms: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE,...",
            help="Which side of its pairs the view of a sequence changes: both, input or output. If several are given, one "
            "is drawn for each sequence.  [default: both, and in one sequence of ten the outputs get a further transform]",
        ),
    ] = None,
    mixture: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE=SHARE,...",
            help="Shares of the sequences by source. A source is a corpus, arc1, arc2 or procedural. Sources that are not named "
            "keep their usual share, which is 0 for generators that a language model wrote.",
        ),
    ] = None,
    cooldown: Annotated[
        float, typer.Option(min=0, max=1, help="The learning rate falls to zero over this last share of the minutes.")
    ] = 0.4,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.  [default: 3e-3; with --init 2e-5; with --lora 1e-4]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=64, help="Length of the longest training sequence, in tokens.")] = 1024,
    batch_tokens: Annotated[
        int, typer.Option(min=64, help="Tokens in a batch, padding included. Large batches keep a GPU busy.")
    ] = 4096,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches while a GPU trains.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed for weights and data.")] = 0,
    device: Annotated[str, typer.Option(help="Train on this device: cpu or cuda.")] = "cpu",
) -> None:
    """Train a new base model, continue one, or fine-tune another model on the same data.

    Evaluation tasks of ARC-AGI-1 and -2 never enter the data: they are excluded by id and by content. One family in twenty is
    held out. SIGTERM saves a checkpoint and ends the command. To go on, add --resume OUT/latest.

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


def evaluate(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Checkpoints, model folders, embedded-base or embedded-mid.")
    ],
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of corpora, as for `solver pretrain`. Their held-out families are asked.")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Keep the packed corpora here. The OUT of `solver pretrain` saves packing them again.")
    ] = Path("runs/pretrain"),
    queries: Annotated[
        int, typer.Option(min=1, help="About this many queries. Every held-out family gets the same number.")
    ] = 1000,
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASKS", help="Make whole runs on these tasks instead, for example arc1:evaluation. May be repeated."
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="With --on: budgets of the runs. 0 is one pass without test-time training.")
    ] = "0,5m",
    tasks: Annotated[
        int | None, typer.Option(min=1, help="With --on: take this many tasks, those with the smallest sha256 of their id.")
    ] = None,
    shortest: Annotated[int | None, typer.Option(min=1, help="With --on: take tasks among this many shortest ones.")] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="Seed for pairs, views and runs. With --on it may be repeated.")
    ] = None,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="With --on: use this machine preset.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="With --on: use this recipe preset.")] = None,
    executor: ExecutorOption = None,
    address: AddressOption = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="With --on: change one setting. May be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Keep runs and tables in this folder. Rows are added to the tables; what is there is not measured again."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure base models on families held out of training, or with whole runs on tasks.

    \b
    Without --on: greedy answers to queries of held-out families, without fitting.
    With --on: pass@1 and pass@2 of `solver run` at every budget.
    The network is measured alone, unless `--set programs.enabled=true` adds program search.
    All shares have 95 % intervals.

    \b
    OUT/held_out.md, .png   exact answers against the tokens a checkpoint was trained on
    OUT/tasks.md            scores of runs; the same command continues where it was stopped

    \b
    Examples:
      solver evaluate runs/pretrain/latest --corpus corpora --out runs/scores
      solver evaluate embedded --on arc1:evaluation --budgets 0,10m,1h --shortest 60 --out runs/scores
    """
    from rich.console import Console

    from solver.commands.evaluate import TaskChoice, TaskEvaluation, evaluate_held_out, evaluate_tasks
    from solver.model.shipped import model_named
    from solver.report.live import observer_for
    from solver.report.scores import held_out_table, task_table

    def report(line: str) -> None:
        typer.echo(line, err=True)

    seeds = tuple(seed or (0,))
    folders = [model_named(model) for model in models]
    if on:
        if out is None:
            raise InputError("--on needs a folder for the runs: add --out DIR")
        choices = tuple(TaskChoice(source, tasks, shortest) for source in on)
        where = tuple(executor_settings(executor, address))
        plan = TaskEvaluation(choices, tuple(budgets.split(",")), seeds, machine, recipe, tuple(set_ or ()), where)
        rows = evaluate_tasks(folders, plan, out, lambda: observer_for(Console(stderr=True)), report)
        print_json([asdict(row) for row in rows]) if as_json else typer.echo(task_table(rows), nl=False)
        return
    found = evaluate_held_out(folders, corpus, cache, queries, seeds[0], out, report)
    if as_json:
        print_json([asdict(row) for row in found])
        return
    from solver.report.tables import evaluation_table

    for row in found:
        typer.echo(f"{row.model} {row.identity}")
        Console().print(evaluation_table(row))
    typer.echo(held_out_table(found), nl=False)
