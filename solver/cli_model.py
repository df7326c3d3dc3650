"""The verb of the command line that makes base models ready."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(convert)


def convert(
    source: Annotated[Path, typer.Argument(help="A GGUF file, or a folder in Hugging Face format with safetensors.")],
    *,
    out: Annotated[Path, typer.Option(help="The folder to write, for --model; it must not be there yet.")],
    vocabulary: Annotated[
        Literal["full", "grid"], typer.Option(help="grid keeps the tokens that grids are written with, and no others.")
    ] = "full",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the weights written; auto: as they are stored, float32 for a GGUF file."),
    ] = "auto",
) -> None:
    """Make a base model ready for --model: safetensors, and if wanted only the tokens that grids use.

    \b
    Examples:
      solver convert SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2 --vocabulary grid
      solver convert Qwen3-4B --out qwen3-4b-grid --vocabulary grid
      solver run arc1:evaluation --model smollm2 --out out --budget 1h
    """
    from solver.model.convert import convert as convert_model

    done = convert_model(source, out, vocabulary, dtype, lambda line: typer.echo(line, err=True))
    typer.echo(f"{done.folder}: {done.weights:,} weights, {done.tokens:,} of {done.tokens_before:,} tokens")
