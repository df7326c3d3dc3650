"""Samples solutions of problems into a file that a verifier learns from: labelled by the final answer, resumable.

A label says that the final answer is right, not that the steps are. Wrong steps can end in the right answer by luck, more often
where answers are small numbers, and such false positives are labelled right: Cobbe et al. 2021 (arXiv 2110.14168), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from solver.arc.jsonfile import read_json, write_json
from solver.config import InferSettings
from solver.errors import InputError
from solver.math.drawing import DrawOptions, chunk_size, draw
from solver.math.generator import Generator
from solver.math.problems import MathProblem
from solver.types import Deadline
from solver.verify.samples import Sample, SamplesWriter


@dataclass(frozen=True)
class SamplingCounts:
    """What a call added to a file of samples."""

    problems: int = 0
    samples: int = 0  # that were written
    right: int = 0  # of them
    duplicates: int = 0  # that were dropped
    redrawn: int = 0
    ill_formed: int = 0  # samples whose annotations were still wrong after the last redraw
    left: int = 0  # problems for which the time was too short


def sample_solutions(
    generator: Generator,
    infer: InferSettings,
    problems: Sequence[MathProblem],
    out: Path,
    options: DrawOptions,
    keep_duplicates: bool,
    deadline: Deadline,
    report: Callable[[str], None],
) -> SamplingCounts:
    """Append samples of those `problems` to `out` that it does not have, and give the counts.

    A problem that a stopped call left incomplete is completed. Samples of the same problem with equal text count once, unless
    `keep_duplicates`: a vote needs them, a verifier learns nothing from them. `out`.options.json says how the file was sampled.
    Raises InputError if the file is of another generator or was sampled in another way.
    """
    _check_options(out, options, keep_duplicates)
    with SamplesWriter(out, generator.fingerprint) as writer:
        done = writer.done.by_problem()
        known = {problem.id: problem for problem in writer.done.problems}
        for problem in problems:
            if problem.id in known and known[problem.id].prompt != tuple(generator.tokenizer.prompt(problem.question).tolist()):
                raise InputError(f"{out}: problem {problem.id} has another question there: give the same file of problems")
        _write_options(out, options, keep_duplicates)
        last = list(done)[-1:]  # a kill may have cut off its samples
        missing = [problem for problem in problems if problem.id not in done or problem.id in last]
        if done:
            report(f"{out}: has {len(done)} problems, {len(missing) - len(last)} are missing")
        counts = SamplingCounts(left=len(missing))
        engine = generator.engine(infer)
        for number, drawn in enumerate(draw(engine, generator.tokenizer, missing, options, deadline), 1):
            before = done.get(drawn.problem.id, ())
            samples = drawn.samples if keep_duplicates else distinct(drawn.samples)
            # without duplicates: rounding may have changed a sample since the first call
            new = (samples if keep_duplicates else distinct((*before, *samples)))[len(before) :]
            writer.add(drawn.problem, new)
            counts = SamplingCounts(
                counts.problems + (drawn.problem.id not in done),
                counts.samples + len(new),
                counts.right + sum(sample.correct for sample in new),
                counts.duplicates + len(drawn.samples) - len(samples),
                counts.redrawn + drawn.redrawn,
                counts.ill_formed + drawn.ill_formed,
                len(missing) - number,
            )
            if number % chunk_size(options.samples) == 0:
                report(f"{number} of {len(missing)} problems: {counts.samples} samples, {counts.right} right")
    return counts


def distinct(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The first of the samples of each text; spaces and line breaks at both ends do not count."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.text.strip(), sample)
    return tuple(first.values())


def _options_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.options.json")


def _as_json(options: DrawOptions, keep_duplicates: bool) -> dict[str, Any]:
    return asdict(options) | {"keep_duplicates": keep_duplicates}


def _check_options(out: Path, options: DrawOptions, keep_duplicates: bool) -> None:
    """Raises InputError if the file exists and was sampled with other options."""
    file = _options_file(out)
    if not out.exists() or not file.exists():
        return
    before, now = read_json(file, "options of the samples"), _as_json(options, keep_duplicates)
    if not isinstance(before, dict) or before != now:
        other = [name for name, value in now.items() if not isinstance(before, dict) or before.get(name) != value]
        raise InputError(f"{out}: was sampled with other options ({', '.join(other)}): give the same ones, or another --out")


def _write_options(out: Path, options: DrawOptions, keep_duplicates: bool) -> None:
    file = _options_file(out)
    try:
        write_json(file, _as_json(options, keep_duplicates))
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from None
