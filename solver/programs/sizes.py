"""Prediction of output shapes: values of the search whose shapes are those of the outputs on every demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from solver.arc.grid import MAX_SIDE, Grid
from solver.programs.batch import Ints
from solver.programs.search import Search

MAX_FACTOR = 6  # of a side of the input, in formulas
MAX_MARGIN = 4  # cells added to it


@dataclass(frozen=True)
class Sizes:
    """The shapes of all outputs, (height, width) for each pair of the task, and how simple the reason for them is."""

    shapes: tuple[tuple[int, int], ...]
    cost: float


def predict_sizes(search: Search, inputs: Sequence[Grid], outputs: Sequence[Grid], limit: int = 3) -> list[Sizes]:
    """The likeliest shapes of all outputs, simplest first; those of `outputs`, of the first pairs, are known."""
    known = [output.shape for output in outputs]
    best: dict[tuple[tuple[int, int], ...], float] = {}
    support: dict[tuple[tuple[int, int], ...], int] = {}

    def offer(shapes: tuple[tuple[int, int], ...], cost: float) -> None:
        support[shapes] = support.get(shapes, 0) + 1
        best[shapes] = min(cost, best.get(shapes, cost))

    for shapes, cost in _formulas(inputs, known):
        offer(shapes, cost)
    rows = search.nodes["grid"].rows
    height, width = search.grids.height.array[rows], search.grids.width.array[rows]
    fits = (height[:, : len(known)] == [h for h, _ in known]).all(1) & (width[:, : len(known)] == [w for _, w in known]).all(1)
    for node in np.flatnonzero(fits)[:2000]:
        shapes = tuple(zip(height[node].tolist(), width[node].tolist(), strict=True))
        offer(shapes, float(search.nodes["grid"].cost.array[node]))
    ranked = sorted(best, key=lambda shapes: (best[shapes] - min(np.log2(support[shapes]), 4) / 4, shapes))
    return [Sizes(shapes, best[shapes]) for shapes in ranked[:limit]]


def formula_sizes(inputs: Sequence[Grid], outputs: Sequence[Grid]) -> Sizes | None:
    """The shapes of all outputs by the simplest formula, before any search."""
    found = _formulas(inputs, [output.shape for output in outputs])
    return Sizes(*min(found, key=lambda pair: pair[1])) if found else None


def _formulas(inputs: Sequence[Grid], known: Sequence[tuple[int, ...]]) -> list[tuple[tuple[tuple[int, int], ...], float]]:
    """Shapes by a formula for each side: constant, or a multiple of the input's side (or of the other side) plus a margin."""
    sides: list[list[tuple[Ints, float]]] = []
    for axis in (0, 1):
        target = np.array([shape[axis] for shape in known])
        found: list[tuple[Ints, float]] = []
        for source, extra in ((axis, 0.0), (1 - axis, 1.0)):
            side = np.array([grid.shape[source] for grid in inputs])
            for factor in range(1, MAX_FACTOR + 1):
                for margin in range(-MAX_MARGIN, MAX_MARGIN + 1):
                    value = side * factor + margin
                    if (value[: len(target)] == target).all():
                        found.append((value, extra + (factor > 1) + 1.5 * (margin != 0)))
        if (target == target[0]).all():
            found.append((np.full(len(inputs), target[0]), 1.2))
        found.sort(key=lambda pair: pair[1])
        sides.append(found[:3])
    return [
        (tuple(zip(high.tolist(), wide.tolist(), strict=True)), a + b)
        for high, a in sides[0]
        for wide, b in sides[1]
        if min(high.min(), wide.min()) >= 1 and max(high.max(), wide.max()) <= MAX_SIDE
    ]
