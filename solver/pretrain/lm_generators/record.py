"""The record of a corpus in the making: every completion with its code, verdict and pairs, so that a stopped call can go on.

It is JSON Lines. The first line is a header that names the format, the model and the options. Every other line is a prompt with
its completions, written at once. The file is not named .jsonl, because `solver pretrain` would take it for a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from solver.arc.datasets import parse_pairs
from solver.arc.grid import grid_json
from solver.arc.jsonfile import compact_json, cut_incomplete_line, read_json_lines
from solver.arc.task import Pair
from solver.errors import InputError
from solver.pretrain.lm_generators.verdicts import KEPT, REASONS

FORMAT = "solver-lm-generators-1"


@dataclass(frozen=True)
class Judged:
    """A completion and what became of it, before duplicates are dropped."""

    way: str  # how the prompt asked, see `lm_generators.prompts`
    shown: tuple[str, ...]  # names of the examples
    description: str
    code: str
    verdict: str  # KEPT, or one of REASONS
    detail: str
    pairs: tuple[Pair, ...]  # none unless it is KEPT


class Record:
    """Appends to the record of a corpus. It begins a new file, or goes on with one of the same model and options.

    A last line that a kill left incomplete is cut off. Raises InputError if the file is of another model or other options, is
    damaged, or cannot be written.
    """

    def __init__(self, path: Path, model: str, options: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[int] = set()  # numbers of prompts
        self._options = dict(options)
        self._header = {"format": FORMAT, "model": model, "options": self._options}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._begun = path.exists() and cut_incomplete_line(path)
            if self._begun:
                self._check()
                self.done = {number for number, _ in self.read()}
            self._file = path.open("ab")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None

    def add(self, number: int, completions: Sequence[Judged]) -> None:
        """Append a prompt with its completions. Raises InputError if the disk is full."""
        lines = [
            {
                "way": one.way,
                "shown": list(one.shown),
                "description": one.description,
                "code": one.code,
                "verdict": one.verdict,
                "detail": one.detail,
                "pairs": pairs_json(one.pairs),
            }
            for one in completions
        ]
        try:
            if not self._begun:  # so that a model that turns out to be unusable leaves no header
                self._write(self._header)
            self._begun = True
            self._write({"prompt": number, "completions": lines})
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self.done.add(number)

    def read(self) -> Iterator[tuple[int, tuple[Judged, ...]]]:
        """(number, completions) of every prompt, one at a time. Raises InputError naming the first bad line."""
        lines = read_json_lines(self.path, "record")
        next(lines, None)  # the header
        for number, line in lines:
            try:
                yield int(line["prompt"]), tuple(map(_judged, line["completions"]))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{self.path}: line {number}: not completions of a prompt: {error}") from None

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if not self._begun:
            self.path.unlink(missing_ok=True)

    def _check(self) -> None:
        """Raises InputError unless the file begins with the header."""
        header = self._header
        _, found = next(read_json_lines(self.path, "record"))
        if found == header:
            return
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{self.path}: not a record of written generators")
        if found.get("model") != header["model"]:
            raise InputError(f"{self.path}: another model wrote these generators: give the same one, or another OUT")
        before = found.get("options")
        other = [name for name, value in self._options.items() if not isinstance(before, dict) or before.get(name) != value]
        raise InputError(f"{self.path}: was written with other options ({', '.join(other)}): give the same ones, or another OUT")

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write((compact_json(line) + "\n").encode())
        self._file.flush()


def pairs_json(pairs: Sequence[Pair]) -> list[dict[str, list[list[int]]]]:
    """Pairs as corpus files hold them."""
    return [{"input": grid_json(pair.input), "output": grid_json(pair.output)} for pair in pairs if pair.output is not None]


def _judged(line: Any) -> Judged:
    """The completion that a line holds. Raises KeyError, TypeError or ValueError if there is none."""
    verdict, pairs = str(line["verdict"]), line["pairs"]
    if verdict != KEPT and verdict not in REASONS:
        raise ValueError(f"no verdict {verdict!r}")
    return Judged(
        str(line["way"]),
        tuple(map(str, line["shown"])),
        str(line["description"]),
        str(line["code"]),
        verdict,
        str(line["detail"]),
        tuple(parse_pairs({"pairs": pairs}, "pairs")) if pairs else (),
    )
