"""Scores samples with a verifier, and keeps the values of all tokens in a file, so that others can compute more from them.

The file is JSON Lines: a header with the format and the fingerprints of generator and verifier, then a line for each problem with
the values of its samples, in the order of the file of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solver.arc.jsonfile import compact_json, read_json_lines, replace_file
from solver.errors import InputError
from solver.types import Deadline
from solver.verify.pooling import pool
from solver.verify.ranking import Judged
from solver.verify.samples import Problem, Sample, SampleSet
from solver.verify.verifier import Verifier

FORMAT = "solver-values-1"


@dataclass(frozen=True, eq=False)
class ScoredProblem:
    """A problem with its samples and the values of their tokens."""

    problem: Problem
    samples: tuple[Sample, ...]
    values: tuple[NDArray[np.float32], ...]  # of each sample, (tokens,)

    def judged(self, pooling: str = "last") -> list[Judged]:
        """The samples with their scores."""
        return [
            Judged(one.answer, one.correct, pool(pooling, values), one.logprob)
            for one, values in zip(self.samples, self.values, strict=True)
        ]


def score_samples(verifier: Verifier, samples: SampleSet, deadline: Deadline) -> Iterator[ScoredProblem]:
    """Score every problem that has samples, one after the other, until the deadline. Equal solutions are read once.

    Raises InputError if another model sampled them.
    """
    if samples.generator != verifier.facts.generator:
        raise InputError(
            f"a verifier of another generator: it judges samples of {verifier.facts.generator}, these are of {samples.generator}"
        )
    groups = samples.by_problem()
    for problem in samples.problems:
        if not groups[problem.id]:
            continue
        scored = score_problem(verifier, problem, groups[problem.id], deadline)
        if scored is None:
            return
        yield scored


def score_problem(verifier: Verifier, problem: Problem, samples: Sequence[Sample], deadline: Deadline) -> ScoredProblem | None:
    """Score samples of one problem; None: the deadline came first."""
    different = list(dict.fromkeys(one.ids for one in samples))
    prompt = np.array(problem.prompt, dtype=np.int32)
    values = verifier.values(prompt, [np.array(ids, dtype=np.int32) for ids in different], deadline)
    if values is None:
        return None
    by_ids = dict(zip(different, values, strict=True))
    return ScoredProblem(problem, tuple(samples), tuple(by_ids[one.ids] for one in samples))


def write_values(path: Path, generator: str, verifier: str, scored: Sequence[ScoredProblem]) -> None:
    """Write a file of values. Raises InputError if it cannot be written."""
    lines = [compact_json({"format": FORMAT, "generator": generator, "verifier": verifier})]
    for one in scored:
        values = [[round(float(value), 6) for value in row] for row in one.values]
        lines.append(compact_json({"problem": one.problem.id, "values": values}))
    try:
        replace_file(path, ("\n".join(lines) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path}: cannot write the values: {error.strerror or error}") from None


def read_values(path: Path, samples: SampleSet) -> list[ScoredProblem]:
    """Read a file of values for the samples that were scored.

    Raises InputError, which names the line, if it is damaged, is of another generator, or does not fit the samples.
    """
    lines = read_json_lines(path, "values")
    _, header = next(lines, (0, None))
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: line 1: not a file of values: the first line must name format {FORMAT!r}")
    if header.get("generator") != samples.generator:
        raise InputError(f"{path}: values of samples of another model: {header.get('generator')}, not {samples.generator}")
    problems = {problem.id: problem for problem in samples.problems}
    groups = samples.by_problem()
    scored = []
    for number, line in lines:
        where = f"{path}: line {number}"
        id_ = line.get("problem") if isinstance(line, dict) else None
        if id_ not in problems:
            raise InputError(f"{where}: not the values of a problem that the samples have")
        try:
            values = tuple(np.asarray(row, dtype=np.float32) for row in line["values"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where}: the values are not lists of numbers") from None
        if [len(row) for row in values] != [len(one.ids) for one in groups[id_]]:
            raise InputError(f"{where}: the values of problem {id_!r} are not those of its samples")
        scored.append(ScoredProblem(problems[id_], groups[id_], values))
    return scored


def progress(scored: Iterator[ScoredProblem], total: int, report: Callable[[str], None]) -> Iterator[ScoredProblem]:
    """Pass problems on, with a report every tenth of `total`."""
    for number, one in enumerate(scored, 1):
        yield one
        if number == total or number % max(1, total // 10) == 0:
            report(f"scored: {number} of {total} problems")
