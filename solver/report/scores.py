"""Results of evaluations: rows that are appended to a file and shown as Markdown. Nothing is measured here.

A row is one line of JSON, so the rows of many days and machines can be collected in one file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from solver.errors import InputError

_Z = 1.96  # standard errors each side of a 95 % interval


def wilson(hits: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); everything if nothing was counted."""
    if not total:
        return 0.0, 1.0
    p, z = hits / total, _Z
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    reach = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(0.0, min(p, middle - reach)), min(1.0, max(p, middle + reach))


def share_text(hits: float, total: int) -> str:
    """A share and its 95 % interval, in percent: `52.5 % (45.6 to 59.3)`."""
    low, high = wilson(hits, total)
    return f"{100 * hits / max(1, total):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True)
class TaskRow:
    """One run of a model over tasks whose answers are known. Counts are (solved, of)."""

    model: str  # as it was named
    identity: str  # digest of the model
    tasks: str  # which tasks, in words
    budget: str  # as it was asked for; "0": no test-time training, no clock
    seed: int
    seconds: float  # wall clock of the run
    hardware: str
    commit: str  # with "+" at its end if files were changed
    pass_at_1: tuple[int, int]  # test inputs, first attempt
    pass_at_2: tuple[int, int]  # test inputs, either attempt
    tasks_solved: tuple[int, int]  # tasks, all test inputs, either attempt
    recipe: str = "default"
    settings: tuple[str, ...] = ()  # overrides of the recipe


@dataclass(frozen=True)
class HeldOutRow:
    """Queries of families that were never trained on, answered greedily without any fitting."""

    model: str
    identity: str
    steps: int | None  # of the training; None: the folder does not say
    trained_tokens: int | None  # that the training had read; None: the folder does not say
    seed: int
    families: int
    queries: int
    exact: int  # answers right to the last cell
    tokens: int  # of the answers
    right: int  # tokens predicted correctly
    nats: float  # summed over the tokens
    hardware: str
    commit: str
    corpora: Mapping[str, Mapping[str, float]]  # the same counts by corpus
    data: str = ""  # digest of the corpus files; empty in rows from before it was kept


Row = TypeVar("Row")  # a data class


def append_row(path: Path, row: Any) -> None:
    """Add a row, an instance of a data class, to a file. Raises InputError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file, none if there is no file. Raises InputError naming a line that is no such row."""
    if not path.exists():
        return []
    rows = []
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found = json.loads(line)
            rows.append(kind(**{name: _plain(value) for name, value in found.items() if name in names}))
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: line {number} is not a row of this table: {error}") from None
    return rows


def task_table(rows: Iterable[TaskRow]) -> str:
    """Markdown: a line a run, the same tasks together, shares with their 95 % intervals."""
    lines = [
        "| tasks | budget | model | pass@1 | pass@2 | tasks solved | seed | hardware | commit |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row.tasks, row.identity)):
        budget = "no test-time training" if row.budget == "0" else row.budget
        extra = "".join(
            f", `{text}`" for text in (*([f"--recipe {row.recipe}"] if row.recipe != "default" else []), *row.settings)
        )
        shares = (_counted(*counts) for counts in (row.pass_at_1, row.pass_at_2, row.tasks_solved))
        cells = (
            row.tasks,
            budget + extra,
            _named(row.model, row.identity),
            *shares,
            str(row.seed),
            row.hardware,
            _short(row.commit),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def held_out_table(rows: Iterable[HeldOutRow]) -> str:
    """Markdown: a line a checkpoint, in the order of what they were trained on."""
    head = (
        "tokens read",
        "steps",
        "greedy answer exact",
        "queries, families",
        "tokens right",
        "nats a token",
        "seed",
        "model",
        "commit",
    )
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in sorted(rows, key=lambda row: row.trained_tokens or -1):
        cells = (
            "?" if row.trained_tokens is None else f"{row.trained_tokens / 1e6:.2f}M",
            "?" if row.steps is None else f"{row.steps:,}",
            _counted(row.exact, row.queries),
            f"{row.queries:,}, {row.families:,}",
            f"{row.right / row.tokens:.1%}",
            f"{row.nats / row.tokens:.4f}",
            str(row.seed),
            _named(row.model, row.identity),
            _short(row.commit),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """The machine in a few words, from `summary.json`'s account of it."""
    cpu = " ".join(str(hardware.get("cpu") or "?").replace("Processor", "").split())
    device = str(hardware.get("device", "cpu"))
    if device != "cpu":
        return device
    return f"{hardware.get('threads', '?')} of {hardware.get('cores', '?')} cores, {cpu}"


def _counted(hits: int, total: int) -> str:
    low, high = wilson(hits, total)
    return f"{hits} of {total}: {hits / max(1, total):.1%} ({low:.1%} to {high:.1%})"


def _named(model: str, identity: str) -> str:
    return f"{model} {identity[:8]}"


def _short(commit: str) -> str:
    return commit[:7] + ("+" if commit.endswith("+") else "")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
