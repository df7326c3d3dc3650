"""Primitives that draw on a grid: rays and lines, neighbourhoods of cells, filling of areas."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import (
    STEPS,
    UPRIGHT,
    Axis,
    Cells,
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


@primitive("points")
def rays(grid: Grid, direction: Direction) -> Grid:
    """Extend every filled cell in one direction, in its colour, up to the next filled cell or the border."""
    up = UPRIGHT[direction](grid)
    last = np.maximum.accumulate(np.where(up > 0, np.arange(up.shape[0])[:, None], -1), axis=0)
    reached = np.where(last >= 0, np.take_along_axis(up, np.maximum(last, 0), axis=0), np.uint8(0))
    return UPRIGHT[direction](reached.astype(np.uint8))


@primitive("walls")
def rays_to_wall(grid: Grid, wall: Special, direction: Direction) -> Grid:
    """Extend every filled cell that is not wall in one direction, in its colour, up to the next filled cell or the border."""
    shot = rays(grid, direction)
    return np.where((grid == 0) & (shot == wall), np.uint8(0), shot)


@primitive("walls")
def grow_until_wall(grid: Grid, wall: Special) -> Grid:
    """Extend every filled cell that is not wall in all four directions, up to the next filled cell or the border."""
    result = grid.copy()
    for direction in STEPS:
        shot = rays_to_wall(grid, wall, direction)
        clash = (result > 0) & (shot > 0) & (result != shot)
        require(not clash.any())
        result = np.maximum(result, shot)
    return result


@primitive("points")
def full_lines(grid: Grid, axis: Axis) -> Grid:
    """Fill the row (or the column) of every filled cell with its colour. Raises Unfit if a line has two filled cells."""
    lines = grid if axis == "rows" else grid.T
    require(((lines > 0).sum(axis=1) <= 1).all())
    full = np.repeat(lines.max(axis=1, keepdims=True), lines.shape[1], axis=1)
    return full if axis == "rows" else full.T


@primitive("points", leaves=("rooms",))
def crosses(grid: Grid, crossing: Colour) -> Grid:
    """Fill the row and the column of every filled cell with its colour; where a row and a column cross, use `crossing`."""
    rows, columns = full_lines(grid, "rows"), full_lines(grid, "columns")
    both = (rows > 0) & (columns > 0) & (grid == 0)
    return np.where(both, np.uint8(crossing), np.maximum(rows, columns))


@primitive("points", leaves=("rooms",))
def diagonals(grid: Grid, ways: Literal["falling", "rising", "both"]) -> Grid:
    """Draw the diagonals through every filled cell in its colour, up to the border. Raises Unfit if two colours cross."""
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
    """Draw a diagonal from the only filled cell, in a corner, through the grid; it bounces off the long sides."""
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


@primitive("partners", leaves=("rooms",))
def connect(grid: Grid, colour: Literal["own", "other"], other: Colour) -> Grid:
    """Draw a line between two cells of one colour in a row or column with only ground between them."""
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


@primitive("corners", leaves=("rooms",))
def fill_between_corners(grid: Grid, what: Literal["inside", "frame", "all"], colour: Colour) -> Grid:
    """Draw the rectangle whose four corners are cells of one colour: its inside, its frame or both."""
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
    """Extend the tip of every arrow (a body cell and a tip cell side by side) away from the body, up to a filled cell."""
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
    """Colour the ground around every filled cell: its four neighbours, its four diagonal neighbours, or all eight."""
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
    """Draw a sign around every cell in its own colour: a plus, a cross or a ring, depending on the colour."""
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
    """Colour the ground next to every filled cell on one side."""
    down, right = STEPS[direction]
    rows, columns = grid.shape
    padded = np.pad(grid > 0, 1)
    shaded = padded[1 - down : 1 - down + rows, 1 - right : 1 - right + columns]
    return np.where(shaded & (grid == 0), np.uint8(colour), grid)


@primitive("stamp")
def stamp_at_points(grid: Grid) -> Grid:
    """Centre a copy of the only thing with several cells on every lone cell."""
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


def _mask_of(grid: Grid, area: Cells) -> Mask:
    mask = np.zeros(grid.shape, dtype=bool)
    mask[area] = True
    return mask


@primitive("lines")
def paint_crossings(grid: Grid, colour: Colour) -> Grid:
    """Recolour the cells where a full row and a full column cross."""
    rows, columns = (grid > 0).all(axis=1), (grid > 0).all(axis=0)
    return np.where(np.logical_and.outer(rows, columns), np.uint8(colour), grid)


@primitive("corridors")
def paint_corridors(grid: Grid, axis: Literal["rows", "columns", "both"], colour: Colour) -> Grid:
    """Colour the rows (or columns, or both) that are all ground."""
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
    """Colour the ground that is enclosed: no 4-connected path of ground leads from it to the border."""
    return np.where(enclosed(grid > 0), np.uint8(colour), grid)


@primitive("rooms")
def fill_outside(grid: Grid, colour: Colour) -> Grid:
    """Colour the ground that is not enclosed."""
    return np.where((grid == 0) & ~enclosed(grid > 0), np.uint8(colour), grid)


@primitive("rooms")
def fill_both(grid: Grid, inside: Colour, outside: Colour) -> Grid:
    """Colour enclosed ground with one colour and all other ground with another."""
    return fill_outside(fill_enclosed(grid, inside), outside)


@primitive("rooms")
def fill_rooms_by_size(grid: Grid, measure: Literal["most", "least"], colour: Colour) -> Grid:
    """Colour the largest (or smallest) connected area of ground."""
    areas = sorted(regions(grid == 0), key=lambda area: len(area[0]), reverse=measure == "most")
    require(len(areas) > 1 and len(areas[0][0]) != len(areas[1][0]))
    result = grid.copy()
    result[areas[0]] = colour
    return result


@primitive("seeded")
def flood(grid: Grid, wall: Special) -> Grid:
    """Fill every area between walls with the colour of the filled cells in it; an area has at most one such colour."""
    result = grid.copy()
    for area in regions(grid != wall):
        seeds = np.unique(grid[area])
        require(len(seeds[seeds > 0]) <= 1)
        result[area] = seeds[-1]
    return result


@primitive()
def add_frame(grid: Grid, colour: Colour) -> Grid:
    """Add a frame one cell wide around the grid."""
    return np.pad(grid, 1, constant_values=colour)


@primitive(weight=0.3)
def paint_border(grid: Grid, colour: Colour) -> Grid:
    """Recolour the cells on the border of the grid."""
    require(grid[1:-1, 1:-1].any())
    result = np.full_like(grid, colour)
    result[1:-1, 1:-1] = grid[1:-1, 1:-1]
    return result


@primitive("texture")
def fill_largest_gap(grid: Grid, colour: Colour) -> Grid:
    """Colour the largest rectangle of ground. Raises Unfit if two rectangles are equally large."""
    result = grid.copy()
    result[_largest_gap(grid == 0)] = colour
    return result


def _largest_gap(ground: Mask) -> tuple[slice, slice]:
    """The only largest rectangle of true cells. Raises Unfit if there are several, or if it has fewer than four cells."""
    best, ties, gap = 0, 0, (slice(0), slice(0))
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
                    best, ties, gap = area, 0, (slice(bottom + 1 - low, bottom + 1), slice(left, right + 1))
                elif area == best:
                    ties += 1
    require(best > 3 and not ties)
    return gap


@primitive("rooms")
def fill_boxed_rooms(grid: Grid, colour: Colour) -> Grid:
    """Colour the enclosed areas of ground that are rectangles."""
    result = grid.copy()
    filled = False
    for area in regions(grid == 0):
        box = (slice(int(area[0].min()), int(area[0].max()) + 1), slice(int(area[1].min()), int(area[1].max()) + 1))
        if not on_border(area, grid.shape) and len(area[0]) == grid[box].size:
            result[box] = colour
            filled = True
    require(filled)
    return result


@primitive("loose")
def mark_crowded(grid: Grid, least: Literal[2, 3], colour: Colour) -> Grid:
    """Recolour the filled cells with at least `least` filled neighbours, diagonal ones not counted."""
    return np.where((grid > 0) & (_filled_neighbours(grid) >= least), np.uint8(colour), grid)


@primitive("loose")
def mark_lonely(grid: Grid, colour: Colour) -> Grid:
    """Recolour the filled cells without a filled neighbour, diagonal ones not counted."""
    return np.where((grid > 0) & (_filled_neighbours(grid) == 0), np.uint8(colour), grid)


def _filled_neighbours(grid: Grid) -> NDArray[np.int_]:
    """(rows, columns) how many of the four neighbours of each cell are filled."""
    around = np.pad(grid > 0, 1).astype(int)
    neighbours: NDArray[np.int_] = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    return neighbours


@primitive("ends")
def elbow(grid: Grid, start: Special, end: Special, first: Axis, colour: Colour) -> Grid:
    """Draw a line with one bend from the start cell to the end cell; it leaves the start along its row or its column."""
    (row, column), (last_row, last_column) = np.argwhere(grid == start)[0], np.argwhere(grid == end)[0]
    bend = (row, last_column) if first == "rows" else (last_row, column)
    result = grid.copy()
    for r, c in ((row, column), (last_row, last_column)):
        result[min(r, bend[0]) : max(r, bend[0]) + 1, min(c, bend[1]) : max(c, bend[1]) + 1] = colour
    result[row, column], result[last_row, last_column] = start, end
    return result


@primitive("ends")
def span_box(grid: Grid, what: Literal["frame", "inside"], colour: Colour) -> Grid:
    """Draw the rectangle with two cells at opposite corners, its frame or all of it; the cells keep their colours."""
    box = content_box(grid > 0)
    result = grid.copy()
    result[box] = colour
    if what == "frame":
        result[box][1:-1, 1:-1] = 0
    return np.where(grid > 0, grid, result)


def _shores(grid: Grid) -> tuple[Grid, bool]:
    """The grid, transposed if needed, so that its two single-coloured borders are the first and the last column.

    Also gives whether it was transposed. Raises Unfit if no two opposite borders are of two different colours.
    """
    for turned in (False, True):
        lines = grid.T if turned else grid
        first, last = lines[:, 0], lines[:, -1]
        if first[0] and last[0] and first[0] != last[0] and (first == first[0]).all() and (last == last[0]).all():
            return lines, turned
    raise Unfit


def _between_shores(lines: Grid) -> list[list[int]]:
    """[row, column] of every filled cell between the first and the last column."""
    return [[row, column + 1] for row, column in np.argwhere(lines[:, 1:-1] > 0).tolist()]


@primitive("shores")
def rays_to_shore(grid: Grid) -> Grid:
    """Draw a line from every cell in the colour of one of the two coloured borders to that border."""
    lines, turned = _shores(grid)
    result = lines.copy()
    for row, column in _between_shores(lines):
        if lines[row, column] == lines[0, 0]:
            result[row, 1:column] = lines[row, column]
        elif lines[row, column] == lines[0, -1]:
            result[row, column:-1] = lines[row, column]
    return result.T if turned else result


@primitive("shores")
def move_to_shore(grid: Grid, others: Literal["stay", "go"]) -> Grid:
    """Move every cell in the colour of one of the two coloured borders next to it; keep or erase all others."""
    lines, turned = _shores(grid)
    result = lines.copy()
    result[:, 1:-1] = 0
    for row, column in _between_shores(lines):
        colour = lines[row, column]
        if colour == lines[0, 0]:
            result[row, 1] = colour
        elif colour == lines[0, -1]:
            result[row, -2] = colour
        elif others == "stay":
            result[row, column] = colour
    return result.T if turned else result


@primitive("shores")
def paint_by_nearest_shore(grid: Grid) -> Grid:
    """Recolour every cell between the two coloured borders with the colour of the nearer border."""
    lines, turned = _shores(grid)
    columns = np.arange(lines.shape[1])
    left, right = columns, lines.shape[1] - 1 - columns
    require(not ((lines > 0) & (left == right)).any())
    painted = np.where(lines > 0, np.where(left < right, lines[0, 0], lines[0, -1]), np.uint8(0))
    return painted.T if turned else painted


@primitive("strip")
def grow_rows(grid: Grid, direction: Literal["longer", "shorter"]) -> Grid:
    """Make a grid from one row, half as high as wide: in each next row the run of filled cells is one longer (or shorter)."""
    (row,) = grid
    filled = int((row > 0).sum())
    rows = []
    for step in range(len(row) // 2):
        length = filled + step if direction == "longer" else filled - step
        require(length <= len(row))
        rows.append([int(row[min(i, filled - 1)]) if i < length else 0 for i in range(len(row))])
    return np.array(rows, dtype=np.uint8)


@primitive("strip")
def shift_rows(grid: Grid) -> Grid:
    """Make a square grid from one row: each next row is shifted one cell to the right, cut off at the border."""
    (row,) = grid
    return np.array([[*([0] * step), *row[: len(row) - step].tolist()] for step in range(len(row))], dtype=np.uint8)
