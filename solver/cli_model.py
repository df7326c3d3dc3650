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
        Literal["rearc", "math"],
        typer.Argument(
            help="rearc: pairs of grids by the generators of RE-ARC, from the package reasoning-gym. math: word problems with "
            "calculator annotations."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Write the corpus to this file: .json for rearc, .jsonl for math, or with .xz.")],
    *,
    pairs: Annotated[int, typer.Option(min=2, help="rearc: pairs of each of the 400 families.")] = 400,
    problems: Annotated[int, typer.Option(min=1, help="math: number of problems.")] = 1000,
    kinds: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help="math: kinds of problems. words are made here; gsm_symbolic, chain_sum and leg_counting need the package "
            "reasoning-gym.",
        ),
    ] = "words",
    people: Annotated[str, typer.Option(metavar="MIN-MAX", help="math, words: people in a problem; more are harder.")] = "2-5",
    without: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="math: leave out the problems of this file. May be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed for everything that is drawn at random.")] = 0,
    processes: Annotated[int, typer.Option(min=0, help="rearc: number of processes that make pairs. 0: one for each core.")] = 0,
) -> None:
    """Make a corpus: fresh pairs of the ARC-AGI-1 training tasks for `solver pretrain`, or word problems for `solver math`.

    \b
    Examples:
      pip install --no-deps reasoning-gym==0.1.25
      solver make-corpus rearc corpora/rearc.json.xz --pairs 400
      solver pretrain --corpus corpora --minutes 60 --out runs/pretrain
      solver make-corpus math train.jsonl --problems 1000
      solver make-corpus math test.jsonl --problems 500 --seed 1 --without train.jsonl
      solver make-corpus math symbolic.jsonl --kinds gsm_symbolic,leg_counting --problems 5000
    """
    if source == "math":
        from solver.commands.math import make_corpus as make_math_corpus

        count = make_math_corpus(out, problems, kinds, people, without or (), seed)
        typer.echo(f"{out}: {count:,} problems")
        return
    from solver.pretrain.rearc import make_rearc

    made = make_rearc(out, pairs, seed, processes, lambda line: typer.echo(line, err=True))
    typer.echo(f"{out}: {made:,} pairs")
