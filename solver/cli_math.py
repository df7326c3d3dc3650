"""The verbs of the command line below `solver math`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from solver.cli_options import SeedOption, print_json, print_progress, seconds_of

ProblemsOption = Annotated[Path, typer.Option(help="Problems in GSM8K's format: JSON Lines of question and answer, also .xz.")]
TemperatureOption = Annotated[float, typer.Option(min=0.01, help="Temperature of samples.")]
MaxNewTokensOption = Annotated[int, typer.Option(min=1, help="Tokens of a solution at most.")]
FirstOption = Annotated[int | None, typer.Option(min=1, help="Take the first N problems of --problems.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]
EngineOption = Annotated[Literal["auto", "hf", "vllm"], typer.Option(help="What draws solutions.")]
DeviceOption = Annotated[str, typer.Option(help="Compute on this device: auto, cpu or cuda.")]
TimeOption = Annotated[str | None, typer.Option(metavar="DURATION", help="Stop after this time, for example 90s or 2h.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    math = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Solve word problems: a generator that uses a calculator, samples of it, and verifiers of samples.",
    )
    math.command("pretrain")(pretrain)
    math.command("finetune")(finetune)
    math.command("sample")(sample)
    math.command("solve")(solve)
    math.command("demo")(demo)
    app.add_typer(math, name="math")


def pretrain(
    *,
    out: Annotated[Path, typer.Option(help="Write the model to OUT/model.")],
    minutes: Annotated[float, typer.Option(min=0, help="Train for this many minutes.")] = 3.0,
    people: Annotated[str, typer.Option(metavar="MIN-MAX", help="People in a problem: more are more difficult.")] = "2-5",
    shuffled: Annotated[float, typer.Option(min=0, max=1, help="Share of problems whose sentences are out of order.")] = 0.5,
    unneeded: Annotated[float, typer.Option(min=0, max=1, help="Share of problems with a person that is not needed.")] = 0.3,
    hidden: Annotated[int, typer.Option(min=16, help="Hidden size.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Heads of attention.")] = 4,
    seed: SeedOption = 0,
) -> None:
    """Make a small base model from nothing: a tokenizer, and a model that has read generated word problems.

    \b
    Example:
      solver math pretrain --out runs/base --minutes 3
    """
    from solver.commands import math
    from solver.math.base_model import BaseOptions, BaseShape

    options = BaseOptions(
        minutes=minutes,
        shape=BaseShape(hidden, layers, heads),
        difficulty=math.difficulty(people, shuffled, unneeded),
        seed=seed,
    )
    typer.echo(math.pretrain(out, options, print_progress))


def finetune(
    model: Annotated[Path, typer.Argument(help="The model to train: a folder in Hugging Face format.")],
    *,
    problems: ProblemsOption,
    test: Annotated[Path, typer.Option(help="Problems to measure on, in the same format.")],
    out: Annotated[Path, typer.Option(help="Write the generator to OUT/model, and OUT/metrics.jsonl.")],
    epochs: Annotated[int, typer.Option(min=1, help="Rounds over the problems.")] = 2,
    lora: Annotated[bool, typer.Option("--lora", help="Train LoRA weights and merge them, instead of all weights.")] = False,
    rank: Annotated[int, typer.Option(min=1, help="With --lora: the rank.")] = 32,
    lr: Annotated[float | None, typer.Option(min=1e-9, help="Peak learning rate.  [default: by the size of the model]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Problems in an optimizer step.")] = 32,
    answers_only: Annotated[
        bool, typer.Option("--answers-only", help="Learn final answers without the reasoning steps, to see what steps are worth.")
    ] = False,
    question_loss: Annotated[float, typer.Option(min=0, max=1, help="Loss weight of the tokens of questions.")] = 0.0,
    guesses: Annotated[int, typer.Option(min=0, help="Samples of a test problem, for test@1 and test@N. 0: greedy alone.")] = 10,
    temperature: TemperatureOption = 0.7,
    max_new_tokens: MaxNewTokensOption = 400,
    first: FirstOption = None,
    test_problems: Annotated[int | None, typer.Option(min=1, help="Measure on the first N test problems.")] = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    time: TimeOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model to write solutions, and measure it after every epoch.

    \b
    greedy   test problems that the most probable solution answers right
    test@1   share of samples that are right
    test@N   test problems with at least one right sample of N

    \b
    Examples:
      solver math finetune runs/base/model --problems train.jsonl --test test.jsonl --out runs/generator
      solver math finetune smollm2 --problems gsm8k/train.jsonl.xz --test gsm8k/test.jsonl.xz --out runs/smollm2 --lora
    """
    from solver.commands import math
    from solver.math.drawing import DrawOptions
    from solver.math.finetune import FinetuneOptions

    options = FinetuneOptions(
        epochs=epochs,
        trainer="lora" if lora else "full",
        rank=rank,
        lr=lr,
        batch_sequences=batch,
        steps=not answers_only,
        question_weight=question_loss,
        guesses=DrawOptions(samples=guesses, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed),
        seed=seed,
    )
    done = math.finetune_generator(
        model,
        problems,
        test,
        out,
        options,
        first,
        test_problems,
        engine,
        device,
        seconds_of(time),
        print_progress,
    )
    if as_json:
        print_json([asdict(epoch) for epoch in done])
        return
    for epoch in done:
        typer.echo(f"{'before' if not epoch.epoch else f'epoch {epoch.epoch}'}: {epoch.accuracy.text()}")
    typer.echo(out / "model")


