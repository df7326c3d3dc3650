"""Primitives that change a whole grid: symmetry, tiling, scaling, colours, sorting."""

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
    colour_by_cells,
    require,
    tile_sizes,
)

# symmetry, tiling, scaling


@primitive()
def rotate(grid: Grid, turn: Turn) -> Grid:
    """Rotate the grid by 90 degrees to the left or the right, or by 180 degrees."""
    return np.rot90(grid, {"left": 1, "half": 2, "right": 3}[turn])


@primitive()
def flip(grid: Grid, axis: Axis) -> Grid:
    """Reverse the order of the rows or of the columns."""
    return grid[::-1] if axis == "rows" else grid[:, ::-1]


@primitive()
def transpose(grid: Grid) -> Grid:
    """Swap rows and columns."""
    return grid.T


@primitive("motif")
def mirror_beside(grid: Grid, direction: Direction) -> Grid:
    """Append the mirror image of the grid on one side of it."""
    up = UPRIGHT[direction](grid)
    return UPRIGHT[direction](np.concatenate([up, up[::-1]]))


@primitive("motif")
def mirror_quad(grid: Grid, middle: Literal["double", "shared"]) -> Grid:
    """Append mirror images to the right and below; the line where they meet appears twice (double) or once (shared)."""
    start = 0 if middle == "double" else 1
    wide = np.concatenate([grid, grid[:, ::-1][:, start:]], axis=1)
    return np.concatenate([wide, wide[::-1][start:]])


@primitive("motif")
def turn_quad(grid: Grid) -> Grid:
    """Join four copies of a square grid; clockwise from the top left, each is rotated by 90 more degrees clockwise."""
    require(grid.shape[0] == grid.shape[1])
    return np.block([[grid, np.rot90(grid, 3)], [np.rot90(grid, 1), np.rot90(grid, 2)]])


@primitive("motif")
def tile(grid: Grid, down: Literal[1, 2, 3], across: Literal[1, 2, 3]) -> Grid:
    """Repeat the grid `down` times vertically and `across` times horizontally."""
    return np.tile(grid, (down, across))


@primitive("motif")
def tile_alternating(grid: Grid, count: Literal[2, 3], axis: Axis) -> Grid:
    """Repeat the grid `count` x `count` times; in every other row of copies each copy is flipped."""
    row = np.tile(grid, (1, count))
    turned = np.tile(grid[::-1] if axis == "rows" else grid[:, ::-1], (1, count))
    return np.concatenate([turned if i % 2 else row for i in range(count)])


@primitive("motif")
def upscale(grid: Grid, factor: Literal[2, 3, 4]) -> Grid:
    """Replace every cell by a square block of `factor` x `factor` cells."""
    return np.repeat(np.repeat(grid, factor, axis=0), factor, axis=1)


@primitive("motif")
def stretch(grid: Grid, factor: Literal[2, 3], axis: Axis) -> Grid:
    """Repeat every row, or every column, `factor` times."""
    return np.repeat(grid, factor, axis=0 if axis == "rows" else 1)


@primitive("motif")
def upscale_by_colours(grid: Grid) -> Grid:
    """Replace every cell by a square block whose side is the number of colours in the grid."""
    size = len(np.unique(grid[grid > 0]))
    require(size > 0)
    return np.repeat(np.repeat(grid, size, axis=0), size, axis=1)


@primitive("motif")
def tile_by_colours(grid: Grid, axis: Axis) -> Grid:
    """Repeat the grid along one axis, as many times as it has colours."""
    size = len(np.unique(grid[grid > 0]))
    require(size > 0)
    return np.tile(grid, (size, 1) if axis == "rows" else (1, size))


@primitive("motif")
def self_tile(grid: Grid, where: Literal["filled", "empty"]) -> Grid:
    """Make a grid of copies of the grid: a copy for every filled (or every empty) cell, ground for every other cell."""
    require(grid.size <= 16)
    return np.kron((grid > 0) == (where == "filled"), grid).astype(np.uint8)


@primitive("motif")
def self_tile_coloured(grid: Grid) -> Grid:
    """Make a grid of copies of the grid: for every filled cell a copy in that cell's colour, ground for every empty cell."""
    require(grid.size <= 16)
    return np.kron(grid, grid > 0).astype(np.uint8)


@primitive("motif")
def tile_where(grid: Grid, rank: Literal["commonest", "rarest"]) -> Grid:
    """Make a grid of copies of the grid: a copy for every cell of its most (or least) frequent colour, ground elsewhere."""
    require(grid.size <= 16)
    return np.kron(grid == colour_by_cells(grid, rank), grid).astype(np.uint8)


@primitive("blocky", leaves=("motif",))
def downscale(grid: Grid) -> Grid:
    """Shrink every uniform square block to one cell, with the largest block size that fits the whole grid."""
    for size in range(min(grid.shape), 1, -1):
        if grid.shape[0] % size == 0 and grid.shape[1] % size == 0:
            small = grid[::size, ::size]
            if np.array_equal(np.repeat(np.repeat(small, size, axis=0), size, axis=1), grid):
                return small
    raise Unfit


@primitive("stretched", leaves=("motif",))
def drop_repeats(grid: Grid) -> Grid:
    """Merge equal neighbouring rows into one, and equal neighbouring columns."""
    rows = np.ones(grid.shape[0], dtype=bool)
    rows[1:] = (grid[1:] != grid[:-1]).any(axis=1)
    columns = np.ones(grid.shape[1], dtype=bool)
    columns[1:] = (grid[:, 1:] != grid[:, :-1]).any(axis=0)
    return grid[rows][:, columns]


