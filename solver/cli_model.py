"""The verbs of the command line that make base models ready, and data to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from solver.cli_options import print_progress


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
        Literal["rearc", "lm", "math"],
        typer.Argument(
            help="rearc: pairs of grids by the generators of RE-ARC, from the package reasoning-gym. lm: pairs of grids by "
            "generators that a language model writes. math: word problems with calculator annotations."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(help="Write the corpus to this file: .json for rearc and lm, .jsonl for math, or with .xz.")
    ],
    *,
    pairs: Annotated[
        int | None, typer.Option(min=2, help="rearc, lm: pairs of a family.  [default: 400 for rearc, 40 for lm]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="lm: the model that writes: a folder of a causal model in Hugging Face format."),
    ] = None,
    completions: Annotated[int, typer.Option(min=1, help="lm: how many generators it writes, in fours.")] = 200,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="WAY,...",
            help="lm: how it is asked, in turn. code: examples are code alone. joint: a description, then code, in one "
            "completion. two-stage: a description, then code for it in a completion of its own.",
        ),
    ] = "code,joint,two-stage",
    shots: Annotated[int, typer.Option(min=1, help="lm: examples in a prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01, help="lm: temperature of completions.")] = 0.8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="lm: tokens of a completion at most.")] = 768,
    engine: Annotated[Literal["auto", "hf", "vllm"], typer.Option(help="lm: what draws completions.")] = "auto",
    device: Annotated[str, typer.Option(help="lm: compute on this device: auto, cpu or cuda.")] = "auto",
    sandbox: Annotated[
        Literal["full", "no-namespaces"],
        typer.Option(
            help="lm: what holds the code that the model wrote. no-namespaces is weaker, for containers that allow no new "
            "namespaces; docs/pretraining.md says what each layer stops."
        ),
    ] = "full",
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
    processes: Annotated[
        int, typer.Option(min=0, help="rearc, lm: number of processes that make pairs. 0: one for each core.")
    ] = 0,
) -> None:
    """Make a corpus: pairs of grids for `solver pretrain`, or word problems for `solver math`.

    \b
    rearc  fresh pairs of the ARC-AGI-1 training tasks
    lm     a language model is shown generators and writes others. Their code
           runs in a sandbox, on Linux alone. What is deterministic, varied,
           in bounds, new and no evaluation task is kept. The same command goes
           on where it stopped. Trainings leave this corpus out unless
           --mixture names it: Akyurek et al. 2024 (arXiv 2411.07279) found
           that 6,426 such generators made their results 5 % worse.
    math   word problems

    \b
    Examples:
      pip install --no-deps reasoning-gym==0.1.25
      solver make-corpus rearc corpora/rearc.json.xz --pairs 400
      solver pretrain --corpus corpora --minutes 60 --out runs/pretrain
      solver make-corpus lm corpora/lm.json.xz --model Qwen3-4B --completions 2000
      solver pretrain --corpus corpora --mixture lm=0.1 --minutes 60 --out runs/with-lm
      solver make-corpus math train.jsonl --problems 1000
      solver make-corpus math test.jsonl --problems 500 --seed 1 --without train.jsonl
      solver make-corpus math symbolic.jsonl --kinds gsm_symbolic,leg_counting --problems 5000
    """
    if source == "math":
        from solver.commands.math import make_corpus as make_math_corpus

        count = make_math_corpus(out, problems, kinds, people, without or (), seed)
        typer.echo(f"{out}: {count:,} problems")
        return
    if source == "lm":
        from solver.commands.lm_corpus import make_corpus as make_lm_corpus

        line = make_lm_corpus(
            out,
            model=model,
            completions=completions,
            pairs=pairs or 40,
            prompts=prompts,
            shots=shots,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            engine=engine,
            device=device,
            sandbox=sandbox,
            seed=seed,
            processes=processes,
            report=print_progress,
        )
        typer.echo(line)
        return
    from solver.pretrain.rearc import make_rearc

    made = make_rearc(out, pairs or 400, seed, processes, print_progress)
    typer.echo(f"{out}: {made:,} pairs")
