"""Trains verifiers: from labelled samples to a model that gives every token of a solution a value.

Source: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems" (arXiv 2110.14168), section 4 and appendix E.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from solver.config import TrainSettings
from solver.errors import InputError
from solver.model.folder import folder_identity
from solver.model.head import OutputHead
from solver.model.load import Base
from solver.model.value_head import Loss, ValueHead, reserved_token, with_mean_row
from solver.train.batches import value_places
from solver.train.full import FullFitTarget
from solver.train.loop import Loop
from solver.train.lora import LoraFitTarget
from solver.train.runs import FitTarget
from solver.train.schedule import TINY
from solver.types import Deadline, Fit, FitJob, TokenSequence
from solver.verify.balance import balanced
from solver.verify.calibration import starting_scale
from solver.verify.samples import Problem, Sample, SampleSet
from solver.verify.verifier import Level, VerifierFacts, write_facts

RATES = {"full": (1e-3, 1e-5), "lora": (2e-3, 1e-4)}  # peak rates by trainer: of models with less than TINY weights, of others


@dataclass(frozen=True)
class VerifierOptions:
    """How a verifier is trained."""

    loss: Loss = "mse"
    level: Level = "token"  # predict after every token of a solution, or after the last one alone
    joint: bool = True  # learn to write right solutions at the same time, from as many sequences
    residual_dropout: float = 0.0  # the paper uses 0.2
    trainer: Literal["full", "lora"] = "full"
    epochs: float = 1.0
    lr: float | None = None  # peak rate; None: by trainer and size of the model
    batch_sequences: int = 32
    rank: int = 32  # of LoRA
    seed: int = 0
    balance: bool = True  # learn from as many right as wrong samples of every problem


def train_verifier(
    start: Base,
    samples: SampleSet,
    options: VerifierOptions,
    out: Path,
    deadline: Deadline,
    language: SampleSet | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Train a verifier from the model `start` on labelled samples, and write it to the folder `out`, which it replaces.

    `start` is the generator, or another model over the same tokens. `language` holds the solutions for the joint language loss;
    None: the samples that are right. If the deadline comes first, the verifier is what was trained by then. Raises InputError if
    the model has no reserved token, and if all samples have the same label.
    """
    token = reserved_token(start)
    given = _without(samples, token, report)
    sequences = _sequences(given, language or given, options, start.context, report)
    steps = max(1, math.ceil(options.epochs * len(sequences) / options.batch_sequences))
    training: dict[str, Any] = asdict(options) | {
        "problems": len(given.problems),
        "samples": len(given.samples),
        "right": sum(sample.correct for sample in given.samples),
        "steps": steps,
    }
    base = with_mean_row(start, token)
    gain, bias = starting_scale(base, token, options.loss, sequences)
    facts = VerifierFacts(
        generator=samples.generator,
        start=folder_identity(start.path),
        kind=options.trainer,
        token=token,
        loss=options.loss,
        level=options.level,
        gain=gain,
        bias=bias,
        training=training,
    )
    head = ValueHead(token, options.loss, gain, bias).to(start.device)
    watched = _MeanLoss(head)
    settings = _settings(options, start.parameters)
    inner: FitTarget = FullFitTarget(base) if options.trainer == "full" else LoraFitTarget(base, settings, 1)
    full_in_16_bits = options.trainer == "full" and base.dtype != torch.float32
    loop = Loop(
        base,
        VerifierTarget(inner, head, facts),
        settings,
        out.parent,
        base.dtype if full_in_16_bits else None,
        value_loss=watched,
        residual_dropout=options.residual_dropout,
        on_step=_progress(report, watched, _loss_of_constant(sequences, options.loss)),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    fit = loop.fit([FitJob(out.name, sequences, steps, options.seed)], deadline)[0]
    if fit.adapter is None:
        raise InputError(f"{out}: no verifier was trained: {fit.reason}")
    return fit


def _sequences(
    samples: SampleSet, language: SampleSet, options: VerifierOptions, context: int, report: Callable[[str], None]
) -> tuple[TokenSequence, ...]:
    """What a verifier reads in an epoch: samples to judge, and with the joint loss as many solutions to write.

    Raises InputError if there is nothing to judge, or nothing to write.
    """
    if options.balance:
        samples = balanced(samples, options.seed)
        report(f"{len(samples.samples)} samples of {len(samples.problems)} problems, each with as many right as wrong ones")
    judged = [value_sequence(problem, sample, options.level) for problem, sample in _pairs(samples)]
    written = [language_sequence(problem, sample) for problem, sample in _pairs(language) if sample.correct]
    if options.joint and not written:
        raise InputError("the joint loss needs solutions to write, and none is right: give some, or train without it")
    # in turn, so that every part of an epoch has both kinds
    sequences = [
        one for n, value in enumerate(judged) for one in ((value, written[n % len(written)]) if options.joint else (value,))
    ]
    fitting = tuple(one for one in sequences if len(one) <= context)
    if dropped := len(sequences) - len(fitting):
        report(f"{dropped} of {len(sequences)} sequences are left out: longer than the context of {context} tokens")
    if not any(one.values is not None for one in fitting):
        raise InputError(f"every sample is longer than the context of {context} tokens")
    return fitting


def value_sequence(problem: Problem, sample: Sample, level: Level) -> TokenSequence:
    """A question and a sampled solution, with the label as the value target of solution tokens. Question tokens have none."""
    ids = np.array((*problem.prompt, *sample.ids), dtype=np.int32)
    values = np.full(len(ids), np.nan, dtype=np.float32)
    values[len(problem.prompt) if level == "token" else -1 :] = float(sample.correct)
    return TokenSequence(ids, np.zeros(len(ids), dtype=np.float32), values)


def language_sequence(problem: Problem, solution: Sample) -> TokenSequence:
    """A question and a solution, whose tokens are to be predicted."""
    ids = np.array((*problem.prompt, *solution.ids), dtype=np.int32)
    weights = (np.arange(len(ids)) >= max(1, len(problem.prompt))).astype(np.float32)
    return TokenSequence(ids, weights)


class VerifierTarget:
    """All weights or a LoRA adapter of a model, and the gain and bias of a value head."""

    slots = 1

    def __init__(self, inner: FitTarget, head: ValueHead, facts: VerifierFacts) -> None:
        self.kind, self.reentrant, self.model = inner.kind, inner.reentrant, inner.model
        self._inner, self._head, self._facts = inner, head, facts

    def parameters(self) -> list[nn.Parameter]:
        """The weights of the model, then gain and bias."""
        return [*self._inner.parameters(), self._head.gain, self._head.bias]

    def begin(self, slot: int, seed: int, start: Path | None) -> None:
        """Initialise the model, and gain and bias."""
        self._inner.begin(slot, seed, start)
        self._head.reset()

    def save(self, slot: int, folder: Path) -> None:
        """Write the folder of a verifier."""
        self._inner.save(slot, folder)
        write_facts(folder, replace(self._facts, gain=self._head.gain.item(), bias=self._head.bias.item()))


def _without(samples: SampleSet, token: int, report: Callable[[str], None]) -> SampleSet:
    """The samples without those that have the reserved token. Raises InputError unless some of them are right and some wrong."""
    asking = {problem.id for problem in samples.problems if token in problem.prompt}
    kept = tuple(one for one in samples.samples if token not in one.ids and one.problem not in asking)
    if dropped := len(samples.samples) - len(kept):
        why = f"they have token {token}, which is reserved for the verifier"
        report(f"{dropped} of {len(samples.samples)} samples are left out: {why}")
    labels = {sample.correct for sample in kept}
    if len(labels) < 2:
        which = "no samples" if not labels else "only right samples" if True in labels else "only wrong samples"
        raise InputError(f"{which}: a verifier learns from right and wrong ones")
    return replace(samples, samples=kept)


def _pairs(samples: SampleSet) -> Sequence[tuple[Problem, Sample]]:
    problems = {problem.id: problem for problem in samples.problems}
    return [(problems[sample.problem], sample) for sample in samples.samples if sample.ids]


def _settings(options: VerifierOptions, parameters: int) -> TrainSettings:
    small, others = RATES[options.trainer]
    return TrainSettings(
        trainer=options.trainer,
        rank=options.rank,
        lr=options.lr or (small if parameters < TINY else others),
        batch_sequences=options.batch_sequences,
        weight_decay=0.0,
    )


class _MeanLoss:
    """The losses of a value head, and their mean."""

    def __init__(self, head: ValueHead) -> None:
        self._head = head
        self._sum, self._count = torch.zeros(()), 0

    def losses(self, head: OutputHead, states: Tensor, targets: Tensor) -> Tensor:
        """Those of the value head."""
        losses = self._head.losses(head, states, targets)
        self._sum = self._sum.to(losses.device) + losses.detach().sum()
        self._count += len(losses)
        return losses

    def mean(self) -> float:
        """The mean since the last call."""
        found = float(self._sum) / max(1, self._count)
        self._sum, self._count = torch.zeros(()), 0
        return found


def _loss_of_constant(sequences: Sequence[TokenSequence], loss: Loss) -> float:
    """The mean loss of the best value that is the same for all tokens, which a verifier that learns something stays below."""
    targets = np.concatenate([one.values[value_places(one)] for one in sequences if one.values is not None])
    mean = float(targets.mean())
    if loss == "mse":
        return mean * (1 - mean)
    return -sum(share * math.log(share) for share in (mean, 1 - mean) if share)


def _progress(report: Callable[[str], None], watched: _MeanLoss, constant: float) -> Callable[[int, int, float], None]:
    """A report every tenth of the steps."""

    def on_step(step: int, steps: int, loss: float) -> None:
        if step == steps or step % max(1, steps // 10) == 0:
            values = f"of values {watched.mean():.4f}, of a constant value {constant:.4f}"
            report(f"verifier: {step} of {steps} steps, loss {loss:.4f}; {values}")

    return on_step
