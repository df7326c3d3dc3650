"""Fine-tunes a generator: a language model learns to write solutions, and is measured after every epoch.

Source: Cobbe et al. 2021 (arXiv 2110.14168), section 4.1 and appendix B: 2 epochs, the loss on solutions.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from solver.config import InferSettings, ModelSettings, TrainSettings
from solver.errors import InputError
from solver.infer.base import EngineState
from solver.math.accuracy import Accuracy, measure
from solver.math.drawing import DrawOptions
from solver.math.generator import Generator, load_generator
from solver.math.problems import MathProblem
from solver.model.load import Base
from solver.model.lora import load_stack
from solver.pretrain.target import merged_weights, write_model
from solver.train.registry import make_trainer
from solver.types import AdapterRef, Deadline, FitJob, TokenSequence

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class FinetuneOptions:
    """How a generator is trained and measured."""

    epochs: int = 2
    trainer: Literal["full", "lora"] = "full"
    rank: int = 32  # of LoRA
    lr: float | None = None  # peak rate; None: by the size of the model
    batch_sequences: int = 32
    steps: bool = True  # learn the reasoning steps, too; else the final answer alone
    question_weight: float = 0.0  # loss weight of the tokens of questions
    # for test@1 and test@N after every epoch; 0 samples: greedy alone
    guesses: DrawOptions = field(default_factory=lambda: DrawOptions(samples=10))
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """What an epoch did, and how good the generator is after it. Epoch 0 is the model before."""

    epoch: int
    steps: int
    loss: float  # nats a token of the last step; nan before the first epoch
    seconds: float
    accuracy: Accuracy


def finetune(
    folder: Path,
    model: ModelSettings,
    infer: InferSettings,
    training: Sequence[MathProblem],
    test: Sequence[MathProblem],
    out: Path,
    options: FinetuneOptions,
    deadline: Deadline,
    report: Callable[[str], None],
) -> list[Epoch]:
    """Fine-tune the model in `folder` on `training`; `out`/model is the generator. Gives what was measured on `test`.

    `out`/metrics.jsonl has a line an epoch. At the deadline the training stops, and the generator is what was trained by then.
    Raises InputError if the model cannot be used or trained, or no problem fits its context.
    """
    start = load_generator(folder, model)
    sequences = _sequences(start, training, options, report)
    state, epochs = EngineState(), list[Epoch]()
    out.mkdir(parents=True, exist_ok=True)
    (out / METRICS).unlink(missing_ok=True)

    def note(epoch: int, steps: int, loss: float, seconds: float, generator: Generator) -> None:
        accuracy = measure(generator.engine(infer, state), generator.tokenizer, test, options.guesses, deadline, report)
        done = Epoch(epoch, steps, loss, seconds, accuracy)
        epochs.append(done)
        report(f"epoch {epoch}: loss {loss:.3f}, {accuracy.text()}" if epoch else f"before: {accuracy.text()}")
        with (out / METRICS).open("a", encoding="utf-8") as file:
            line = asdict(done) | {"test_at_1": accuracy.test_at_1}
            file.write(json.dumps(line | {"loss": loss if math.isfinite(loss) else None}) + "\n")

    note(0, 0, math.nan, 0.0, start)
    scratch = out / "adapters"
    trainer = make_trainer(start.base, _settings(options), scratch)
    steps = math.ceil(len(sequences) / options.batch_sequences)
    adapter: AdapterRef | None = None
    for epoch in range(1, options.epochs + 1):
        job = FitJob(f"epoch-{epoch}", sequences, steps, options.seed + epoch, adapter)
        fit = next(iter(trainer.fit([job], deadline)))
        if fit.status == "failed":
            raise InputError(f"{folder}: epoch {epoch} failed: {fit.reason}")
        if fit.adapter is None or not fit.steps:
            report(f"epoch {epoch}: the time is over before its first step")
            break
        adapter = fit.adapter
        write_generator(start.base, adapter, out / "model")
        note(epoch, fit.steps, fit.final_loss, fit.seconds, load_generator(out / "model", model))
        if fit.status == "cut":
            report(f"epoch {epoch}: the time is over after {fit.steps} of {steps} steps")
            break
    shutil.rmtree(scratch, ignore_errors=True)
    return epochs


def _sequences(
    generator: Generator, problems: Sequence[MathProblem], options: FinetuneOptions, report: Callable[[str], None]
) -> tuple[TokenSequence, ...]:
    made = [generator.tokenizer.sequence(problem, options.steps, options.question_weight) for problem in problems]
    kept = tuple(sequence for sequence in made if len(sequence) <= generator.base.context)
    if not kept:
        raise InputError(f"every problem is longer than the context of {generator.base.context} tokens")
    if len(kept) < len(made):
        left_out = len(made) - len(kept)
        report(f"{left_out} of {len(made)} problems are left out: longer than the context of {generator.base.context} tokens")
    return kept


def _settings(options: FinetuneOptions) -> TrainSettings:
    return TrainSettings(
        trainer=options.trainer,
        rank=options.rank,
        alpha=float(options.rank),
        lr=options.lr,
        batch_sequences=options.batch_sequences,
    )


def write_generator(base: Base, adapter: AdapterRef, folder: Path) -> None:
    """Write a model folder with the weights of the base under the adapter. Raises InputError for a quantised base."""
    if base.quantized:
        raise InputError(f"{base.path}: its weights are quantised; a generator needs weights that an adapter can be merged into")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if adapter.kind == "full":
        shutil.copytree(adapter.path, partial)
    else:
        write_model(base, merged_weights(base, load_stack(base, [adapter])), partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
