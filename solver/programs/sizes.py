"""Prediction of output shapes: by formulas of the inputs' sides, and by values of the search, that fit every demonstration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solver.arc.grid import MAX_SIDE, Grid
from solver.programs.batch import Ints
from solver.programs.search import Search

MAX_FACTOR = 6  # of a side of the input, in formulas
MAX_MARGIN = 4  # cells added to it, or taken away
MAX_PREDICTIONS = 2
MAX_VALUES = 2000  # of the search, the cheapest that fit

Shapes = tuple[tuple[int, int], ...]  # (height, width) of the output of each pair of a task


def predict_shapes(search: Search, inputs: Sequence[Grid], outputs: Sequence[Grid]) -> list[Shapes]:
    """The likeliest shapes of all outputs, simplest first; those of `outputs`, of the first pairs, are known."""
    known = [output.shape for output in outputs]
    best: dict[Shapes, float] = {}
    support: dict[Shapes, int] = {}

    def offer(shapes: Shapes, cost: float) -> None:
        support[shapes] = support.get(shapes, 0) + 1
        best[shapes] = min(cost, best.get(shapes, cost))

    for shapes, cost in _formulas(inputs, known):
        offer(shapes, cost)
    rows = search.nodes["grid"].rows
    height, width = search.grids.height.array[rows], search.grids.width.array[rows]
    fits = (height[:, : len(known)] == [h for h, _ in known]).all(1) & (width[:, : len(known)] == [w for _, w in known]).all(1)
    for node in np.flatnonzero(fits)[:MAX_VALUES]:
        shapes = tuple(zip(height[node].tolist(), width[node].tolist(), strict=True))
        offer(shapes, float(search.nodes["grid"].cost.array[node]))
    # the cost of the cheapest reason, up to 1 less for 16 or more reasons
    return sorted(best, key=lambda shapes: (best[shapes] - min(np.log2(support[shapes]), 4) / 4, shapes))[:MAX_PREDICTIONS]


def shapes_by_formula(inputs: Sequence[Grid], outputs: Sequence[Grid]) -> Shapes | None:
    """The shapes of all outputs by the simplest formula, before any search."""
    found = _formulas(inputs, [output.shape for output in outputs])
    return min(found, key=lambda pair: pair[1])[0] if found else None


def _formulas(inputs: Sequence[Grid], known: Sequence[tuple[int, ...]]) -> list[tuple[Shapes, float]]:
    """Shapes and their costs, by a formula for each side: constant, or a multiple of a side of the input plus a margin."""
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
