"""Primitives over panels (equal parts of a grid between dividing lines), numbers and colours."""

from __future__ import annotations

from typing import Literal

import numpy as np

from solver.arc.grid import Grid, grid_key
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import Axis, Colour, Number, Order, Panels, Special, require

# panels


@primitive("panels", weight=5)
def split(grid: Grid, divider: Special) -> Panels:
    """The parts of a grid between its full dividing lines; all of one size."""
    rows = np.flatnonzero(~(grid == divider).all(axis=1))
    columns = np.flatnonzero(~(grid == divider).all(axis=0))
    bands = [np.split(line, np.flatnonzero(np.diff(line) > 1) + 1) for line in (rows, columns)]
    require(len({len(band) for band in bands[0]}) == 1 and len({len(band) for band in bands[1]}) == 1)
    require(len(bands[0]) * len(bands[1]) > 1)
    parts = tuple(grid[r[0] : r[-1] + 1, c[0] : c[-1] + 1] for r in bands[0] for c in bands[1])
    return Panels((len(bands[0]), len(bands[1])), parts)


@primitive(leaves=("motif",))
def combine(panels: Panels, rule: Literal["and", "or", "xor", "nor", "first_only", "second_only"], colour: Colour) -> Grid:
    """One panel whose cells have a colour where the rule holds for the filled cells of two panels."""
    require(len(panels.grids) == 2)
    a, b = (grid > 0 for grid in panels.grids)
    held = {"and": a & b, "or": a | b, "xor": a ^ b, "nor": ~(a | b), "first_only": a & ~b, "second_only": b & ~a}[rule]
    return np.where(held, np.uint8(colour), np.uint8(0))


@primitive(leaves=("motif",))
def superpose(panels: Panels, order: Literal["forward", "backward"]) -> Grid:
    """All panels laid over each other, the last (or the first) on top."""
    result = np.zeros_like(panels.grids[0])
    for grid in panels.grids if order == "forward" else panels.grids[::-1]:
        result = np.where(grid > 0, grid, result)
    return result


@primitive()
def vote(panels: Panels, colour: Colour) -> Grid:
    """One panel whose cells have a colour where more than half of the panels are filled."""
    require(len(panels.grids) > 2)
    return np.where(2 * sum((g > 0).astype(int) for g in panels.grids) > len(panels.grids), np.uint8(colour), np.uint8(0))


@primitive("odd", leaves=("motif",), weight=3)
def odd_panel(panels: Panels) -> Grid:
    """The one panel that differs from the others, which are all alike."""
    keys = [grid_key(grid) for grid in panels.grids]
    require(len(keys) > 2 and len(set(keys)) == 2)
    odd = [grid for grid, key in zip(panels.grids, keys, strict=True) if keys.count(key) == 1]
    require(odd)
    return odd[0]


@primitive(leaves=("motif",))
def panel_by_cells(panels: Panels, rank: Literal["most", "least"]) -> Grid:
    """The panel with the most or the fewest filled cells."""
    counts = [int((grid > 0).sum()) for grid in panels.grids]
    best = max(counts) if rank == "most" else min(counts)
    require(counts.count(best) == 1)
    return panels.grids[counts.index(best)]


@primitive("mirror", leaves=("motif",), weight=3)
def symmetric_panel(panels: Panels) -> Grid:
    """The one panel that mirrors itself sideways."""
    mirrored = [grid for grid in panels.grids if np.array_equal(grid, grid[:, ::-1])]
    require(len(mirrored) == 1)
    return mirrored[0]


@primitive()
def panel_chart(panels: Panels, colour: Colour) -> Grid:
    """One cell for each panel, coloured where it has the most filled cells of all, ties included."""
    counts = np.array([int((grid > 0).sum()) for grid in panels.grids]).reshape(panels.layout)
    require(counts.min() < counts.max())
    return np.where(counts == counts.max(), np.uint8(colour), np.uint8(0))


@primitive()
def sort_panels(panels: Panels) -> Grid:
    """The panels in one line as they lie, from fewest to most filled cells, no lines between."""
    require(1 in panels.layout)
    counts = [int((grid > 0).sum()) for grid in panels.grids]
    require(len(set(counts)) == len(counts))
    return np.concatenate([panels.grids[i] for i in np.argsort(counts)], axis=0 if panels.layout[1] == 1 else 1)


@primitive()
def join_panels(panels: Panels) -> Grid:
    """The panels without the lines between them."""
    rows, columns = panels.layout
    return np.block([[panels.grids[r * columns + c] for c in range(columns)] for r in range(rows)])


# numbers and colours


@primitive("motif")
def count_colours(grid: Grid) -> Number:
    """How many colours a grid has."""
    return Number(len(np.unique(grid[grid > 0])))


@primitive("motif")
def count_cells(grid: Grid) -> Number:
    """How many cells of a grid are filled."""
    return Number(int((grid > 0).sum()))


