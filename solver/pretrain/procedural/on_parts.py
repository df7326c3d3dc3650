"""Primitives that crop a grid or redraw parts of it: frames, masked patterns, compartments, rings."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.on_lines import connect
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import (
    UPRIGHT,
    Colour,
    Direction,
    Special,
    Unfit,
    content_box,
    regions,
    require,
    tile_sizes,
)


@primitive()
def trim(grid: Grid) -> Grid:
    """Crop the smallest box that contains all filled cells."""
    return grid[content_box(grid > 0)]


@primitive(weight=0.5)
def peel(grid: Grid) -> Grid:
    """Remove the outermost cells of the grid."""
    require(min(grid.shape) > 2)
    return grid[1:-1, 1:-1]


@primitive(weight=0.5)
def half(grid: Grid, side: Direction) -> Grid:
    """Crop the half of the grid on one side. Raises Unfit if the number of lines is odd."""
    require(grid.shape[0 if side in ("up", "down") else 1] % 2 == 0)
    up = UPRIGHT[side](grid)
    return UPRIGHT[side](up[up.shape[0] // 2 :])


@primitive("framed", leaves=("motif",))
def inside_frame(grid: Grid, frame: Special) -> Grid:
    """Crop the inside of the only rectangular frame."""
    rows, columns = content_box(grid == frame)
    return grid[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1]


@primitive("framed")
def erase_outside(grid: Grid, frame: Special) -> Grid:
    """Erase everything outside the only rectangular frame."""
    box = content_box(grid == frame)
    result = np.zeros_like(grid)
    result[box] = grid[box]
    return result


@primitive("framed")
def erase_inside(grid: Grid, frame: Special) -> Grid:
    """Erase everything inside the only rectangular frame."""
    rows, columns = content_box(grid == frame)
    result = grid.copy()
    result[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = 0
    return result


@primitive("framed")
def inside_to_frame_colour(grid: Grid, frame: Special) -> Grid:
    """Recolour the filled cells inside the only rectangular frame with the frame's colour."""
    rows, columns = content_box(grid == frame)
    result = grid.copy()
    result[rows, columns] = np.where(grid[rows, columns] > 0, np.uint8(frame), np.uint8(0))
    return result


@primitive("noisy", leaves=("objects",))
def denoise(grid: Grid, noise: Special) -> Grid:
    """Erase the cells of the noise colour."""
    return np.where(grid == noise, np.uint8(0), grid)


@primitive("dusty", leaves=("objects",))
def drop_dust(grid: Grid) -> Grid:
    """Erase the filled cells without a filled neighbour, diagonal ones counted."""
    result = grid.copy()
    for area in regions(grid > 0, diagonal=True):
        if len(area[0]) == 1:
            result[area] = 0
    return result


@primitive("dusty")
def keep_dust(grid: Grid) -> Grid:
    """Keep the filled cells without a filled neighbour, diagonal ones counted, and erase all others."""
    return np.where(drop_dust(grid) == 0, grid, np.uint8(0))


@primitive("symmetric")
def restore_symmetry(grid: Grid, mask: Special) -> Grid:
    """Redraw the masked cells of a grid that mirrors itself along rows and columns."""
    result = grid.copy()
    for turned in (grid[:, ::-1], grid[::-1], grid[::-1, ::-1]):
        result = np.where((result == mask) & (turned != mask), turned, result)
    require((result != mask).all())
    return result


@primitive("symmetric", leaves=("motif",))
def hidden_by_symmetry(grid: Grid, mask: Special) -> Grid:
    """Crop the masked part of a grid that mirrors itself along rows and columns, redrawn."""
    return restore_symmetry(grid, mask)[content_box(grid == mask)]


@primitive("periodic")
def restore_tiling(grid: Grid, mask: Special) -> Grid:
    """Redraw the masked cells of a grid that is one repeated tile, with the smallest tile that fits."""
    known = grid != mask
    for down, across in tile_sizes(grid.shape):
        rows, columns = np.indices(grid.shape)
        place = rows % down * across + columns % across
        tile = np.zeros(down * across, dtype=np.uint8)
        tile[place[known]] = grid[known]
        seen = np.zeros(down * across, dtype=bool)
        seen[place[known]] = True
        if seen.all() and np.array_equal(tile[place][known], grid[known]):
            return tile[place]
    raise Unfit


@primitive("periodic", leaves=("motif",))
def hidden_by_tiling(grid: Grid, mask: Special) -> Grid:
    """Crop the masked part of a grid that is one repeated tile, redrawn."""
    return restore_tiling(grid, mask)[content_box(grid == mask)]


