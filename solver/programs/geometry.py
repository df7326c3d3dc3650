"""Primitives that rearrange cells: symmetries, parts, tilings, scales, crops, moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from solver.arc.grid import MAX_SIDE
from solver.programs.batch import Batch, Ints, Layout
from solver.programs.primitive import Primitive, on_grids

# from row and column in the result, and height and width of the source, to row and column in the source
Coordinates = Callable[[Ints, Ints, Ints, Ints], tuple[Ints, Ints]]

SYMMETRIES: dict[str, tuple[bool, Coordinates]] = {  # whether sides are exchanged, and where a cell comes from
    "rot90": (True, lambda r, c, _, w: (c, w - 1 - r)),
    "rot180": (False, lambda r, c, h, w: (h - 1 - r, w - 1 - c)),
    "rot270": (True, lambda r, c, h, _: (h - 1 - c, r)),
    "flip_lr": (False, lambda r, c, _, w: (r, w - 1 - c)),
    "flip_ud": (False, lambda r, c, h, _: (h - 1 - r, c)),
    "transpose": (True, lambda r, c, _h, _w: (c, r)),
    "antitranspose": (True, lambda r, c, h, w: (h - 1 - c, w - 1 - r)),
}


def symmetry(batch: Batch, name: str) -> Batch:
    """The grid under one symmetry of the square; its place stays."""
    swaps, source = SYMMETRIES[name]
    layout = Layout(batch.layout.width, batch.layout.height) if swaps else batch.layout
    grid = layout.grid
    return batch.take(layout, *source(layout.row, layout.col, batch.layout.height[grid], batch.layout.width[grid]))


def crop_to_content(batch: Batch) -> Batch:
    """The smallest box around the cells other than 0. No result for an empty grid."""
    return batch.crop(*batch.box)


def box_of_content(batch: Batch) -> Batch:
    """The smallest box around the cells other than 0, filled with the main colour."""
    cropped = batch.crop(*batch.box)
    return cropped.recoloured(batch.main[cropped.layout.grid])


def to_origin(batch: Batch) -> Batch:
    """The same grid placed at row 0, column 0."""
    return batch.moved(np.zeros_like(batch.top), np.zeros_like(batch.left))


def half(batch: Batch, side: str) -> Batch:
    """One half; a middle row or column is left out. No result where there is nothing left."""
    height, width = batch.layout.height, batch.layout.width
    zero = np.zeros_like(height)
    if side in ("top", "bottom"):
        part = height // 2
        return batch.crop(zero if side == "top" else height - part, zero, part, np.where(part > 0, width, 0))
    part = width // 2
    return batch.crop(zero, zero if side == "left" else width - part, np.where(part > 0, height, 0), part)


def mirror(batch: Batch, down: str, right: str) -> Batch:
    """The grid with mirrored copies beside it. `down`, `right`: "" for none, "after" (grid first), "before" (copy first)."""
    height, width = batch.layout.height, batch.layout.width
    layout = Layout.limited(height * (2 if down else 1), width * (2 if right else 1))
    row, col, h, w = layout.row, layout.col, height[layout.grid], width[layout.grid]
    if down:
        row = np.where((row < h) == (down == "after"), row % h, h - 1 - row % h)
    if right:
        col = np.where((col < w) == (right == "after"), col % w, w - 1 - col % w)
    return batch.take(layout, row, col)


def tile(batch: Batch, down: int, right: int) -> Batch:
    """The grid repeated `down` times below and `right` times beside itself."""
    layout = Layout.limited(batch.layout.height * down, batch.layout.width * right)
    grid = layout.grid
    return batch.take(layout, layout.row % batch.layout.height[grid], layout.col % batch.layout.width[grid])


def enlarge(batch: Batch, down: int, right: int) -> Batch:
    """Every cell becomes a block of `down` rows and `right` columns."""
    layout = Layout.limited(batch.layout.height * down, batch.layout.width * right)
    return batch.take(layout, layout.row // down, layout.col // right)


def enlarge_by(batch: Batch, number: str) -> Batch:
    """Every cell becomes a square block with sides of the grid's number of colours other than 0, or of cells other than 0."""
    factor = batch.area if number == "area" else (batch.counts[:, 1:] > 0).sum(1)
    layout = Layout.limited(batch.layout.height * factor, batch.layout.width * factor)
    each = np.maximum(factor, 1)[layout.grid]
    return batch.take(layout, layout.row // each, layout.col // each)


def trim(batch: Batch) -> Batch:
    """The grid without its first and last rows and columns."""
    one = np.ones_like(batch.top)
    return batch.crop(one, one, np.maximum(batch.layout.height - 2, 0), np.maximum(batch.layout.width - 2, 0))


def pad(batch: Batch) -> Batch:
    """The grid with a row or column of 0 at each side."""
    layout = Layout.limited(batch.layout.height + 2, batch.layout.width + 2)
    return batch.take_or_zero(layout, layout.row - 1, layout.col - 1, batch.top - 1, batch.left - 1)


def symmetric(batch: Batch, names: tuple[str, ...]) -> Batch:
    """The grid with what its images under some symmetries show where it is 0. No result where an image has another shape."""
    fits = np.ones(len(batch), bool)
    if any(SYMMETRIES[name][0] for name in names):
        fits = batch.layout.height == batch.layout.width
    square = batch.only(fits)
    cells = square.cells
    for name in names:
        cells = np.where(cells != 0, cells, symmetry(square, name).cells)
    return square.recoloured(cells)


def squeeze(batch: Batch, keep: str) -> Batch:
    """Only rows and columns that are not all 0 ("filled"), or that differ from the one before ("changes")."""
    layout = batch.layout
    if keep == "filled":
        low = batch.filled
        high = batch.filled
    else:
        above, has_above = layout.neighbour(-1, 0)
        before, has_before = layout.neighbour(0, -1)
        low = ~has_above | (batch.cells != batch.cells[above])
        high = ~has_before | (batch.cells != batch.cells[before])
    rows = np.bincount(layout.grid * MAX_SIDE + layout.row, low, minlength=len(batch) * MAX_SIDE) > 0
    cols = np.bincount(layout.grid * MAX_SIDE + layout.col, high, minlength=len(batch) * MAX_SIDE) > 0
    kept = rows[layout.grid * MAX_SIDE + layout.row] & cols[layout.grid * MAX_SIDE + layout.col]
    shape = [side.reshape(-1, MAX_SIDE).sum(1) for side in (rows, cols)]
    return Batch(Layout.limited(*shape), batch.cells[kept], batch.top, batch.left)


def one_cell(batch: Batch, colour: str) -> Batch:
    """A single cell of the main (or rarest) colour. No result for an empty grid."""
    some = (batch.area > 0).astype(np.int64)
    cells = batch.main if colour == "main" else batch.rare
    return Batch(Layout(some, some), cells[some > 0], batch.top, batch.left)


PRIMITIVES: tuple[Primitive, ...] = (
    *(on_grids(name, 1, partial(symmetry, name=name)) for name in SYMMETRIES),
    on_grids("crop", 1, crop_to_content),
    on_grids("box", 1, box_of_content),
    on_grids("to origin", 1, to_origin),
    *(on_grids(f"half {side}", 1, partial(half, side=side)) for side in ("top", "bottom", "left", "right")),
    *(
        on_grids(f"mirror {down or '-'} {right or '-'}", 2, partial(mirror, down=down, right=right))
        for down in ("", "after", "before")
        for right in ("", "after", "before")
        if down or right
    ),
    *(on_grids(f"tile {d}x{r}", 2, partial(tile, down=d, right=r)) for d, r in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (3, 3))),
    *(on_grids(f"enlarge {d}x{r}", 2, partial(enlarge, down=d, right=r)) for d, r in ((2, 2), (3, 3), (1, 2), (2, 1))),
    on_grids("enlarge by colours", 2, partial(enlarge_by, number="colours")),
    on_grids("enlarge by area", 2, partial(enlarge_by, number="area")),
    on_grids("trim", 2, trim),
    on_grids("pad", 2, pad),
    on_grids("symmetric lr", 2, partial(symmetric, names=("flip_lr",))),
    on_grids("symmetric ud", 2, partial(symmetric, names=("flip_ud",))),
    on_grids("symmetric diagonal", 2, partial(symmetric, names=("transpose",))),
    on_grids("symmetric turn", 2, partial(symmetric, names=("rot90", "rot180", "rot270"))),
    on_grids("symmetric all", 1, partial(symmetric, names=tuple(SYMMETRIES))),
    on_grids("squeeze", 1, partial(squeeze, keep="filled")),
    on_grids("deduplicate", 1, partial(squeeze, keep="changes")),
    on_grids("cell main", 1, partial(one_cell, colour="main")),
    on_grids("cell rare", 1, partial(one_cell, colour="rare")),
)
