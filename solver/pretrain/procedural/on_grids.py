"""Primitives from grid to grid: symmetry, tiling, scaling, colours, sorting."""

from __future__ import annotations

from typing import Literal

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import (
    STEPS,
    UPRIGHT,
    Axis,
    Colour,
    Direction,
    Present,
    Special,
    Turn,
    Unfit,
    require,
    tile_sizes,
)

# symmetry, tiling, scaling


@primitive()
def rotate(grid: Grid, turn: Turn) -> Grid:
    """The grid turned by a quarter to the left or right, or by half."""
    return np.rot90(grid, {"left": 1, "half": 2, "right": 3}[turn])


@primitive()
def flip(grid: Grid, axis: Axis) -> Grid:
    """The grid with its rows or columns in reverse order."""
    return grid[::-1] if axis == "rows" else grid[:, ::-1]


@primitive()
def transpose(grid: Grid) -> Grid:
    """Rows become columns."""
    return grid.T


@primitive("motif")
def mirror_beside(grid: Grid, direction: Direction) -> Grid:
    """The grid and its mirror image on one side of it."""
    up = UPRIGHT[direction](grid)
    return UPRIGHT[direction](np.concatenate([up, up[::-1]]))


@primitive("motif")
def mirror_quad(grid: Grid, middle: Literal["double", "shared"]) -> Grid:
    """The grid mirrored to the right and down; the middle lines twice or once."""
    start = 0 if middle == "double" else 1
    wide = np.concatenate([grid, grid[:, ::-1][:, start:]], axis=1)
    return np.concatenate([wide, wide[::-1][start:]])


@primitive("motif")
def turn_quad(grid: Grid) -> Grid:
    """Four copies of a square grid, each a quarter turn further, clockwise around the middle."""
    require(grid.shape[0] == grid.shape[1])
    return np.block([[grid, np.rot90(grid, 3)], [np.rot90(grid, 1), np.rot90(grid, 2)]])


@primitive("motif")
def tile(grid: Grid, down: Literal[1, 2, 3], across: Literal[1, 2, 3]) -> Grid:
    """Copies of the grid, so many down and so many across."""
    return np.tile(grid, (down, across))


@primitive("motif")
def tile_alternating(grid: Grid, count: Literal[2, 3], axis: Axis) -> Grid:
    """A square of copies of the grid; every other row of copies is mirrored."""
    row = np.tile(grid, (1, count))
    turned = np.tile(grid[::-1] if axis == "rows" else grid[:, ::-1], (1, count))
    return np.concatenate([turned if i % 2 else row for i in range(count)])


@primitive("motif")
def upscale(grid: Grid, factor: Literal[2, 3, 4]) -> Grid:
    """Every cell becomes a square block."""
    return np.repeat(np.repeat(grid, factor, axis=0), factor, axis=1)


@primitive("motif")
def stretch(grid: Grid, factor: Literal[2, 3], axis: Axis) -> Grid:
    """Every row or column several times."""
    return np.repeat(grid, factor, axis=0 if axis == "rows" else 1)


@primitive("motif")
def upscale_by_colours(grid: Grid) -> Grid:
    """Every cell becomes a block as large as the number of colours."""
    size = len(np.unique(grid[grid > 0]))
    require(size > 0)
    return np.repeat(np.repeat(grid, size, axis=0), size, axis=1)


@primitive("motif")
def tile_by_colours(grid: Grid, axis: Axis) -> Grid:
    """As many copies of the grid in a line as it has colours."""
    size = len(np.unique(grid[grid > 0]))
    require(size > 0)
    return np.tile(grid, (size, 1) if axis == "rows" else (1, size))


@primitive("motif")
def self_tile(grid: Grid, where: Literal["filled", "empty"]) -> Grid:
    """A copy of the grid in place of every filled (or every empty) cell of it."""
    require(grid.size <= 16)
    return np.kron((grid > 0) == (where == "filled"), grid).astype(np.uint8)


@primitive("motif")
def self_tile_coloured(grid: Grid) -> Grid:
    """In place of every filled cell the pattern of the grid in the colour of the cell."""
    require(grid.size <= 16)
    return np.kron(grid, grid > 0).astype(np.uint8)


@primitive("motif")
def tile_where(grid: Grid, rank: Literal["commonest", "rarest"]) -> Grid:
    """A copy of the grid in place of every cell of its most or least frequent colour."""
    require(grid.size <= 16)
    return np.kron(grid == _colour_by_cells(grid, rank), grid).astype(np.uint8)


def _colour_by_cells(grid: Grid, rank: Literal["commonest", "rarest"]) -> int:
    counts = np.bincount(grid.reshape(-1), minlength=10)
    counts[0] = 0
    ranked = sorted((int(n), c) for c, n in enumerate(counts) if n)
    if rank == "commonest":
        ranked = ranked[::-1]
    if len(ranked) < 2 or ranked[0][0] == ranked[1][0]:
        raise Unfit
    return ranked[0][1]


@primitive("blocky", leaves=("motif",))
def downscale(grid: Grid) -> Grid:
    """The grid with its blocks shrunk to cells, for the largest block size it has."""
    for size in range(min(grid.shape), 1, -1):
        if grid.shape[0] % size == 0 and grid.shape[1] % size == 0:
            small = grid[::size, ::size]
            if np.array_equal(np.repeat(np.repeat(small, size, axis=0), size, axis=1), grid):
                return small
    raise Unfit


@primitive("stretched", leaves=("motif",))
def drop_repeats(grid: Grid) -> Grid:
    """Neighbouring rows that are equal become one, columns too."""
    rows = np.ones(grid.shape[0], dtype=bool)
    rows[1:] = (grid[1:] != grid[:-1]).any(axis=1)
    columns = np.ones(grid.shape[1], dtype=bool)
    columns[1:] = (grid[:, 1:] != grid[:, :-1]).any(axis=0)
    return grid[rows][:, columns]


