"""The verbs of the command line that make base models ready, and data to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(convert)
    app.command("make-corpus")(make_corpus)


def convert(
    source: Annotated[Path, typer.Argument(help="The model: a GGUF file, or a folder in Hugging Face format with safetensors.")],
    *,
    out: Annotated[Path, typer.Option(help="Write the model to this folder, for --model. The folder must not exist yet.")],
    vocabulary: Annotated[
        Literal["full", "grid"],
        typer.Option(help="full keeps all tokens. grid keeps only the tokens that grids are written with."),
    ] = "full",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Type of the weights that are written. auto: as stored, or float32 for a GGUF file."),
    ] = "auto",
) -> None:
    """Convert a base model to a folder for --model, with all tokens or only those that grids use.

    \b
    Examples:
      solver convert SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2 --vocabulary grid
      solver convert Qwen3-4B --out qwen3-4b-grid --vocabulary grid
      solver run arc1:evaluation --model smollm2 --out out --budget 1h
    """
    from solver.model.convert import convert as convert_model

    done = convert_model(source, out, vocabulary, dtype, lambda line: typer.echo(line, err=True))
    typer.echo(f"{done.folder}: {done.weights:,} weights, {done.tokens:,} of {done.tokens_before:,} tokens")


def make_corpus(
    source: Annotated[
        Literal["rearc"],
        typer.Argument(help="Where the pairs come from. rearc: the generators of RE-ARC, from the package reasoning-gym."),
    ],
    out: Annotated[Path, typer.Argument(help="Write the corpus to this file, .json or .json.xz.")],
    *,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of each of the 400 families.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed for the pairs.")] = 0,
    processes: Annotated[int, typer.Option(min=0, help="Number of processes that make pairs. 0: one for each core.")] = 0,
) -> None:
    """Make a corpus for `solver pretrain`: fresh pairs of the ARC-AGI-1 training tasks.

    \b
    Examples:
      pip install --no-deps reasoning-gym==0.1.25
      solver make-corpus rearc corpora/rearc.json.xz --pairs 400
      solver pretrain --corpus corpora --minutes 60 --out runs/pretrain
    """
    from solver.pretrain.rearc import make_rearc

    del source  # the only one so far
    made = make_rearc(out, pairs, seed, processes, lambda line: typer.echo(line, err=True))
    typer.echo(f"{out}: {made:,} pairs")
