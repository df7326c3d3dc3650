"""The guard against leakage: no pair of an ARC-AGI evaluation task, and no task named after one, enters a training corpus.

A pair is recognised in any orientation and colours by its canonical form: in each of its eight dihedral transforms the colours
are renamed in order of first appearance, and the smallest result counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from solver.arc.grid import COLOURS, Grid
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, transform_grid

HELD_OUT_ONE_IN = 20  # families


def canonical_key(pair: Pair) -> bytes:
    """A key that is equal for two pairs if and only if a dihedral transform and a renaming of colours turn one into the other."""
    assert pair.output is not None
    return min(_renamed(transform_grid(pair.input, t), transform_grid(pair.output, t)) for t in TRANSFORMS)


def invariant_key(pair: Pair) -> tuple[object, ...]:
    """A cheap key that is equal for pairs with equal canonical keys, and usually different for others."""
    assert pair.output is not None
    counts = sorted(
        zip(
            np.bincount(pair.input.reshape(-1), minlength=COLOURS).tolist(),
            np.bincount(pair.output.reshape(-1), minlength=COLOURS).tolist(),
            strict=True,
        )
    )
    shapes = min((pair.input.shape, pair.output.shape), (pair.input.shape[::-1], pair.output.shape[::-1]))
    return (shapes, tuple(counts))


@dataclass(frozen=True)
class Guard:
    """What must not be trained on: task ids, and the canonical forms of all their pairs."""

    ids: frozenset[str]
    keys: frozenset[bytes]
    invariants: frozenset[tuple[object, ...]]

    @staticmethod
    def against(tasks: Iterable[Task]) -> Guard:
        """A guard against the ids of tasks and all their pairs with known outputs."""
        tasks = list(tasks)
        pairs = [pair for task in tasks for pair in (*task.train, *task.test) if pair.output is not None]
        return Guard(
            frozenset(task.id for task in tasks),
            frozenset(canonical_key(pair) for pair in pairs),
            frozenset(invariant_key(pair) for pair in pairs),
        )

    @property
    def identity(self) -> str:
        """A digest of the guarded ids and pairs."""
        digest = hashlib.sha256()
        for part in (*(id_.encode() for id_ in sorted(self.ids)), *sorted(self.keys)):
            digest.update(len(part).to_bytes(4, "little") + part)
        return digest.hexdigest()

    def bars_name(self, name: str) -> bool:
        """Whether a name is the id of a guarded task, or contains one as a word of its own (`task_00576224-v2`)."""
        return name in self.ids or any(word in self.ids for word in re.split(r"[^0-9a-z]+", name.lower()))

    def bars_pair(self, pair: Pair) -> bool:
        """Whether a guarded task has the pair, in any orientation and colours."""
        return invariant_key(pair) in self.invariants and canonical_key(pair) in self.keys


def held_out(family: str) -> bool:
    """Whether a family is kept out of training for evaluation: a fixed pseudo-random twentieth, by its id in any corpus."""
    return int.from_bytes(hashlib.sha256(family.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def _renamed(shown: Grid, output: Grid) -> bytes:
    """Shapes and cells of a pair, its colours renamed in order of first appearance."""
    cells = np.concatenate([shown.reshape(-1), output.reshape(-1)])
    _, first, inverse = np.unique(cells, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.uint8)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.uint8)
    return bytes((*shown.shape, *output.shape)) + rank[inverse].tobytes()
