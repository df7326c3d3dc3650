"""Primitives from grid to grid: symmetry, tiling, scaling, colours, lines, filling, cropping, repair."""

from __future__ import annotations

from itertools import pairwise
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
    Mask,
    Present,
    Special,
    Unfit,
    content_box,
    enclosed,
    on_border,
    regions,
    require,
)

# symmetry, tiling, scaling


@primitive()
def rotate(grid: Grid, turns: Literal[1, 2, 3]) -> Grid:
    """The grid turned by quarter turns."""
    return np.rot90(grid, turns)


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
    for down, across in _tile_sizes(grid.shape):
        if grid.shape[0] % down == 0 and grid.shape[1] % across == 0:
            found = grid[:down, :across]
            if np.array_equal(np.tile(found, (grid.shape[0] // down, grid.shape[1] // across)), grid):
                return found
    raise Unfit


def _tile_sizes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    sizes = [(r, c) for r in range(1, shape[0] + 1) for c in range(1, shape[1] + 1) if 2 * r * c <= shape[0] * shape[1]]
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))


@primitive()
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


@primitive()
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


@primitive("objects")
def paint_alternate(grid: Grid, axis: Axis, colour: Colour) -> Grid:
    """Filled cells on every other row or column take a colour."""
    stripe = np.indices(grid.shape)[0 if axis == "rows" else 1] % 2 == 1
    return np.where(stripe & (grid > 0), np.uint8(colour), grid)


@primitive("objects")
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


@primitive("loose")
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


# lines


@primitive("points")
def rays(grid: Grid, direction: Direction) -> Grid:
    """Every filled cell sends its colour one way until another cell or the border stops it."""
    up = UPRIGHT[direction](grid)
    last = np.maximum.accumulate(np.where(up > 0, np.arange(up.shape[0])[:, None], -1), axis=0)
    reached = np.where(last >= 0, np.take_along_axis(up, np.maximum(last, 0), axis=0), np.uint8(0))
    return UPRIGHT[direction](reached.astype(np.uint8))


@primitive("walls")
def rays_to_wall(grid: Grid, wall: Special, direction: Direction) -> Grid:
    """Every cell that is no wall sends its colour one way until a cell stops it; walls send nothing."""
    shot = rays(grid, direction)
    return np.where((grid == 0) & (shot == wall), np.uint8(0), shot)


@primitive("walls")
def grow_until_wall(grid: Grid, wall: Special) -> Grid:
    """Every cell that is no wall sends its colour in all four directions until something stops it."""
    result = grid.copy()
    for direction in STEPS:
        shot = rays_to_wall(grid, wall, direction)
        clash = (result > 0) & (shot > 0) & (result != shot)
        require(not clash.any())
        result = np.maximum(result, shot)
    return result


@primitive("points")
def full_lines(grid: Grid, axis: Axis) -> Grid:
    """Every filled cell fills its row or column, one to a line."""
    lines = grid if axis == "rows" else grid.T
    require(((lines > 0).sum(axis=1) <= 1).all())
    full = np.repeat(lines.max(axis=1, keepdims=True), lines.shape[1], axis=1)
    return full if axis == "rows" else full.T


@primitive("points")
def crosses(grid: Grid, crossing: Colour) -> Grid:
    """Every filled cell fills its row and its column; where two of them cross stands another colour."""
    rows, columns = full_lines(grid, "rows"), full_lines(grid, "columns")
    both = (rows > 0) & (columns > 0) & (grid == 0)
    return np.where(both, np.uint8(crossing), np.maximum(rows, columns))


@primitive("points")
def diagonals(grid: Grid, ways: Literal["falling", "rising", "both"]) -> Grid:
    """Every filled cell sends its colour along its diagonals to the border; different colours may not cross."""
    result = grid.copy()
    rows, columns = np.indices(grid.shape)
    for row, column in np.argwhere(grid > 0):
        falling, rising = rows - columns == row - column, rows + columns == row + column
        line = {"falling": falling, "rising": rising, "both": falling | rising}[ways]
        require(np.isin(result[line], (0, grid[row, column])).all())
        result[line] = grid[row, column]
    return result


@primitive("corner")
def bounce(grid: Grid, tint: Colour) -> Grid:
    """From the one filled cell in a corner a diagonal runs through the grid, thrown back by the long sides."""
    (start,) = np.argwhere(grid > 0)
    rows, columns = grid.shape
    require(rows <= columns and start[0] in (0, rows - 1) and start[1] in (0, columns - 1))
    result = grid.copy()
    row, column = int(start[0]), int(start[1])
    down, right = (1 if row == 0 else -1), (1 if column == 0 else -1)
    while 0 <= column + right < columns:
        if not 0 <= row + down < rows:
            down = -down
        row, column = (row + down) % rows, column + right
        result[row, column] = tint
    return result


@primitive("partners")
def connect(grid: Grid, colour: Literal["own", "other"], other: Colour) -> Grid:
    """A line joins cells of one colour that face each other in a row or column with only ground between them."""
    result = grid.copy()
    for lines, drawn in ((grid, result), (grid.T, result.T)):
        for line, out in zip(lines, drawn, strict=True):
            filled = np.flatnonzero(line)
            for first, last in pairwise(filled):
                if line[first] == line[last] and last - first > 1:
                    between = out[first + 1 : last]
                    ink = line[first] if colour == "own" else other
                    require(np.isin(between, (0, ink)).all())
                    between[:] = ink
    return result


@primitive("corners")
def fill_between_corners(grid: Grid, what: Literal["inside", "frame", "all"], colour: Colour) -> Grid:
    """Four cells of one colour mark the corners of a rectangle: its inside, its frame or both are drawn."""
    result = grid.copy()
    for corner in np.unique(grid[grid > 0]):
        box = content_box(grid == corner)
        part = result[box]
        inner = part[1:-1, 1:-1]
        require(inner.size and (part > 0).sum() == 4)
        if what != "inside":
            part[0, 1:-1] = part[-1, 1:-1] = corner
            part[1:-1, 0] = part[1:-1, -1] = corner
        if what != "frame":
            inner[:] = colour
    return result


@primitive("arrows")
def shoot(grid: Grid, body: Special) -> Grid:
    """Of two cells side by side one is a body and one a tip: its colour runs on from there until something stops it."""
    result = grid.copy()
    for rows, columns in regions(grid > 0):
        tip = np.flatnonzero(grid[rows, columns] != body)
        require(len(rows) == 2 and len(tip) == 1)
        row, column = int(rows[tip[0]]), int(columns[tip[0]])
        ink = grid[row, column]
        down, right = 2 * row - int(rows.sum()), 2 * column - int(columns.sum())
        row, column = row + down, column + right
        while 0 <= row < grid.shape[0] and 0 <= column < grid.shape[1] and not grid[row, column]:
            require(result[row, column] in (0, ink))
            result[row, column] = ink
            row, column = row + down, column + right
    return result


@primitive("points")
def halo(grid: Grid, reach: Literal["plus", "corners", "ring"], colour: Colour) -> Grid:
    """The ground beside every filled cell takes a colour: its four neighbours, its four corners, or all eight."""
    padded = np.pad(grid > 0, 1)
    rows, columns = grid.shape
    near = np.zeros(grid.shape, dtype=bool)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if {"plus": abs(down) + abs(right) == 1, "corners": abs(down * right) == 1, "ring": True}[reach]:
                near |= padded[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
    return np.where(near & (grid == 0), np.uint8(colour), grid)


@primitive("points")
def sign_by_colour(grid: Grid, plus: Present, cross: Present, ring: Present) -> Grid:
    """The colour of a cell says what is drawn around it in that colour: a plus, a cross or a ring."""
    require(len({plus, cross, ring}) == 3)
    result = grid.copy()
    for colour, reach in ((plus, "plus"), (cross, "corners"), (ring, "ring")):
        alone = np.where(grid == colour, grid, np.uint8(0))
        drawn = halo(alone, reach, Colour(colour))  # type: ignore[arg-type]
        require(not ((result > 0) & (drawn > 0) & (result != drawn)).any())
        result = np.maximum(result, drawn)
    return result


@primitive("points")
def shadow(grid: Grid, direction: Direction, colour: Colour) -> Grid:
    """The ground next to every filled cell on one side takes a colour."""
    down, right = STEPS[direction]
    rows, columns = grid.shape
    padded = np.pad(grid > 0, 1)
    shaded = padded[1 - down : 1 - down + rows, 1 - right : 1 - right + columns]
    return np.where(shaded & (grid == 0), np.uint8(colour), grid)


@primitive("stamp")
def stamp_at_points(grid: Grid) -> Grid:
    """Every lone cell becomes the middle of a copy of the one thing that has many cells."""
    areas = regions(grid > 0, diagonal=True)
    large = [area for area in areas if len(area[0]) > 1]
    require(len(large) == 1 and len(areas) > 1)
    box = content_box(_mask_of(grid, large[0]))
    pattern = grid[box]
    require(pattern.shape[0] % 2 == 1 and pattern.shape[1] % 2 == 1)
    half = pattern.shape[0] // 2, pattern.shape[1] // 2
    result = grid.copy()
    for rows, columns in areas:
        if len(rows) > 1:
            continue
        top, left = int(rows[0]) - half[0], int(columns[0]) - half[1]
        require(grid[rows[0], columns[0]] == pattern[half] and top >= 0 and left >= 0)
        window = result[top : top + pattern.shape[0], left : left + pattern.shape[1]]
        require(window.shape == pattern.shape and (window > 0).sum() == 1)
        window[:] = pattern
    return result


def _mask_of(grid: Grid, area: tuple[object, object]) -> Mask:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[area] = True  # type: ignore[index]
    return mask


@primitive("lines")
def paint_crossings(grid: Grid, colour: Colour) -> Grid:
    """Where a full row and a full column cross stands a colour."""
    rows, columns = (grid > 0).all(axis=1), (grid > 0).all(axis=0)
    return np.where(np.logical_and.outer(rows, columns), np.uint8(colour), grid)


@primitive("corridors")
def paint_corridors(grid: Grid, axis: Literal["rows", "columns", "both"], colour: Colour) -> Grid:
    """Rows and columns that are all ground take a colour."""
    rows, columns = (grid == 0).all(axis=1), (grid == 0).all(axis=0)
    chosen = {
        "rows": np.repeat(rows[:, None], grid.shape[1], axis=1),
        "columns": np.repeat(columns[None, :], grid.shape[0], axis=0),
        "both": rows[:, None] | columns[None, :],
    }[axis]
    require(chosen.any())
    return np.where(chosen, np.uint8(colour), grid)


# filling and framing


@primitive("rooms")
def fill_enclosed(grid: Grid, colour: Colour) -> Grid:
    """Ground from which no way leads out takes a colour."""
    return np.where(enclosed(grid > 0), np.uint8(colour), grid)


@primitive("rooms")
def fill_outside(grid: Grid, colour: Colour) -> Grid:
    """Ground from which a way leads out takes a colour."""
    return np.where((grid == 0) & ~enclosed(grid > 0), np.uint8(colour), grid)


@primitive("rooms")
def fill_both(grid: Grid, inside: Colour, outside: Colour) -> Grid:
    """Ground from which no way leads out takes one colour, all other ground another."""
    return fill_outside(fill_enclosed(grid, inside), outside)


@primitive("rooms")
def fill_rooms_by_size(grid: Grid, measure: Literal["most", "least"], colour: Colour) -> Grid:
    """The largest or the smallest area of ground between walls takes a colour."""
    areas = sorted(regions(grid == 0), key=lambda area: len(area[0]), reverse=measure == "most")
    require(len(areas) > 1 and len(areas[0][0]) != len(areas[1][0]))
    result = grid.copy()
    result[areas[0]] = colour
    return result


@primitive("seeded")
def flood(grid: Grid, wall: Special) -> Grid:
    """Every area between walls takes the one colour that a cell in it has."""
    result = grid.copy()
    for area in regions(grid != wall):
        seeds = np.unique(grid[area])
        require(len(seeds[seeds > 0]) <= 1)
        result[area] = seeds[-1]
    return result


@primitive()
def add_frame(grid: Grid, colour: Colour) -> Grid:
    """A frame of one cell around the grid."""
    return np.pad(grid, 1, constant_values=colour)


@primitive()
def paint_border(grid: Grid, colour: Colour) -> Grid:
    """The cells on the border of the grid take a colour."""
    result = np.full_like(grid, colour)
    result[1:-1, 1:-1] = grid[1:-1, 1:-1]
    return result


@primitive("texture")
def fill_largest_gap(grid: Grid, colour: Colour) -> Grid:
    """The largest rectangle of ground, if there is one alone, takes a colour."""
    result = grid.copy()
    result[_largest_gap(grid == 0)] = colour
    return result


def _largest_gap(ground: Mask) -> tuple[slice, slice]:
    best, ties, found = 0, 0, (slice(0), slice(0))
    heights = np.zeros(ground.shape[1], dtype=int)
    for bottom in range(ground.shape[0]):
        heights = np.where(ground[bottom], heights + 1, 0)
        tall = heights.tolist()
        for left in range(len(tall)):
            low = tall[left]
            for right in range(left, len(tall)):
                low = min(low, tall[right])
                if not low:
                    break
                area = low * (right - left + 1)
                if area > best:
                    best, ties, found = area, 0, (slice(bottom + 1 - low, bottom + 1), slice(left, right + 1))
                elif area == best:
                    ties += 1
    require(best > 3 and not ties)
    return found


# cropping and repair


@primitive()
def trim(grid: Grid) -> Grid:
    """The smallest box that holds all that is not ground."""
    return grid[content_box(grid > 0)]


@primitive()
def peel(grid: Grid) -> Grid:
    """The grid without its border cells."""
    require(min(grid.shape) > 2)
    return grid[1:-1, 1:-1]


@primitive()
def half(grid: Grid, side: Direction) -> Grid:
    """The half of the grid on one side; an even number of lines."""
    require(grid.shape[0 if side in ("up", "down") else 1] % 2 == 0)
    up = UPRIGHT[side](grid)
    return UPRIGHT[side](up[up.shape[0] // 2 :])


@primitive("framed", leaves=("motif",))
def inside_frame(grid: Grid, frame: Special) -> Grid:
    """What the one rectangular frame encloses."""
    rows, columns = content_box(grid == frame)
    return grid[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1]


@primitive("framed")
def erase_outside(grid: Grid, frame: Special) -> Grid:
    """All that is outside the one rectangular frame becomes ground."""
    box = content_box(grid == frame)
    result = np.zeros_like(grid)
    result[box] = grid[box]
    return result


@primitive("framed")
def erase_inside(grid: Grid, frame: Special) -> Grid:
    """All that is inside the one rectangular frame becomes ground."""
    rows, columns = content_box(grid == frame)
    result = grid.copy()
    result[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = 0
    return result


@primitive("framed")
def inside_to_frame_colour(grid: Grid, frame: Special) -> Grid:
    """What is drawn inside the one rectangular frame takes its colour."""
    rows, columns = content_box(grid == frame)
    result = grid.copy()
    result[rows, columns] = np.where(grid[rows, columns] > 0, np.uint8(frame), np.uint8(0))
    return result


@primitive("noisy", leaves=("objects",))
def denoise(grid: Grid, noise: Special) -> Grid:
    """Cells of the colour of the noise become ground."""
    return np.where(grid == noise, np.uint8(0), grid)


@primitive("dusty", leaves=("objects",))
def drop_dust(grid: Grid) -> Grid:
    """Cells that touch no other filled cell become ground."""
    result = grid.copy()
    for area in regions(grid > 0, diagonal=True):
        if len(area[0]) == 1:
            result[area] = 0
    return result


@primitive("dusty")
def keep_dust(grid: Grid) -> Grid:
    """Only cells that touch no other filled cell stay."""
    return np.where(drop_dust(grid) == 0, grid, np.uint8(0))


@primitive("symmetric")
def restore_symmetry(grid: Grid, mask: Special) -> Grid:
    """The masked part is drawn again so that the grid mirrors itself along rows and columns."""
    result = grid.copy()
    for turned in (grid[:, ::-1], grid[::-1], grid[::-1, ::-1]):
        result = np.where((result == mask) & (turned != mask), turned, result)
    require((result != mask).all())
    return result


@primitive("symmetric", leaves=("motif",))
def hidden_by_symmetry(grid: Grid, mask: Special) -> Grid:
    """What the mask hides of a grid that mirrors itself along rows and columns."""
    return restore_symmetry(grid, mask)[content_box(grid == mask)]


@primitive("periodic")
def restore_tiling(grid: Grid, mask: Special) -> Grid:
    """The masked part is drawn again so that the grid is one repeated tile."""
    known = grid != mask
    for down, across in _tile_sizes(grid.shape):
        rows, columns = np.indices(grid.shape)
        place = rows % down * across + columns % across
        found = np.zeros(down * across, dtype=np.uint8)
        found[place[known]] = grid[known]
        seen = np.zeros(down * across, dtype=bool)
        seen[place[known]] = True
        if seen.all() and np.array_equal(found[place][known], grid[known]):
            return found[place]
    raise Unfit


@primitive("periodic", leaves=("motif",))
def hidden_by_tiling(grid: Grid, mask: Special) -> Grid:
    """What the mask hides of a grid that is one repeated tile."""
    return restore_tiling(grid, mask)[content_box(grid == mask)]


@primitive("unfinished")
def continue_rows(grid: Grid) -> Grid:
    """Rows that repeat go on in the same way over the rows that are ground at the lower end."""
    filled = int((grid > 0).any(axis=1).sum())
    for period in range(1, filled):
        if np.array_equal(grid[period:filled], grid[: filled - period]):
            return grid[np.arange(grid.shape[0]) % period]
    raise Unfit


@primitive("symmetric_half")
def complete_half(grid: Grid, direction: Direction) -> Grid:
    """What is drawn in one half is mirrored into the empty other half."""
    up = UPRIGHT[direction](grid)
    require(not up[(up.shape[0] + 1) // 2 :].any())
    return UPRIGHT[direction](np.maximum(up, up[::-1]))


@primitive("lattice", leaves=("motif",))
def compartments(grid: Grid, line: Special) -> Grid:
    """One cell for each compartment between the lines, in the colour that is drawn in it."""
    rows, columns = _compartment_spans(grid, line)
    small = np.array([[grid[r0:r1, c0:c1].max() for c0, c1 in columns] for r0, r1 in rows], dtype=np.uint8)
    require(small.size > 1)
    return small


@primitive("lattice")
def fill_compartments(grid: Grid, line: Special) -> Grid:
    """Every compartment between the lines is filled with the colour that is drawn in it."""
    result = grid.copy()
    rows, columns = _compartment_spans(grid, line)
    for r0, r1 in rows:
        for c0, c1 in columns:
            result[r0:r1, c0:c1] = grid[r0:r1, c0:c1].max()
    return result


def _compartment_spans(grid: Grid, line: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    spans = []
    for full in ((grid == line).all(axis=1), (grid == line).all(axis=0)):
        edges = [-1, *np.flatnonzero(full).tolist(), len(full)]
        spans.append([(a + 1, b) for a, b in pairwise(edges) if b > a + 1])
    return spans[0], spans[1]


@primitive("rooms")
def fill_boxed_rooms(grid: Grid, colour: Colour) -> Grid:
    """Enclosed areas of ground that are rectangles take a colour; others stay."""
    result = grid.copy()
    found = False
    for area in regions(grid == 0):
        box = (slice(int(area[0].min()), int(area[0].max()) + 1), slice(int(area[1].min()), int(area[1].max()) + 1))
        if not on_border(area, grid.shape) and len(area[0]) == grid[box].size:
            result[box] = colour
            found = True
    require(found)
    return result
