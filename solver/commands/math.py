"""What `solver math` does with the domain of word problems: base models, generators, samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.math.base_model import BaseOptions, make_base
from solver.math.corpus import mixed_problems
from solver.math.drawing import DrawOptions
from solver.math.finetune import Epoch, FinetuneOptions, finetune
from solver.math.generator import load_generator
from solver.math.problems import MathProblem, read_problems, write_problems
from solver.math.sampling import SamplingCounts, sample_solutions
from solver.math.word_problems import Difficulty
from solver.model import threads
from solver.types import NEVER, Deadline

Report = Callable[[str], None]


def people(text: str) -> tuple[int, int]:
    """The bounds in a text like `2-5`. Raises InputError."""
    low, dash, high = text.partition("-")
    if not dash or not low.isdecimal() or not high.isdecimal():
        raise InputError(f"--people {text}: write it as 2-5")
    return int(low), int(high)


def pretrain(out: Path, options: BaseOptions, report: Report) -> Path:
    """Make a base model; see `make_base`."""
    threads.govern()
    return make_base(out, options, report)


def finetune_generator(
    model: Path,
    problems: Path,
    test: Path,
    out: Path,
    options: FinetuneOptions,
    first: int | None,
    test_problems: int | None,
    engine: str,
    device: str,
    seconds: float | None,
    report: Report,
) -> list[Epoch]:
    """Fine-tune on the `first` problems of a file and measure on `test_problems` of another one; see `finetune`."""
    training, held_out = _some(problems, first), _some(test, test_problems)
    common = {problem.question for problem in training} & {problem.question for problem in held_out}
    if common:
        raise InputError(f"{test}: {len(common)} of its problems are in {problems}, too: {min(common)[:60]!r}")
    threads.govern()
    settings = ModelSettings(device=device)
    deadline = NEVER if seconds is None else Deadline.after(seconds)
    return finetune(model, settings, _infer(engine), training, held_out, out, options, deadline, report)


def sample(
    model: Path,
    problems: Path,
    out: Path,
    options: DrawOptions,
    keep_duplicates: bool,
    first: int | None,
    engine: str,
    device: str,
    seconds: float | None,
    report: Report,
) -> SamplingCounts:
    """Sample solutions of the `first` problems of a file; see `sample_solutions`."""
    chosen = _some(problems, first)
    threads.govern()
    generator = load_generator(model, ModelSettings(device=device))
    deadline = NEVER if seconds is None else Deadline.after(seconds)
    return sample_solutions(generator, _infer(engine), chosen, out, options, keep_duplicates, deadline, report)


def make_corpus(out: Path, count: int, kinds: str, bounds: str, without: Sequence[Path], seed: int) -> int:
    """Write word problems of some kinds, evenly; see `solver.math.corpus`. Gives their number. Raises InputError."""
    known = {problem.question for path in without for problem in read_problems(path)}
    return write_problems(out, mixed_problems(kinds.split(","), count, Difficulty(*people(bounds)), seed, known))


def difficulty(bounds: str, shuffled: float, unneeded: float) -> Difficulty:
    """The difficulty that options describe. Raises InputError."""
    return Difficulty(*people(bounds), shuffled, unneeded)


def _some(path: Path, count: int | None) -> tuple[MathProblem, ...]:
    return read_problems(path)[:count]


def _infer(engine: str) -> InferSettings:
    return InferSettings.model_validate({"engine": engine})
