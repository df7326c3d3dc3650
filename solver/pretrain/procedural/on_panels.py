"""Primitives that take or give panels (equal parts of a grid between dividing lines), numbers or colours."""

from __future__ import annotations

from typing import Literal

import numpy as np

from solver.arc.grid import Grid, grid_key
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import (
    Axis,
    Colour,
    Number,
    Order,
    Panels,
    Special,
    cells_by_colour,
    colour_by_cells,
    require,
)

# panels


@primitive("panels", weight=5)
def split(grid: Grid, divider: Special) -> Panels:
    """Split a grid at its full dividing lines into panels. Raises Unfit unless all panels have one size."""
    rows = np.flatnonzero(~(grid == divider).all(axis=1))
    columns = np.flatnonzero(~(grid == divider).all(axis=0))
    bands = [np.split(line, np.flatnonzero(np.diff(line) > 1) + 1) for line in (rows, columns)]
    require(len({len(band) for band in bands[0]}) == 1 and len({len(band) for band in bands[1]}) == 1)
    require(len(bands[0]) * len(bands[1]) > 1)
    parts = tuple(grid[r[0] : r[-1] + 1, c[0] : c[-1] + 1] for r in bands[0] for c in bands[1])
    return Panels((len(bands[0]), len(bands[1])), parts)


@primitive(leaves=("motif",))
def combine(panels: Panels, rule: Literal["and", "or", "xor", "nor", "first_only", "second_only"], colour: Colour) -> Grid:
    """Combine two panels: colour each cell for which a logical rule holds; filled cells count as true."""
    require(len(panels.grids) == 2)
    a, b = (grid > 0 for grid in panels.grids)
    held = {"and": a & b, "or": a | b, "xor": a ^ b, "nor": ~(a | b), "first_only": a & ~b, "second_only": b & ~a}[rule]
    return np.where(held, np.uint8(colour), np.uint8(0))


@primitive(leaves=("motif",))
def superpose(panels: Panels, order: Literal["forward", "backward"]) -> Grid:
    """Lay all panels over each other, the last one (or the first one) on top."""
    result = np.zeros_like(panels.grids[0])
    for grid in panels.grids if order == "forward" else panels.grids[::-1]:
        result = np.where(grid > 0, grid, result)
    return result


@primitive()
def vote(panels: Panels, colour: Colour) -> Grid:
    """Colour the cells that are filled in more than half of three or more panels."""
    require(len(panels.grids) > 2)
    return np.where(2 * sum((g > 0).astype(int) for g in panels.grids) > len(panels.grids), np.uint8(colour), np.uint8(0))


@primitive("odd", leaves=("motif",), weight=3)
def odd_panel(panels: Panels) -> Grid:
    """Crop the only panel that differs, where all others are equal."""
    keys = [grid_key(grid) for grid in panels.grids]
    require(len(keys) > 2 and len(set(keys)) == 2)
    odd = [grid for grid, key in zip(panels.grids, keys, strict=True) if keys.count(key) == 1]
    require(odd)
    return odd[0]


@primitive(leaves=("motif",))
def panel_by_cells(panels: Panels, rank: Literal["most", "least"]) -> Grid:
    """Crop the panel with the most (or the fewest) filled cells."""
    counts = [int((grid > 0).sum()) for grid in panels.grids]
    best = max(counts) if rank == "most" else min(counts)
    require(counts.count(best) == 1)
    return panels.grids[counts.index(best)]


@primitive("mirror", leaves=("motif",), weight=3)
def symmetric_panel(panels: Panels) -> Grid:
    """Crop the only panel whose left half mirrors its right half."""
    mirrored = [grid for grid in panels.grids if np.array_equal(grid, grid[:, ::-1])]
    require(len(mirrored) == 1)
    return mirrored[0]


@primitive()
def panel_chart(panels: Panels, colour: Colour) -> Grid:
    """Draw one cell for each panel, coloured if no other panel has more filled cells."""
    counts = np.array([int((grid > 0).sum()) for grid in panels.grids]).reshape(panels.layout)
    require(counts.min() < counts.max())
    return np.where(counts == counts.max(), np.uint8(colour), np.uint8(0))


@primitive()
def sort_panels(panels: Panels) -> Grid:
    """Join panels that lie in one row or column, sorted from fewest to most filled cells, without dividing lines."""
    require(1 in panels.layout)
    counts = [int((grid > 0).sum()) for grid in panels.grids]
    require(len(set(counts)) == len(counts))
    return np.concatenate([panels.grids[i] for i in np.argsort(counts)], axis=0 if panels.layout[1] == 1 else 1)


@primitive()
def join_panels(panels: Panels) -> Grid:
    """Join the panels without dividing lines."""
    rows, columns = panels.layout
    return np.block([[panels.grids[r * columns + c] for c in range(columns)] for r in range(rows)])


# numbers and colours


@primitive("motif")
def count_colours(grid: Grid) -> Number:
    """Count the colours of a grid."""
    return Number(len(np.unique(grid[grid > 0])))


