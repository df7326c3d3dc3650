"""The verbs of the command line below `solver verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from solver.cli_options import ModelOption, SeedOption, print_progress, seconds_of

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Learned verifiers: train them on samples, and measure them.")


def register(parent: typer.Typer) -> None:
    """Add `verify` to the command line."""
    parent.add_typer(app, name="verify")


@app.command()
def train(
    samples: Annotated[Path, typer.Argument(help="File of labelled samples (.jsonl).")],
    *,
    generator: Annotated[Path, typer.Option(metavar="DIR", help="The model that sampled them.")],
    out: Annotated[Path, typer.Option(help="Write the verifier to this folder.")],
    start: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Start from this model over the same tokens.  [default: the generator]"),
    ] = None,
    language: Annotated[
        Path | None,
        typer.Option(help="File of samples whose right ones the joint loss learns to write.  [default: SAMPLES]"),
    ] = None,
    level: Annotated[
        Literal["token", "solution"], typer.Option(help="Predict after every token of a solution, or after the last one.")
    ] = "token",
    loss: Annotated[Literal["mse", "bce"], typer.Option(help="Squared error, or binary cross-entropy.")] = "mse",
    joint: Annotated[bool, typer.Option(help="Learn to write right solutions at the same time.")] = True,
    balance: Annotated[bool, typer.Option(help="Learn from as many right as wrong samples of every problem.")] = True,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Residual dropout; the paper uses 0.2.")] = 0.0,
    trainer: Annotated[Literal["full", "lora"], typer.Option(help="Train all weights, or a LoRA adapter.")] = "full",
    rank: Annotated[int, typer.Option(min=1, help="Rank of LoRA.")] = 32,
    epochs: Annotated[float, typer.Option(min=0, help="How often each sample is read.")] = 1.0,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Peak learning rate.  [default: by trainer and size]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of an optimizer step.")] = 32,
    budget: Annotated[str | None, typer.Option(help="Stop training after this time: 90s, 5m, 2h.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Train a verifier: a model that predicts after every token whether a solution will end with the right answer.

    \b
    Example:
      solver verify train samples.jsonl --generator model --out verifier --dropout 0.2
    """
    from solver.commands.verify import train as train_verifier
    from solver.verify.training import VerifierOptions

    options = VerifierOptions(loss, level, joint, dropout, trainer, epochs, lr, batch, rank, seed, balance)
    typer.echo(train_verifier(samples, generator, out, options, start, language, seconds_of(budget), print_progress))


@app.command()
def score(
    samples: Annotated[Path, typer.Argument(help="File of samples of problems that the verifier was not trained on (.jsonl).")],
    *,
    verifier: Annotated[Path, typer.Option(metavar="DIR", help="The verifier.")],
    out: Annotated[Path, typer.Option(help="Write values.jsonl, results.json, curves and solutions.html to this folder.")],
    start: Annotated[Path | None, typer.Option(metavar="DIR", help="The model that a LoRA verifier was made from.")] = None,
    pool: Annotated[
        str, typer.Option(help="Score of a solution from the values of its tokens: last, mean, min, product.")
    ] = "last",
    budget: Annotated[str | None, typer.Option(help="Stop scoring after this time: 90s, 5m, 2h.")] = None,
) -> None:
    """Score samples with a verifier, and compare it with majority vote and log-probability.

    \b
    Example:
      solver verify score test.jsonl --verifier verifier --out scores
    """
    from solver.commands.verify import score as score_samples

    for line in score_samples(samples, verifier, out, start, pool, seconds_of(budget), print_progress).lines:
        typer.echo(line)


@app.command()
def grids(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs by one base model.")],
    *,
    solutions: Annotated[Path, typer.Option(help="Known answers. Tasks that the file does not have are left out.")],
    out: Annotated[Path, typer.Option(help="Write the samples to this file.")],
    model: ModelOption = "embedded-base",
    views: Annotated[int, typer.Option(min=1, max=8, help="Dihedral views under which every candidate is written.")] = 8,
) -> None:
    """Write the candidate grids of runs as labelled samples, to train a verifier on.

    \b
    Example:
      solver verify grids runs/training --solutions solutions.json --out grids.jsonl
      solver verify train grids.jsonl --generator solver/model/embedded/base --out verifier
      solver select runs/eval --rule verifier --verifier verifier --out submission.json
    """
    from solver.commands.verify_grids import make_samples
    from solver.model.shipped import model_named

    typer.echo(make_samples(runs, solutions, model_named(model), out, views))


@app.command()
def rules(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs by one base model.")],
    *,
    solutions: Annotated[Path, typer.Option(help="Known answers. Tasks that the file does not have are left out.")],
    verifier: Annotated[Path, typer.Option(metavar="DIR", help="The verifier.")],
    views: Annotated[int, typer.Option(min=1, max=8, help="Dihedral views under which every candidate is judged.")] = 8,
) -> None:
    """Compare the selection rule verifier with the other rules on runs whose answers are known.

    \b
    Example:
      solver verify rules runs/held-out --solutions solutions.json --verifier verifier
    """
    from solver.commands.verify_grids import compare_rules

    for line in compare_rules(runs, solutions, verifier, views, print_progress):
        typer.echo(line)