@primitive("unfinished")
def continue_rows(grid: Grid) -> Grid:
    """Continue the periodic sequence of rows at the top over the empty rows at the bottom."""
    filled = int((grid > 0).any(axis=1).sum())
    for period in range(1, filled):
        if np.array_equal(grid[period:filled], grid[: filled - period]):
            return grid[np.arange(grid.shape[0]) % period]
    raise Unfit


@primitive("symmetric_half")
def complete_half(grid: Grid, direction: Direction) -> Grid:
    """Mirror the filled half of the grid into the empty half."""
    up = UPRIGHT[direction](grid)
    require(not up[(up.shape[0] + 1) // 2 :].any())
    return UPRIGHT[direction](np.maximum(up, up[::-1]))


@primitive("lattice", leaves=("motif",))
def compartments(grid: Grid, line: Special) -> Grid:
    """Shrink every compartment between the lines to one cell of the colour drawn in it."""
    rows, columns = _compartment_spans(grid, line)
    small = np.array([[grid[r0:r1, c0:c1].max() for c0, c1 in columns] for r0, r1 in rows], dtype=np.uint8)
    require(small.size > 1)
    return small


@primitive("lattice")
def fill_compartments(grid: Grid, line: Special) -> Grid:
    """Fill every compartment between the lines with the colour drawn in it."""
    result = grid.copy()
    rows, columns = _compartment_spans(grid, line)
    for r0, r1 in rows:
        for c0, c1 in columns:
            result[r0:r1, c0:c1] = grid[r0:r1, c0:c1].max()
    return result


def _compartment_spans(grid: Grid, line: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(first, end) of the rows, and of the columns, of the compartments between full lines of a colour."""
    spans = []
    for full in ((grid == line).all(axis=1), (grid == line).all(axis=0)):
        edges = [-1, *np.flatnonzero(full).tolist(), len(full)]
        spans.append([(a + 1, b) for a, b in pairwise(edges) if b > a + 1])
    return spans[0], spans[1]


@primitive("knots", weight=3)
def connect_compartments(grid: Grid, line: Special) -> Grid:
    """Fill the compartments between two full ones of one colour in the same row or column with that colour."""
    result = grid.copy()
    rows, columns = _compartment_spans(grid, line)
    small = np.array([[grid[r0, c0] for c0, _ in columns] for r0, _ in rows], dtype=np.uint8)
    joined = connect(small, "own", Colour(0))
    for (row, column), colour in np.ndenumerate(joined):
        result[rows[row][0] : rows[row][1], columns[column][0] : columns[column][1]] = colour
    return result


@primitive("mirror_line", weight=2)
def reflect_across(grid: Grid, line: Special, keep: Literal["both", "image"]) -> Grid:
    """Mirror the cells on one side of a full line to the other side; keep or erase the original."""
    image = grid[::-1] if (grid == line).all(axis=1).any() else grid[:, ::-1]
    if keep == "image":
        return image
    return np.maximum(grid, image)


@primitive("onion", weight=2)
def reverse_rings(grid: Grid) -> Grid:
    """Reverse the order of the colours of concentric square rings."""
    rings = _ring_colours(grid)
    return _from_rings(grid, rings[::-1])


@primitive("onion", weight=2)
def rotate_rings(grid: Grid, way: Literal["out", "in"]) -> Grid:
    """Give every concentric square ring the colour of the next one inside (or outside); the last takes the first's."""
    rings = _ring_colours(grid)
    return _from_rings(grid, [*rings[1:], rings[0]] if way == "out" else [rings[-1], *rings[:-1]])


@primitive("onion")
def list_rings(grid: Grid) -> Grid:
    """List the colours of concentric square rings in a row, from outside to inside."""
    return np.array([_ring_colours(grid)], dtype=np.uint8)


def _ring_colours(grid: Grid) -> list[int]:
    """The colours of concentric square rings, from outside to inside. Raises Unfit if all are the same."""
    rings = [int(grid[i, i]) for i in range((len(grid) + 1) // 2)]
    require(len(set(rings)) > 1)
    return rings


def _from_rings(grid: Grid, rings: list[int]) -> Grid:
    """Concentric square rings of the size of `grid` in the given colours, from outside to inside."""
    rows, columns = np.indices(grid.shape)
    depth = np.minimum(np.minimum(rows, columns), np.minimum(len(grid) - 1 - rows, len(grid) - 1 - columns))
    return np.array(rings, dtype=np.uint8)[depth]