@primitive("tiled", leaves=("motif",))
def one_tile(grid: Grid) -> Grid:
    """The smallest tile of which the grid is made."""
    for down, across in tile_sizes(grid.shape):
        if grid.shape[0] % down == 0 and grid.shape[1] % across == 0:
            found = grid[:down, :across]
            if np.array_equal(np.tile(found, (grid.shape[0] // down, grid.shape[1] // across)), grid):
                return found
    raise Unfit


@primitive(weight=0.5)
def roll(grid: Grid, direction: Direction, distance: Literal[1, 2]) -> Grid:
    """All cells move one way; what leaves comes back on the other side."""
    down, right = STEPS[direction]
    return np.roll(grid, (down * distance, right * distance), axis=(0, 1))


# colours


@primitive()
def replace_colour(grid: Grid, old: Present, new: Colour) -> Grid:
    """One colour becomes another."""
    return np.where(grid == old, np.uint8(new), grid)


@primitive()
def swap_colours(grid: Grid, first: Present, second: Present) -> Grid:
    """Two colours trade places."""
    return np.where(grid == first, np.uint8(second), np.where(grid == second, np.uint8(first), grid))


@primitive()
def paint_ground(grid: Grid, colour: Colour) -> Grid:
    """The ground takes a colour."""
    return np.where(grid == 0, np.uint8(colour), grid)


@primitive(weight=0.5)
def paint_all(grid: Grid, colour: Colour) -> Grid:
    """Every filled cell takes one colour."""
    return np.where(grid > 0, np.uint8(colour), np.uint8(0))


@primitive("motif")
def invert(grid: Grid) -> Grid:
    """Ground and the one colour trade places."""
    present = np.unique(grid[grid > 0])
    require(len(present) == 1)
    return np.where(grid > 0, np.uint8(0), present[0]).astype(np.uint8)


@primitive("motif")
def keep_by_cells(grid: Grid, rank: Literal["commonest", "rarest"]) -> Grid:
    """Only the cells of the most or least frequent colour stay."""
    return np.where(grid == _colour_by_cells(grid, rank), grid, np.uint8(0))


@primitive("objects", weight=0.3)
def paint_alternate(grid: Grid, axis: Axis, colour: Colour) -> Grid:
    """Filled cells on every other row or column take a colour."""
    stripe = np.indices(grid.shape)[0 if axis == "rows" else 1] % 2 == 1
    return np.where(stripe & (grid > 0), np.uint8(colour), grid)


@primitive("objects", weight=0.3)
def paint_checkered(grid: Grid, colour: Colour) -> Grid:
    """Filled cells take a colour like one half of a chessboard."""
    return np.where((np.indices(grid.shape).sum(axis=0) % 2 == 1) & (grid > 0), np.uint8(colour), grid)


@primitive("heads")
def paint_by_head(grid: Grid, ink: Special, direction: Direction) -> Grid:
    """Cells in ink take the colour that stands at the head of their line."""
    up = UPRIGHT[direction](grid)
    return UPRIGHT[direction](np.where(up == ink, np.broadcast_to(up[:1], up.shape), up))


@primitive("legend")
def apply_legend(grid: Grid, divider: Special) -> Grid:
    """The part below the dividing row, its colours renamed as the two rows of the legend above it pair them."""
    row = int(np.argmax((grid == divider).all(axis=1)))
    require(row == 2)
    table = np.arange(10, dtype=np.uint8)
    table[grid[0]] = grid[1]
    table[0] = 0
    return table[grid[row + 1 :]]


@primitive("rows")
def paint_majority(grid: Grid, axis: Axis) -> Grid:
    """Every row or column takes its most frequent colour."""
    lines = grid if axis == "rows" else grid.T
    counts = (lines[:, :, None] == np.arange(10)).sum(axis=1)
    top = np.sort(counts, axis=1)
    require((top[:, -1] > top[:, -2]).all())
    painted = np.repeat(counts.argmax(axis=1).astype(np.uint8)[:, None], lines.shape[1], axis=1)
    return painted if axis == "rows" else painted.T


@primitive("rows")
def mark_plain_lines(grid: Grid, axis: Axis, colour: Colour) -> Grid:
    """Rows or columns of one colour take a new one, all else becomes ground."""
    lines = grid if axis == "rows" else grid.T
    plain = (lines == lines[:, :1]).all(axis=1)
    marked = np.where(plain[:, None], np.uint8(colour), np.zeros_like(lines))
    return marked if axis == "rows" else marked.T


# sorting and falling


@primitive("loose")
def drop_cells(grid: Grid, direction: Direction) -> Grid:
    """Every filled cell falls to one side onto what lies there."""
    up = UPRIGHT[direction](grid)
    order = np.argsort(up > 0, axis=0, kind="stable")
    return UPRIGHT[direction](np.take_along_axis(up, order, axis=0))


@primitive("ladder", weight=2)
def sort_lines(grid: Grid, direction: Direction) -> Grid:
    """Lines across a direction are sorted by their filled cells, fullest last in that direction; no two are equally full."""
    up = UPRIGHT[direction](grid)
    filled = (up > 0).sum(axis=1)
    require(len(set(filled.tolist())) == len(filled))
    return UPRIGHT[direction](up[np.argsort(filled)])


@primitive("loose")
def pack_lines(grid: Grid, direction: Direction) -> Grid:
    """Lines that are all ground leave; the others close up, and the grid shrinks."""
    up = UPRIGHT[direction](grid)
    return UPRIGHT[direction](up[(up > 0).any(axis=1)])
