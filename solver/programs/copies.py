"""Copies of a task: the same task transposed, or with its colours exchanged, for a search that looks at it differently.

Which colours are exchanged depends on the input of a pair alone, so answers can be changed back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solver.arc.grid import COLOURS, Grid
from solver.arc.task import Pair, Task
from solver.arc.view import View
from solver.programs.batch import Ints

RARE, COMMON = 0.05, 0.4  # shares of an input's cells


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of a task; test outputs are left out."""

    name: str
    train: tuple[Pair, ...]
    tests: tuple[Grid, ...]
    view: View
    colours: Ints  # (pairs, 10): what replaces each colour of each pair, demonstrations first

    def undo(self, grids: tuple[Grid, ...]) -> tuple[Grid, ...]:
        """Answers to the copy's tests as answers to the task's."""
        back = [np.argsort(colours).astype(np.uint8) for colours in self.colours[len(self.train) :]]
        return tuple(table[self.view.undo(grid)] for table, grid in zip(back, grids, strict=True))


def _make(task: Task, name: str, view: View, colours: Ints) -> Copy:
    tables = colours.astype(np.uint8)
    pairs = [
        Pair(view.apply_grid(table[pair.input]), None if pair.output is None else view.apply_grid(table[pair.output]))
        for table, pair in zip(tables, task.train, strict=False)
    ]
    tests = [view.apply_grid(table[pair.input]) for table, pair in zip(tables[len(pairs) :], task.test, strict=True)]
    return Copy(name, tuple(pairs), tuple(tests), view, colours)


def copies(task: Task) -> list[Copy]:
    """The 2 to 4 copies to search, the most promising first.

    With the background as 0; the same transposed; with colours ranked by their frequency; as the task is. The last two only where
    they differ from the first.
    """
    inputs = [pair.input for pair in (*task.train, *task.test)]
    counts = np.array([np.bincount(grid.ravel(), minlength=COLOURS) for grid in inputs])
    same = np.tile(np.arange(COLOURS), (len(inputs), 1))
    background = _exchanged(same, _backgrounds(counts))
    first = _make(task, "plain" if np.array_equal(background, same) else "background", View(), background)
    found = [first, _make(task, "turned", View("transpose"), background)]
    ranked = _by_frequency(counts, background)
    if not np.array_equal(ranked, background):
        found.append(_make(task, "ranked", View(), ranked))
    if first.name != "plain":
        found.append(_make(task, "plain", View(), same))
    return found


def _backgrounds(counts: Ints) -> Ints:
    """The background colour of each input: its most frequent one if 0 is rare in all, or if it is the same in all."""
    share = counts / counts.sum(1, keepdims=True)
    most = counts.argmax(1)
    rare = (share[:, 0] < RARE).all()
    same = (most == most[0]).all() and (share[:, 0] < share.max(1) / 2).all()
    if (rare or same) and (share.max(1) > COMMON).all():
        return most
    return np.zeros(len(counts), np.int64)


def _exchanged(same: Ints, background: Ints) -> Ints:
    tables = same.copy()
    pairs = np.arange(len(tables))
    tables[pairs, background] = 0
    tables[pairs, 0] = background
    return tables


def _by_frequency(counts: Ints, background: Ints) -> Ints:
    """Colours but the background renamed 1, 2, ... from the most to the least frequent; those not in the input last."""
    tables = background.copy()
    for pair, count in enumerate(counts):
        others = [c for c in range(COLOURS) if background[pair, c] != 0]
        for rank, colour in enumerate(sorted(others, key=lambda c: (-count[c], c))):
            tables[pair, colour] = rank + 1
    return tables