def sample(
    model: Annotated[Path, typer.Argument(help="The generator: a folder in Hugging Face format.")],
    *,
    problems: ProblemsOption,
    out: Annotated[Path, typer.Option(help="Append the samples to this file, .jsonl.")],
    samples: Annotated[int, typer.Option(min=1, help="Solutions of a problem to draw.")] = 100,
    temperature: TemperatureOption = 0.7,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep equal solutions of a problem: votes over samples need them.")
    ] = False,
    calculator: Annotated[
        bool, typer.Option(help="Write the values of annotations, instead of leaving them to the model.")
    ] = True,
    redraws: Annotated[int, typer.Option(min=0, help="How often samples with ill-formed annotations are drawn again.")] = 3,
    max_new_tokens: MaxNewTokensOption = 400,
    first: FirstOption = None,
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    time: TimeOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Sample solutions of problems, labelled by their final answers, for verifiers. The same command goes on where it stopped.

    A label says that the final answer is right. The steps may be wrong all the same: such solutions are labelled right, too.

    \b
    Example:
      solver math sample runs/generator/model --problems train.jsonl --out runs/samples.jsonl
    """
    from solver.commands import math
    from solver.math.drawing import DrawOptions

    options = DrawOptions(samples, temperature, max_new_tokens, redraws, calculator, seed)
    counts = math.sample(model, problems, out, options, keep_duplicates, first, engine, device, seconds_of(time), print_progress)
    if as_json:
        print_json(asdict(counts))
        return
    typer.echo(
        f"{out}: {counts.samples} samples of {counts.problems} problems, {counts.right} right; {counts.duplicates} duplicates "
        f"dropped, {counts.redrawn} drawn again, {counts.ill_formed} ill-formed, {counts.left} problems left"
    )


def solve(
    problems: Annotated[Path, typer.Argument(help="Problems in GSM8K's format: JSON Lines of question and answer, also .xz.")],
    *,
    generator: Annotated[Path, typer.Option(metavar="DIR", help="The model that writes solutions.")],
    verifier: Annotated[Path, typer.Option(metavar="DIR", help="A verifier of its samples; see solver verify train.")],
    out: Annotated[Path, typer.Option(help="Write the answers to this file, .jsonl.")],
    budget: Annotated[str, typer.Option(metavar="DURATION", help="Time for all problems.")] = "10m",
    samples: Annotated[int, typer.Option(min=1, help="Solutions of a problem at most.")] = 100,
    temperature: TemperatureOption = 0.7,
    max_new_tokens: MaxNewTokensOption = 400,
    seed: SeedOption = 0,
) -> None:
    """Answer problems with a verifier: draw solutions, and let those with the highest scores vote.

    How many are drawn, and how many vote, follows the time that is left.

    \b
    Example:
      solver math solve test.jsonl --generator runs/generator/model --verifier runs/verifier --out answers.jsonl --budget 5m
    """
    from solver.commands.math_solve import solve as solve_problems
    from solver.config import parse_duration
    from solver.math.drawing import DrawOptions

    options = DrawOptions(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    seconds = parse_duration(budget)
    for line in solve_problems(problems, generator, verifier, out, seconds, samples, options, print_progress):
        typer.echo(line)


def demo(
    *,
    out: Annotated[
        Path, typer.Option(help="Write everything to this folder: report.md, curves, solutions.html, models, samples.")
    ],
    budget: Annotated[str, typer.Option(metavar="DURATION", help="Time for all stages.")] = "10m",
    ablations: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Then train other verifiers for this long, to compare them.  [default: none]"),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Base model to fine-tune.  [default: a small one, made in a third of the time]"),
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Problems to train on, as GSM8K has them.  [default: generated ones]")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Problems to measure on.  [default: generated ones]")] = None,
    train_problems: Annotated[int, typer.Option(min=1, help="Number of problems to train on.")] = 3000,
    solutions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Training problems whose solutions the generator learns from; of the others the answers alone are used.  "
            "[default: 100 of generated ones, all of given ones]",
        ),
    ] = None,
    test_problems: Annotated[int, typer.Option(min=1, help="Number of problems to measure on.")] = 500,
    samples: Annotated[int, typer.Option(min=1, help="Solutions of every training problem to draw.")] = 8,
    test_samples: Annotated[int, typer.Option(min=1, help="Solutions of every test problem to draw.")] = 25,
    seed: SeedOption = 0,
) -> None:
    """Show verification at work: base model, generator, samples, verifier, and a comparison with votes and greedy answers.

    Training and sampling have shares of the time. On a slow machine there is less of both, and the results are worse. Greedy
    answers and scores have no limit.

    \b
    Examples:
      solver math demo --out runs/demo
      solver math demo --out runs/demo --ablations 30m
      solver math demo --out runs/smollm2 --model smollm2 --train gsm8k/train.jsonl.xz --test gsm8k/test.jsonl.xz --budget 24h
    """
    from solver.commands.math_demo import DemoOptions
    from solver.commands.math_demo import demo as run_demo
    from solver.config import parse_duration

    options = DemoOptions(
        seconds=parse_duration(budget),
        model=model,
        train=train,
        test=test,
        train_problems=train_problems,
        solutions=solutions,
        test_problems=test_problems,
        samples=samples,
        test_samples=test_samples,
        ablations_seconds=0.0 if ablations is None else parse_duration(ablations),
        seed=seed,
    )
    for line in run_demo(out, options, print_progress).lines:
        typer.echo(line)
    typer.echo(out / "report.md")