@primitive("motif")
def count_cells(grid: Grid) -> Number:
    """Count the filled cells of a grid."""
    return Number(int((grid > 0).sum()))


@primitive()
def bar(number: Number, colour: Colour, axis: Axis) -> Grid:
    """Draw a row or column of that many cells."""
    require(0 < number <= 30)
    return np.full((1, number) if axis == "rows" else (number, 1), colour, dtype=np.uint8)


@primitive()
def diagonal(number: Number, colour: Colour) -> Grid:
    """Draw the falling diagonal of a square grid with that side."""
    require(0 < number <= 10)
    return (np.eye(number) * colour).astype(np.uint8)


@primitive()
def staircase(number: Number, colour: Colour) -> Grid:
    """Draw a square grid with that side whose n-th row has its first n cells filled."""
    require(0 < number <= 10)
    return (np.tri(number) * colour).astype(np.uint8)


@primitive()
def board(number: Number, colour: Colour) -> Grid:
    """Fill that many cells of a 3x3 grid in reading order."""
    require(0 < number <= 9)
    return np.where(np.arange(9) < number, np.uint8(colour), np.uint8(0)).reshape(3, 3)


@primitive()
def gauge(number: Number, length: Literal[5, 6, 8, 10], colour: Colour) -> Grid:
    """Fill that many cells of a row of fixed length from the left."""
    require(0 < number <= length)
    return np.where(np.arange(length) < number, np.uint8(colour), np.uint8(0))[None]


@primitive()
def chessboard(number: Number, colour: Colour) -> Grid:
    """Draw a chessboard pattern with that side."""
    require(0 < number <= 10)
    return np.where(np.indices((number, number)).sum(axis=0) % 2 == 0, np.uint8(colour), np.uint8(0))


@primitive()
def target(number: Number, outer: Colour, inner: Colour) -> Grid:
    """Draw a square of that many concentric rings in two alternating colours; the innermost is one cell."""
    require(0 < number <= 6)
    place = np.indices((2 * number - 1, 2 * number - 1)) - (number - 1)
    return np.where(np.abs(place).max(axis=0) % 2 == 0, np.uint8(inner), np.uint8(outer))


@primitive("motif")
def cell_colour(grid: Grid, rank: Literal["commonest", "rarest"]) -> Colour:
    """Give the most (or least) frequent colour of a grid."""
    return Colour(colour_by_cells(grid, rank))


@primitive()
def swatch(colour: Colour, rows: Literal[1, 2, 3], columns: Literal[1, 2, 3]) -> Grid:
    """Draw a small rectangle of one colour."""
    return np.full((rows, columns), colour, dtype=np.uint8)


@primitive()
def emblem(colour: Colour, shape: Literal["ring", "plus", "cross", "corner"]) -> Grid:
    """Draw a 3x3 sign in one colour."""
    drawn = {
        "ring": [[1, 1, 1], [1, 0, 1], [1, 1, 1]],
        "plus": [[0, 1, 0], [1, 1, 1], [0, 1, 0]],
        "cross": [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
        "corner": [[1, 0, 0], [1, 0, 0], [1, 1, 1]],
    }[shape]
    return (np.array(drawn) * colour).astype(np.uint8)


@primitive("quilt", weight=4)
def split_even(grid: Grid, parts: Literal[2, 3, 4]) -> Panels:
    """Split a grid into equal panels side by side."""
    require(grid.shape[1] % parts == 0)
    return Panels((1, parts), tuple(np.split(grid, parts, axis=1)))


@primitive(weight=0.5)
def flip_panels(panels: Panels, axis: Axis) -> Panels:
    """Mirror every panel within itself."""
    return Panels(panels.layout, tuple(grid[::-1] if axis == "rows" else grid[:, ::-1] for grid in panels.grids))


@primitive(weight=0.5)
def mark_difference(panels: Panels, colour: Colour) -> Grid:
    """Crop the first of two panels, and recolour its filled cells that are also filled in the second."""
    require(len(panels.grids) == 2)
    first, second = panels.grids
    return np.where((first > 0) & (second > 0), np.uint8(colour), first)


@primitive("motif")
def colour_chart(grid: Grid, order: Order) -> Grid:
    """Draw one bar for each colour, as long as its number of cells, sorted by length."""
    counts = cells_by_colour(grid)
    colours = sorted(np.flatnonzero(counts).tolist(), key=lambda c: int(counts[c]), reverse=order == "descending")
    require(len(colours) > 1 and len({int(counts[c]) for c in colours}) == len(colours) and counts.max() <= 12)
    return np.array([[c if i < counts[c] else 0 for i in range(int(counts.max()))] for c in colours], dtype=np.uint8)


@primitive("motif")
def colour_list(grid: Grid, order: Order) -> Grid:
    """List the colours of a grid in a column, sorted by their numbers of cells."""
    return colour_chart(grid, order)[:, :1]
