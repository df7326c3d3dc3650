"""The file of samples: problems, and solutions that a generator sampled for them, labelled by their final answers.

It is JSON Lines. The first line is a header that names the format and the generator. Every other line is a problem or a sample of
a problem that an earlier line has. A file grows at its end, so that sampling which was stopped can go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from solver.arc.jsonfile import compact_json, cut_incomplete_line, read_json_lines
from solver.errors import InputError

FORMAT = "solver-samples-1"


@dataclass(frozen=True)
class Problem:
    """A question with its reference answer."""

    id: str
    prompt: tuple[int, ...]  # token ids of the question, as the generator saw it
    answer: str  # the reference, normalised


@dataclass(frozen=True)
class Sample:
    """One sampled solution. `correct` says that its final answer is the reference, not that every step of it is right."""

    problem: str  # Problem.id
    text: str
    ids: tuple[int, ...]  # token ids of the solution, end token included
    logprob: float  # of `ids`, in nats, at temperature 1
    answer: str | None  # its final answer, normalised; None: it has none
    correct: bool


@dataclass(frozen=True)
class SampleSet:
    """The content of a file of samples."""

    generator: str  # fingerprint of the model that sampled: `solver.model.folder.folder_identity` of its folder
    problems: tuple[Problem, ...]
    samples: tuple[Sample, ...]

    def by_problem(self) -> dict[str, tuple[Sample, ...]]:
        """The samples of every problem, in the order of the file. A problem without samples has an empty tuple."""
        found: dict[str, list[Sample]] = {problem.id: [] for problem in self.problems}
        for sample in self.samples:
            found[sample.problem].append(sample)
        return {id_: tuple(samples) for id_, samples in found.items()}


class SamplesWriter:
    """Appends to a file of samples. It begins a new file, or continues one of the same generator: `done` is what that holds.

    A last line that a kill left incomplete is cut off. Raises InputError if the file is of another generator or damaged.
    """

    def __init__(self, path: Path, generator: str) -> None:
        self.done = SampleSet(generator, (), ())
        self._file: BinaryIO
        try:
            if path.exists() and cut_incomplete_line(path):
                self.done = read_samples(path, generator)
                self._file = path.open("ab")
            else:
                self._file = path.open("wb")
                self._write([{"format": FORMAT, "generator": generator}])
        except OSError as error:
            raise InputError(f"{path}: cannot write the samples: {error.strerror or error}") from None
        self._problems = {problem.id for problem in self.done.problems}

    def add(self, problem: Problem, samples: Iterable[Sample]) -> None:
        """Append samples of `problem`, and before them the problem if the file does not have it. Raises OSError."""
        lines: list[dict[str, Any]] = []
        if problem.id not in self._problems:
            lines.append({"problem": asdict(problem)})
            self._problems.add(problem.id)
        for sample in samples:
            if sample.problem != problem.id:
                raise ValueError(f"a sample of problem {sample.problem} was added to problem {problem.id}")
            lines.append({"sample": asdict(sample)})
        self._write(lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> SamplesWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        self._file.write("".join(compact_json(line) + "\n" for line in lines).encode())
        self._file.flush()


def write_samples(path: Path, samples: SampleSet) -> None:
    """Write a whole file of samples in place of what `path` holds. Raises InputError if it cannot be written."""
    path.unlink(missing_ok=True)
    with SamplesWriter(path, samples.generator) as writer:
        groups = samples.by_problem()
        for problem in samples.problems:
            writer.add(problem, groups[problem.id])


def read_samples(path: Path, generator: str | None = None) -> SampleSet:
    """Read a file of samples. `generator`: the fingerprint of the model that must have sampled it; None: any.

    Raises InputError, which names the line, if the file is damaged or has another format, and if another model sampled it.
    """
    lines = read_json_lines(path, "samples")
    number, header = next(lines, (0, None))
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("generator"), str):
        raise InputError(
            f"{path}: line {number or 1}: not a file of samples: the first line must name format {FORMAT!r} and generator"
        )
    if generator is not None and header["generator"] != generator:
        raise InputError(f"{path}: samples of another model: {header['generator']} sampled them, this is {generator}")
    problems: dict[str, Problem] = {}
    samples: list[Sample] = []
    for number, line in lines:
        where = f"{path}: line {number}"
        if not isinstance(line, dict) or len(line) != 1 or not line.keys() <= {"problem", "sample"}:
            raise InputError(f"{where}: neither a problem nor a sample")
        if "problem" in line:
            problem = Problem(**_checked(line["problem"], Problem, where))
            if problem.id in problems:
                raise InputError(f"{where}: problem {problem.id!r} is there twice")
            if not problem.answer:
                raise InputError(f"{where}: problem {problem.id!r} has no answer")
            problems[problem.id] = problem
            continue
        sample = Sample(**_checked(line["sample"], Sample, where))
        if sample.problem not in problems:
            raise InputError(f"{where}: a sample of problem {sample.problem!r}, which no earlier line has")
        samples.append(sample)
    return SampleSet(header["generator"], tuple(problems.values()), tuple(samples))


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "float": (int, float),
    "bool": (bool,),
    "str | None": (str, type(None)),
}


def _checked(value: Any, cls: type, where: str) -> dict[str, Any]:
    """The fields of a line's object, of the types that the data class `cls` says. Raises InputError naming the first bad one."""
    name = cls.__name__.lower()
    if not isinstance(value, dict):
        raise InputError(f"{where}: the {name} is not an object")
    known = {field.name: str(field.type) for field in fields(cls)}
    if value.keys() != known.keys():
        different = sorted(known.keys() ^ value.keys())[0]
        problem = "is missing" if different in known else "is unknown"
        raise InputError(f"{where}: field {different!r} of the {name} {problem}")
    checked: dict[str, Any] = {}
    for key, kind in known.items():
        given = value[key]
        if kind == "tuple[int, ...]":
            if not isinstance(given, list) or not all(type(id_) is int and 0 <= id_ < 2**31 for id_ in given):
                raise InputError(f"{where}: field {key!r} of the {name} is not a list of token ids")
            checked[key] = tuple(given)
            continue
        if not isinstance(given, _TYPES[kind]) or (isinstance(given, bool) and kind != "bool"):
            raise InputError(f"{where}: field {key!r} of the {name} has the wrong type")
        checked[key] = float(value[key]) if kind == "float" else given
    return checked