@primitive("tiled", leaves=("motif",))
def one_tile(grid: Grid) -> Grid:
    """Crop the smallest tile whose repetition makes up the grid."""
    for down, across in tile_sizes(grid.shape):
        if grid.shape[0] % down == 0 and grid.shape[1] % across == 0:
            corner = grid[:down, :across]
            if np.array_equal(np.tile(corner, (grid.shape[0] // down, grid.shape[1] // across)), grid):
                return corner
    raise Unfit


@primitive(weight=0.5)
def roll(grid: Grid, direction: Direction, distance: Literal[1, 2]) -> Grid:
    """Move all cells one way; cells that leave the grid come back on the other side."""
    down, right = STEPS[direction]
    return np.roll(grid, (down * distance, right * distance), axis=(0, 1))


# colours


@primitive()
def replace_colour(grid: Grid, old: Present, new: Colour) -> Grid:
    """Recolour all cells of one colour."""
    return np.where(grid == old, np.uint8(new), grid)


@primitive()
def swap_colours(grid: Grid, first: Present, second: Present) -> Grid:
    """Exchange two colours."""
    return np.where(grid == first, np.uint8(second), np.where(grid == second, np.uint8(first), grid))


@primitive()
def paint_ground(grid: Grid, colour: Colour) -> Grid:
    """Recolour the ground (colour 0)."""
    return np.where(grid == 0, np.uint8(colour), grid)


@primitive(weight=0.5)
def paint_all(grid: Grid, colour: Colour) -> Grid:
    """Recolour all filled cells with one colour."""
    return np.where(grid > 0, np.uint8(colour), np.uint8(0))


@primitive("motif")
def invert(grid: Grid) -> Grid:
    """Exchange the ground and the only other colour."""
    present = np.unique(grid[grid > 0])
    require(len(present) == 1)
    return np.where(grid > 0, np.uint8(0), present[0]).astype(np.uint8)


@primitive("motif")
def keep_by_cells(grid: Grid, rank: Literal["commonest", "rarest"]) -> Grid:
    """Keep the cells of the most (or least) frequent colour and erase all others."""
    return np.where(grid == colour_by_cells(grid, rank), grid, np.uint8(0))


@primitive("objects", weight=0.3)
def paint_alternate(grid: Grid, axis: Axis, colour: Colour) -> Grid:
    """Recolour the filled cells on every other row or column."""
    stripe = np.indices(grid.shape)[0 if axis == "rows" else 1] % 2 == 1
    return np.where(stripe & (grid > 0), np.uint8(colour), grid)


@primitive("objects", weight=0.3)
def paint_checkered(grid: Grid, colour: Colour) -> Grid:
    """Recolour every filled cell on the odd squares of a chessboard pattern."""
    return np.where((np.indices(grid.shape).sum(axis=0) % 2 == 1) & (grid > 0), np.uint8(colour), grid)


@primitive("heads")
def paint_by_head(grid: Grid, ink: Special, direction: Direction) -> Grid:
    """Recolour every cell of the colour `ink` with the colour at the start of its line; lines run along `direction`."""
    up = UPRIGHT[direction](grid)
    return UPRIGHT[direction](np.where(up == ink, np.broadcast_to(up[:1], up.shape), up))


@primitive("legend")
def apply_legend(grid: Grid, divider: Special) -> Grid:
    """Crop the part below the dividing row, and replace each colour of the first row by the colour under it in the second row."""
    row = int(np.argmax((grid == divider).all(axis=1)))
    require(row == 2)
    table = np.arange(10, dtype=np.uint8)
    table[grid[0]] = grid[1]
    table[0] = 0
    return table[grid[row + 1 :]]


@primitive("rows")
def paint_majority(grid: Grid, axis: Axis) -> Grid:
    """Fill every row (or column) with its most frequent colour."""
    lines = grid if axis == "rows" else grid.T
    counts = (lines[:, :, None] == np.arange(10)).sum(axis=1)
    top = np.sort(counts, axis=1)
    require((top[:, -1] > top[:, -2]).all())
    painted = np.repeat(counts.argmax(axis=1).astype(np.uint8)[:, None], lines.shape[1], axis=1)
    return painted if axis == "rows" else painted.T


@primitive("rows")
def mark_plain_lines(grid: Grid, axis: Axis, colour: Colour) -> Grid:
    """Recolour rows (or columns) of a single colour with `colour`, and erase all others."""
    lines = grid if axis == "rows" else grid.T
    plain = (lines == lines[:, :1]).all(axis=1)
    marked = np.where(plain[:, None], np.uint8(colour), np.zeros_like(lines))
    return marked if axis == "rows" else marked.T


# sorting and falling


@primitive("loose")
def drop_cells(grid: Grid, direction: Direction) -> Grid:
    """Let every filled cell fall in one direction onto the border or the cells below it."""
    up = UPRIGHT[direction](grid)
    order = np.argsort(up > 0, axis=0, kind="stable")
    return UPRIGHT[direction](np.take_along_axis(up, order, axis=0))


@primitive("ladder", weight=2)
def sort_lines(grid: Grid, direction: Direction) -> Grid:
    """Sort the lines across `direction` by their number of filled cells, the fullest at its far end. Raises Unfit for ties."""
    up = UPRIGHT[direction](grid)
    filled = (up > 0).sum(axis=1)
    require(len(set(filled.tolist())) == len(filled))
    return UPRIGHT[direction](up[np.argsort(filled)])


@primitive("loose")
def pack_lines(grid: Grid, direction: Direction) -> Grid:
    """Remove the lines across `direction` that are all ground, which shrinks the grid."""
    up = UPRIGHT[direction](grid)
    return UPRIGHT[direction](up[(up > 0).any(axis=1)])
