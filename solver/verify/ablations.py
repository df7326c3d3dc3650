"""Trains variants of a verifier and compares them on the same test samples: level, joint loss, dropout, size, data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from solver.config import ModelSettings
from solver.report.paired import Paired
from solver.report.scores import wilson
from solver.types import Deadline
from solver.verify.compare import solved
from solver.verify.ranking import best, majority
from solver.verify.samples import SampleSet
from solver.verify.scoring import ScoredProblem, score_samples
from solver.verify.training import VerifierOptions, train_verifier
from solver.verify.verifier import Level, load_model, load_verifier

REFERENCE = "reference"  # the variant that the others are compared with


@dataclass(frozen=True)
class Variant:
    """One verifier to train."""

    name: str
    options: VerifierOptions
    start: Path  # folder of the model that it is initialised from
    problems: int | None = None  # train on the samples of the first problems alone; None: of all


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a variant was worth."""

    variant: Variant
    problems: int  # that it was trained on
    samples: int
    steps: int
    cut: bool  # whether the deadline ended its training
    seconds: float  # of training
    scored: tuple[ScoredProblem, ...]
    solved: tuple[bool, ...]  # by test problem: the answer of the highest scored sample


def usual_variants(options: VerifierOptions, start: Path, problems: int) -> list[Variant]:
    """A verifier trained on half of the problems, then one change of it at a time, and other amounts of data.

    Half, because that takes half the time.
    """
    half = max(1, problems // 2)
    reference = Variant(REFERENCE, options, start, half)
    other_level: Level = "solution" if options.level == "token" else "token"
    samples = "all samples" if options.balance else "balanced samples"
    joint = "without joint loss" if options.joint else "joint loss"
    return [
        reference,
        replace(reference, name=f"{other_level} level", options=replace(options, level=other_level)),
        replace(reference, name=joint, options=replace(options, joint=not options.joint)),
        replace(reference, name=samples, options=replace(options, balance=not options.balance)),
        replace(reference, name="residual dropout 0.2", options=replace(options, residual_dropout=0.2)),
        *(replace(reference, name=f"{size} problems", problems=size) for size in _smaller(half)),
        replace(reference, name="binary cross-entropy", options=replace(options, loss="bce")),
    ]


def _smaller(problems: int) -> list[int]:
    """A half, a quarter and so on of `problems`, down to about ten."""
    sizes = []
    while (problems := problems // 2) >= 10:
        sizes.append(problems)
    return sizes


def run_variant(
    variant: Variant,
    training: SampleSet,
    test: SampleSet,
    folder: Path,
    fitting: Deadline,
    deadline: Deadline,
    report: Callable[[str], None],
) -> Outcome | None:
    """Train a verifier until the deadline `fitting` at most, write it to `folder`, and test it; None: `deadline` came first.

    Raises InputError if it cannot be trained.
    """
    chosen = first_problems(training, variant.problems)
    fit = train_verifier(load_model(variant.start, ModelSettings()), chosen, variant.options, folder, fitting, None, report)
    wanted = sum(bool(group) for group in test.by_problem().values())
    scored = tuple(score_samples(load_verifier(folder, ModelSettings(), test.generator), test, deadline))
    if len(scored) < wanted:
        return None
    right = tuple(solved([one.judged() for one in scored], best))
    report(f"{variant.name}: {sum(right)} of {len(right)} after {fit.steps} steps, {fit.seconds:.0f} s")
    cut = fit.status == "cut"
    return Outcome(variant, len(chosen.problems), len(chosen.samples), fit.steps, cut, fit.seconds, scored, right)


def run_variants(
    variants: Sequence[Variant],
    training: SampleSet,
    test: SampleSet,
    folder: Path,
    deadline: Deadline,
    report: Callable[[str], None],
) -> Iterator[Outcome]:
    """Train and test variants in order until the deadline. One that it cuts is left out. Raises InputError."""
    for number, variant in enumerate(variants):
        if deadline.expired():
            return
        outcome = run_variant(variant, training, test, folder / str(number), deadline, deadline, report)
        if outcome is None or outcome.cut:
            return
        yield outcome


def first_problems(samples: SampleSet, count: int | None) -> SampleSet:
    """The first `count` problems with all their samples; None: all."""
    kept = samples.problems[:count]
    groups = samples.by_problem()
    return replace(samples, problems=kept, samples=tuple(one for problem in kept for one in groups[problem.id]))


def split_problems(samples: SampleSet, last: int) -> tuple[SampleSet, SampleSet]:
    """All problems but the `last` ones, and the `last` ones, with all their samples."""
    first = first_problems(samples, len(samples.problems) - last)
    ids = {problem.id for problem in first.problems}
    rest = tuple(one for one in samples.samples if one.problem not in ids)
    return first, replace(samples, problems=samples.problems[len(ids) :], samples=rest)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """A Markdown table: every variant with n, its interval, and its comparison with the reference and the majority vote."""
    reference = next((one for one in outcomes if one.variant.name == REFERENCE), None)
    lines = [
        "| verifier | training problems, samples | solved | 95 % | against the reference | against the majority vote |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        low, high = wilson(sum(one.solved), len(one.solved))
        vote = solved([scored.judged() for scored in one.scored], majority)
        against = "" if reference in (None, one) else Paired.of(one.solved, reference.solved).text()
        lines.append(
            f"| {one.variant.name} | {one.problems:,}, {one.samples:,} | {sum(one.solved)} of {len(one.solved)} | "
            f"{100 * low:.1f} to {100 * high:.1f} | {against} | {Paired.of(one.solved, vote).text()} |"
        )
    return lines
