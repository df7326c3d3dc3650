"""`solver math demo`: every stage from nothing to a verifier that ranks samples, with a small model on generated problems.

Stages: problems, base model, generator, samples of training and test problems, verifier, scores, report. Training and sampling
have shares of the time and stop when these are used up, so on a slow machine there is less training. Greedy answers, scores and
pictures come after them without a limit, so the demo may take longer than its time.

Generated problems need every person of their story, and a part of those that the base model has read do not. So the generator
tends to stop too early, which the solutions of few problems do not cure. Many of its samples make the same mistake, and a vote
does not repair that. The verifier learns from the final answers of many problems, without their solutions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import replace_file, write_json
from solver.commands.verify import Measured, draw, measure
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.math.base_model import BaseOptions, BaseShape, make_base
from solver.math.corpus import WORDS, mixed_problems
from solver.math.drawing import DrawOptions
from solver.math.drawing import draw as draw_solutions
from solver.math.finetune import FinetuneOptions, finetune
from solver.math.generator import Generator, load_generator
from solver.math.problems import MathProblem, read_problems, write_problems
from solver.math.sampling import sample_solutions
from solver.math.word_problems import Difficulty
from solver.model import threads
from solver.report.paired import Paired
from solver.report.scores import share_text
from solver.types import NEVER, Deadline
from solver.verify.ablations import Outcome, Variant, run_variant, run_variants, split_problems, table, usual_variants
from solver.verify.choice import Procedure, best_procedure
from solver.verify.compare import Point, over_samples, over_votes, solved
from solver.verify.pictures import plot, token_texts, write_solutions
from solver.verify.ranking import majority
from solver.verify.samples import SampleSet, read_samples
from solver.verify.scoring import score_samples
from solver.verify.training import VerifierOptions
from solver.verify.verifier import load_verifier

Report = Callable[[str], None]

# shares of the time, in order; what a stage does not use is left to the later ones
BASE, GENERATOR, TRAINING_SAMPLES, TEST_SAMPLES = 0.3, 0.05, 0.2, 0.15
JUDGING = 0.1  # for scores, curves and the report
SOLUTIONS = 100
HELD_OUT = 300  # sampled training problems, at most a fifth, on which the way to choose answers is chosen


@dataclass(frozen=True)
class DemoOptions:
    """What the demo does. The defaults are meant for ten minutes on two cores."""

    seconds: float = 600.0
    model: Path | None = None  # a base model to fine-tune; None: a small one is made
    train: Path | None = None  # problems to train on; None: generated ones
    test: Path | None = None  # problems to measure on; None: generated ones
    train_problems: int = 3000
    # training problems whose solutions the generator learns from; of the others the answers alone are used. None: SOLUTIONS of
    # generated problems, all of given ones
    solutions: int | None = None
    test_problems: int = 500
    samples: int = 8  # of a training problem
    test_samples: int = 25
    temperature: float = 0.7
    difficulty: Difficulty = field(default_factory=lambda: Difficulty(3, 3, 0.0, 0.0))
    base_difficulty: Difficulty = field(default_factory=lambda: Difficulty(2, 4, 0.3, 0.3))  # of what the base model reads
    base_steps: int = 700  # of the base model
    shape: BaseShape = field(default_factory=lambda: BaseShape(64, 4, 2))
    verifier: VerifierOptions = field(default_factory=lambda: VerifierOptions(joint=False, epochs=4.0, batch_sequences=16))
    ablations_seconds: float = 0.0  # for more verifiers, after the demo and base models of two other sizes; 0: none
    seed: int = 0


def demo(out: Path, options: DemoOptions, report: Report) -> Measured:
    """Run all stages below the folder `out`, and write `out`/report.md, results.json, curves and solutions.html there.

    Raises InputError if files or models cannot be used, or the time is too short for a stage.
    """
    threads.govern()
    began = time.monotonic()
    end = Deadline.after(options.seconds)
    training, test = _problems(out, options)
    base = options.model
    if base is None:
        minutes = BASE * options.seconds / 60
        base = make_base(out / "base", _base_options(options, options.shape, minutes), report)

    def share(of: float) -> Deadline:
        return Deadline.after(min(end.remaining(), of * options.seconds))

    infer = InferSettings()
    learnt = training[: options.solutions or (SOLUTIONS if options.train is None else None)]
    epochs = _finetune_options(options)
    finetune(base, ModelSettings(), infer, learnt, test[:100], out / "generator", epochs, share(GENERATOR), report)
    folder = out / "generator" / "model"
    if not folder.is_dir():
        raise InputError(f"{out}: the time is too short: no generator was trained in {GENERATOR * options.seconds:.0f} s")
    generator = load_generator(folder, ModelSettings())
    longest = max(len(generator.tokenizer.completion(problem.completion())) for problem in training) + 10
    drawn = DrawOptions(options.samples, options.temperature, longest, seed=options.seed)
    report("sampling training problems")
    sample_solutions(generator, infer, training, out / "training.jsonl", drawn, False, share(TRAINING_SAMPLES), report)
    report("sampling test problems")
    of_test = replace(drawn, samples=options.test_samples)
    sample_solutions(generator, infer, test, out / "test.jsonl", of_test, True, share(TEST_SAMPLES), report)
    labelled, asked = read_samples(out / "training.jsonl"), read_samples(out / "test.jsonl")
    if not asked.samples:
        raise InputError(f"{out}: the time is too short: no test problem was sampled in {TEST_SAMPLES * options.seconds:.0f} s")
    greedy = greedy_answers(generator, infer, test, longest, asked)
    labelled, held_out = split_problems(labelled, min(HELD_OUT, len(labelled.problems) // 5))
    main = Variant("main", options.verifier, folder)
    fitting = Deadline.after(max(1.0, end.remaining() - JUDGING * options.seconds))
    outcome = run_variant(main, labelled, asked, out / "verifier", fitting, NEVER, report)
    assert outcome is not None  # nothing cuts its scores
    verifier = load_verifier(out / "verifier", ModelSettings(), generator.fingerprint)
    procedure = best_procedure(tuple(score_samples(verifier, held_out, NEVER)))
    run = DemoRun(out, options, generator, labelled, len(held_out.problems), procedure, asked, greedy, report)
    return run.finish([outcome], time.monotonic() - began)


def _finetune_options(options: DemoOptions) -> FinetuneOptions:
    """The usual options; a model made here gets a lower rate and smaller batches, because it takes few steps."""
    usual = FinetuneOptions(guesses=DrawOptions(samples=0), seed=options.seed)
    return usual if options.model is not None else replace(usual, lr=1e-3, batch_sequences=16)


def _base_options(options: DemoOptions, shape: BaseShape, minutes: float) -> BaseOptions:
    return BaseOptions(minutes, options.base_steps, shape, options.base_difficulty, seed=options.seed)


def greedy_answers(
    generator: Generator, infer: InferSettings, problems: Sequence[MathProblem], longest: int, asked: SampleSet
) -> dict[str, bool]:
    """Whether the greedy solution is right, by the id of every problem that has test samples."""
    groups = asked.by_problem()
    wanted = [problem for problem in problems if groups.get(problem.id)]
    options = DrawOptions(samples=1, temperature=0.0, max_new_tokens=longest)
    found = draw_solutions(generator.engine(infer), generator.tokenizer, wanted, options, NEVER)
    return {one.problem.id: one.samples[0].correct for one in found}


def _problems(out: Path, options: DemoOptions) -> tuple[list[MathProblem], list[MathProblem]]:
    """Training and test problems: those of the given files, or generated ones, of which none is in both, written to `out`."""
    if (options.train is None) != (options.test is None):
        raise InputError("give problems to train on and problems to test on, or neither")
    if options.train is not None and options.test is not None:
        train, test = (list(read_problems(path)) for path in (options.train, options.test))
        return train[: options.train_problems], test[: options.test_problems]
    training = mixed_problems([WORDS], options.train_problems, options.difficulty, options.seed)
    known = {problem.question for problem in training}
    test = mixed_problems([WORDS], options.test_problems, options.difficulty, options.seed + 1, known)
    files = out / "problems" / "train.jsonl", out / "problems" / "test.jsonl"
    for path, problems in zip(files, (training, test), strict=True):
        write_problems(path, problems)
    return list(read_problems(files[0])), list(read_problems(files[1]))


@dataclass(frozen=True, eq=False)
class DemoRun:
    """What the stages left, from which everything is measured and drawn."""

    out: Path
    options: DemoOptions
    generator: Generator
    labelled: SampleSet
    held_out: int  # problems
    procedure: Procedure  # that was best on them
    asked: SampleSet
    greedy: dict[str, bool]  # by the id of a test problem
    report: Report

    def finish(self, outcomes: list[Outcome], seconds: float) -> Measured:
        """Measure and draw the main verifier, train the ablations if there is time for them, and write the report."""
        out, main = self.out, outcomes[0]
        measured = measure(main.scored)
        by_greedy = [self.greedy[one.problem.id] for one in main.scored]
        total, right = len(by_greedy), sum(by_greedy)
        by_vote = solved([one.judged() for one in main.scored], majority)
        by_procedure = self.procedure.solved(main.scored)
        chosen = sum(by_procedure)
        lines = (
            f"best on {self.held_out} held-out training problems: {self.procedure.text()}",
            f"that on the test problems: {chosen} of {total}: {share_text(chosen, total)}",
            f"that against majority vote: {Paired.of(by_procedure, by_vote).text()}",
            f"that against greedy: {Paired.of(by_procedure, by_greedy).text()}",
            f"greedy: {right} of {total}: {share_text(right, total)}",
            *measured.lines,
            f"verifier against greedy: {Paired.of(main.solved, by_greedy).text()}",
            f"all stages: {seconds:.0f} s",
        )
        draw(main.scored, "last", out, self.report)
        write_solutions(
            main.scored, token_texts(self.generator.base.path), "last", out / "solutions.html", "Values of a verifier"
        )
        procedure = asdict(self.procedure) | {"right": chosen}
        results = measured.results | {"procedure": procedure, "greedy": right, "seconds": seconds}
        curves = _curves(main)
        self._write(outcomes, lines, curves, results)
        if self.options.ablations_seconds:
            for outcome in self._ablations(main):
                outcomes = [*outcomes, outcome]
                self._write(outcomes, lines, curves, results)
            _plot_data_sizes(outcomes, right, out, self.report)
        return Measured(results, lines)

    def _ablations(self, main: Outcome) -> Iterator[Outcome]:
        variants = usual_variants(main.variant.options, self.generator.base.path, len(self.labelled.problems))
        deadline = Deadline.after(self.options.ablations_seconds)
        folder = self.out / "ablations"
        yield from run_variants(variants, self.labelled, self.asked, folder, deadline, self.report)
        if self.options.model is None and not deadline.expired():
            others = _other_sizes(variants[0], self.out, self.options, self.report)
            yield from run_variants(others, self.labelled, self.asked, folder / "sizes", deadline, self.report)

    def _write(self, outcomes: Sequence[Outcome], lines: Sequence[str], curves: Sequence[str], results: dict[str, Any]) -> None:
        variants = {
            one.variant.name: {"problems": one.problems, "samples": one.samples, "solved": sum(one.solved), "of": len(one.solved)}
            for one in outcomes
        }
        write_json(self.out / "results.json", results | {"variants": variants})
        text = ["# Verification on word problems", "", *(f"- {line}" for line in lines), "", *table(outcomes), "", *curves]
        replace_file(self.out / "report.md", ("\n".join(text) + "\n").encode())


def _curves(main: Outcome) -> list[str]:
    """Two Markdown tables: the accuracy of every rule over the number of samples, and over the number of samples that vote."""
    groups = [one.judged() for one in main.scored]
    curves = over_samples(groups)
    lines = ["| samples | " + " | ".join(curves) + " |", "| --- |" + " --- |" * len(curves)]
    for points in zip(*curves.values(), strict=True):
        lines.append(f"| {points[0].at} | " + " | ".join(f"{100 * point.share:.1f} %" for point in points) + " |")
    lines += ["", "| best samples that vote | solved | 95 % |", "| --- | --- | --- |"]
    for point in over_votes(groups):
        low, high = point.interval
        lines.append(f"| {point.at} | {point.hits:.0f} of {point.total} | {100 * low:.1f} to {100 * high:.1f} |")
    return lines


def _other_sizes(reference: Variant, out: Path, options: DemoOptions, report: Report) -> list[Variant]:
    """`reference` from a smaller and from a larger base model over the same tokens, each made in as much time as the base."""
    made = []
    for name, factor in (("half the width", 0.5), ("twice the width", 2.0)):
        shape = BaseShape(int(options.shape.hidden * factor), options.shape.layers, options.shape.heads)
        minutes = BASE * options.seconds / 60
        start = make_base(out / f"base-{shape.hidden}", _base_options(options, shape, minutes), report)
        made.append(replace(reference, name=name, start=start))
    return made


def _plot_data_sizes(outcomes: Sequence[Outcome], greedy: int, out: Path, report: Report) -> None:
    """Problems solved over the problems that the verifier was trained on, beside greedy answers and the majority vote."""
    main = outcomes[0]
    alike = (one for one in outcomes if one.variant.options == main.variant.options and one.variant.start == main.variant.start)
    sizes = sorted(alike, key=lambda one: one.problems)
    total = len(main.solved)
    vote = sum(solved([scored.judged() for scored in main.scored], majority))
    curves = {
        "verifier": [Point(one.problems, sum(one.solved), total) for one in sizes],
        "majority vote": [Point(one.problems, vote, total) for one in sizes],
        "greedy": [Point(one.problems, greedy, total) for one in sizes],
    }
    plot(curves, "problems that the verifier was trained on", f"{total} test problems, 95 % intervals", out / "data.png", report)
