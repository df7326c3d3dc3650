"""The results of an experiment: one file of JSON lines, a row for each arm and task. What has a row is not measured again.

A row is written with one call. The end of a file that a crash left in the middle of a line is cut off when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from solver.arc.jsonfile import cut_incomplete_line
from solver.arc.task import Task
from solver.config import Settings
from solver.errors import InputError
from solver.experiments.tasks import content_digest
from solver.report.scores import append_row, read_rows
from solver.run.identity import answer_settings

RESULTS = "results.jsonl"
LOSSES = "losses.jsonl"
_TOGETHER = "train.shared"  # with this setting an answer depends on all tasks of the run, not on its own task alone


@dataclass(frozen=True)
class ResultRow:
    """What an arm made of a task. Booleans are by test input."""

    key: str  # of `row_key`: what the answers depend on besides the task
    content: str  # digest of the task
    task: str
    arm: str  # its name in the table that measured it
    table: str
    model: str
    seed: int
    solved: tuple[bool, ...]  # one of two attempts is right, or, for an oracle, any candidate
    first: tuple[bool, ...]  # the first attempt is right; of an oracle, the same as `solved`
    candidates: int
    status: str  # of the pass: "complete" or "failed"
    steps: int  # optimizer steps
    tokens: int  # trained on
    seconds: float  # of the pass
    hardware: str
    commit: str


@dataclass(frozen=True)
class LossRow:
    """The loss of the true answers of a task under the adapter of an arm, by test input: the mean over the views."""

    key: str
    content: str
    task: str
    nats: tuple[float, ...]  # of the whole answer
    tokens: tuple[int, ...]  # of the answer
    hardware: str
    commit: str


class ResultFile:
    """The rows of a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError if the folder cannot be used, or holds a line that is no row."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (RESULTS, LOSSES):
                if (folder / name).exists():
                    cut_incomplete_line(folder / name)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
        self._rows = {(row.key, row.content): row for row in read_rows(folder / RESULTS, ResultRow)}
        self._losses = {(row.key, row.content): row for row in read_rows(folder / LOSSES, LossRow)}

    def row(self, key: str, content: str) -> ResultRow | None:
        """The row of an arm and a task, if it was measured."""
        return self._rows.get((key, content))

    def loss(self, key: str, content: str) -> LossRow | None:
        """The loss of an arm and a task, if it was measured."""
        return self._losses.get((key, content))

    def add(self, row: ResultRow) -> None:
        """Write a row that the file lacks. Raises InputError if it cannot be written."""
        if (row.key, row.content) not in self._rows:
            append_row(self._folder / RESULTS, row)
            self._rows[row.key, row.content] = row

    def add_loss(self, row: LossRow) -> None:
        """Write a loss. Raises InputError if it cannot be written."""
        append_row(self._folder / LOSSES, row)
        self._losses[row.key, row.content] = row


def row_key(settings: Settings, model: str, oracle: bool, tasks: Sequence[Task]) -> str:
    """A digest of what decides the results of an arm: settings, model, how it is counted; for a shared adapter the tasks, too."""
    known = answer_settings(settings)
    facts = {
        "settings": known,
        "trainer": settings.train.trainer,
        "seed": settings.seed,
        "rule": settings.select.rule,
        "waves": list(settings.budget.fixed_waves),
        "model": model,
        "oracle": oracle,
        "together": content_digest(sorted(tasks, key=lambda task: task.id)) if known[_TOGETHER] else "",
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