@primitive()
def bar(number: Number, colour: Colour, axis: Axis) -> Grid:
    """A line of so many cells."""
    require(0 < number <= 30)
    return np.full((1, number) if axis == "rows" else (number, 1), colour, dtype=np.uint8)


@primitive()
def diagonal(number: Number, colour: Colour) -> Grid:
    """A square grid with its falling diagonal drawn, so many cells long."""
    require(0 < number <= 10)
    return (np.eye(number) * colour).astype(np.uint8)


@primitive()
def staircase(number: Number, colour: Colour) -> Grid:
    """A square grid whose row n has n cells from the left."""
    require(0 < number <= 10)
    return (np.tri(number) * colour).astype(np.uint8)


@primitive()
def board(number: Number, colour: Colour) -> Grid:
    """A 3x3 grid with so many cells filled in reading order."""
    require(0 < number <= 9)
    return np.where(np.arange(9) < number, np.uint8(colour), np.uint8(0)).reshape(3, 3)


@primitive()
def gauge(number: Number, length: Literal[5, 6, 8, 10], colour: Colour) -> Grid:
    """A row of fixed length with so many cells filled from the left."""
    require(0 < number <= length)
    return np.where(np.arange(length) < number, np.uint8(colour), np.uint8(0))[None]


@primitive()
def chessboard(number: Number, colour: Colour) -> Grid:
    """A square chessboard with so many cells to a side."""
    require(0 < number <= 10)
    return np.where(np.indices((number, number)).sum(axis=0) % 2 == 0, np.uint8(colour), np.uint8(0))


@primitive()
def target(number: Number, outer: Colour, inner: Colour) -> Grid:
    """A square with so many rings of two colours in turn around one cell."""
    require(0 < number <= 6)
    place = np.indices((2 * number - 1, 2 * number - 1)) - (number - 1)
    return np.where(np.abs(place).max(axis=0) % 2 == 0, np.uint8(inner), np.uint8(outer))


@primitive("motif")
def cell_colour(grid: Grid, rank: Literal["commonest", "rarest"]) -> Colour:
    """The most or least frequent colour of a grid."""
    counts = np.bincount(grid.reshape(-1), minlength=10)
    counts[0] = 0
    present = sorted(counts[counts > 0].tolist(), reverse=rank == "commonest")
    require(len(present) > 1 and present[0] != present[1])
    return Colour(int(np.flatnonzero(counts == present[0])[0]))


@primitive()
def swatch(colour: Colour, rows: Literal[1, 2, 3], columns: Literal[1, 2, 3]) -> Grid:
    """A small rectangle of one colour."""
    return np.full((rows, columns), colour, dtype=np.uint8)


@primitive()
def emblem(colour: Colour, shape: Literal["ring", "plus", "cross", "corner"]) -> Grid:
    """A small sign in one colour."""
    drawn = {
        "ring": [[1, 1, 1], [1, 0, 1], [1, 1, 1]],
        "plus": [[0, 1, 0], [1, 1, 1], [0, 1, 0]],
        "cross": [[1, 0, 1], [0, 1, 0], [1, 0, 1]],
        "corner": [[1, 0, 0], [1, 0, 0], [1, 1, 1]],
    }[shape]
    return (np.array(drawn) * colour).astype(np.uint8)


@primitive("quilt", weight=4)
def split_even(grid: Grid, parts: Literal[2, 3, 4]) -> Panels:
    """So many equal parts of a grid, side by side."""
    require(grid.shape[1] % parts == 0)
    return Panels((1, parts), tuple(np.split(grid, parts, axis=1)))


@primitive(weight=0.5)
def flip_panels(panels: Panels, axis: Axis) -> Panels:
    """Every panel is mirrored in its place."""
    return Panels(panels.layout, tuple(grid[::-1] if axis == "rows" else grid[:, ::-1] for grid in panels.grids))


@primitive(weight=0.5)
def mark_difference(panels: Panels, colour: Colour) -> Grid:
    """The first of two panels; cells that are filled there and in the other take a colour."""
    require(len(panels.grids) == 2)
    first, second = panels.grids
    return np.where((first > 0) & (second > 0), np.uint8(colour), first)


@primitive("motif")
def colour_chart(grid: Grid, order: Order) -> Grid:
    """One bar for each colour, as long as the number of its cells, sorted by length."""
    counts = np.bincount(grid.reshape(-1), minlength=10)
    counts[0] = 0
    colours = sorted(np.flatnonzero(counts).tolist(), key=lambda c: int(counts[c]), reverse=order == "descending")
    require(len(colours) > 1 and len({int(counts[c]) for c in colours}) == len(colours) and counts.max() <= 12)
    return np.array([[c if i < counts[c] else 0 for i in range(int(counts.max()))] for c in colours], dtype=np.uint8)


@primitive("motif")
def colour_list(grid: Grid, order: Order) -> Grid:
    """The colours of a grid as a column, sorted by their number of cells."""
    return colour_chart(grid, order)[:, :1]
