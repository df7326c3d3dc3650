"""Primitives that draw: holes, outlines, rays, connections, falling cells, and grids without some of their cells."""

from __future__ import annotations

from functools import partial

import numpy as np

from solver.arc.grid import MAX_SIDE
from solver.programs.batch import Batch, Bools, Cells, Ints
from solver.programs.components import components
from solver.programs.primitive import Primitive, on_grids

SIDES: dict[str, tuple[str, bool]] = {  # the lines that a ray follows, and whether it comes from their end
    "left": ("row", False),
    "right": ("row", True),
    "up": ("column", False),
    "down": ("column", True),
    "up left": ("diagonal", False),
    "down right": ("diagonal", True),
    "up right": ("antidiagonal", False),
    "down left": ("antidiagonal", True),
}
AROUND_4 = ((0, 1), (1, 0), (0, -1), (-1, 0))
AROUND_8 = (*AROUND_4, (1, 1), (1, -1), (-1, 1), (-1, -1))


def nearest(batch: Batch, side: str) -> Cells:
    """For each cell the colour of the first cell other than 0, itself included, on the way to `side`; 0 if there is none."""
    family, backward = SIDES[side]
    order = batch.layout.along[family]
    line = batch.layout.line[family][order]
    if backward:
        order, line = order[::-1], line[::-1]
    filled = batch.filled[order]
    last = np.maximum.accumulate(np.where(filled, np.arange(len(order)), -1))
    found = (last >= 0) & (line[last] == line)
    cells = np.zeros(len(order), np.uint8)
    cells[order] = np.where(found, batch.cells[order[last]], np.uint8(0))
    return cells


def over(batch: Batch, below: Cells) -> Batch:
    """The grid with other cells where it is 0."""
    return batch.recoloured(np.where(batch.filled, batch.cells, below))


def ray(batch: Batch, sides: tuple[str, ...]) -> Batch:
    """Cells of 0 get the colour of the first other cell towards a side, the first of `sides` that has one."""
    below = np.zeros(batch.layout.total, np.uint8)
    for side in sides:
        below = np.where(below != 0, below, nearest(batch, side))
    return over(batch, below)


def connect(batch: Batch, families: tuple[tuple[str, str], ...]) -> Batch:
    """Cells of 0 between two cells of one colour get it, along pairs of opposite sides."""
    below = np.zeros(batch.layout.total, np.uint8)
    for one, other in families:
        colour = nearest(batch, one)
        below = np.where((below == 0) & (colour == nearest(batch, other)), colour, below)
    return over(batch, below)


def enclosed(batch: Batch) -> Bools:
    """Whether each cell is of 0 and cannot reach the edge over cells of 0, (total,)."""
    key = "enclosed"
    if key not in batch.memory:
        parts = components(batch, 4, ~batch.filled)
        batch.memory[key] = parts.spread(~parts.touches_edge) != 0
    found: Bools = batch.memory[key]
    return found


def fill_holes(batch: Batch) -> Batch:
    """Enclosed cells of 0 get the colour of the first other cell to their left."""
    return over(batch, np.where(enclosed(batch), nearest(batch, "left"), np.uint8(0)))


def holes(batch: Batch) -> Batch:
    """Only the enclosed cells of 0, in the colour of the first other cell to their left."""
    return batch.recoloured(np.where(enclosed(batch), nearest(batch, "left"), np.uint8(0)))


def around(batch: Batch, steps: tuple[tuple[int, int], ...]) -> Cells:
    """For each cell the largest colour among its neighbours."""
    most = np.zeros(batch.layout.total, np.uint8)
    for down, right in steps:
        place, inside = batch.layout.neighbour(down, right)
        most = np.maximum(most, np.where(inside, batch.cells[place], np.uint8(0)))
    return most


def grow(batch: Batch, steps: tuple[tuple[int, int], ...]) -> Batch:
    """Cells of 0 get the largest colour among their neighbours."""
    return over(batch, around(batch, steps))


def outline(batch: Batch, steps: tuple[tuple[int, int], ...]) -> Batch:
    """Only the cells of 0 beside others, with the largest colour among their neighbours."""
    return batch.recoloured(np.where(batch.filled, np.uint8(0), around(batch, steps)))


def inner(batch: Batch, steps: tuple[tuple[int, int], ...], keep: bool) -> Batch:
    """Only the cells whose neighbours all have a colour other than 0 (`keep`), or only the others. Outside of the grid is 0."""
    whole = batch.filled.copy()
    for down, right in steps:
        place, inside = batch.layout.neighbour(down, right)
        whole &= inside & batch.filled[place]
    return batch.recoloured(np.where(whole == keep, batch.cells, np.uint8(0)))


def fall(batch: Batch, side: str) -> Batch:
    """All cells other than 0 move to one side until they meet it or another cell; their order stays."""
    family, last = SIDES[side]
    order = batch.layout.along[family]
    line, filled = batch.layout.line[family][order], batch.filled[order]
    moved = np.argsort(line * 2 + (filled if last else ~filled), kind="stable")
    cells = np.empty_like(batch.cells)
    cells[order] = batch.cells[order][moved]
    return batch.recoloured(cells)


def slide(batch: Batch, down: int, right: int) -> Batch:
    """Objects (8 neighbours, any colours) move by whole steps until the edge or another object is in their way."""
    layout = batch.layout
    parts = components(batch, 8, one_colour=False)
    if not len(parts):
        return batch.recoloured(batch.cells.copy())
    place, owner, step = parts.inside.copy(), parts.number, down * layout.w[parts.inside] + right
    row, col, high, wide = (side[parts.inside] for side in (layout.row, layout.col, layout.h, layout.w))
    row, col = row.copy(), col.copy()
    colours = batch.cells[parts.inside]
    for _ in range(MAX_SIDE):
        held = np.full(layout.total, -1, dtype=np.int64)
        held[place] = owner
        inside = (row + down >= 0) & (row + down < high) & (col + right >= 0) & (col + right < wide)
        ahead = held[np.where(inside, place + step, place)]
        stuck = np.bincount(owner, ~inside | ((ahead >= 0) & (ahead != owner)), minlength=len(parts)) > 0
        moving = ~stuck[owner]
        if not moving.any():
            break
        row, col, place = row + down * moving, col + right * moving, place + step * moving
    cells = np.zeros_like(batch.cells)
    cells[place] = colours
    return batch.recoloured(cells)


def shift(batch: Batch, down: int, right: int) -> Batch:
    """The cells moved by some rows and columns inside their grid; 0 comes in."""
    place, inside = batch.layout.neighbour(-down, -right)
    return batch.recoloured(np.where(inside, batch.cells[place], np.uint8(0)))


def roll(batch: Batch, down: int, right: int) -> Batch:
    """The cells moved by some rows and columns; what leaves at one side comes in at the other."""
    layout = batch.layout
    return batch.take(layout, (layout.row - down) % layout.h, (layout.col - right) % layout.w)


def frame(batch: Batch, keep: bool) -> Batch:
    """Only the cells of the outermost rows and columns (`keep`), or only the others."""
    layout = batch.layout
    edge = (layout.row == 0) | (layout.col == 0) | (layout.row == layout.h - 1) | (layout.col == layout.w - 1)
    return batch.recoloured(np.where(edge == keep, batch.cells, np.uint8(0)))


def specks(batch: Batch, keep: bool) -> Batch:
    """Only the cells without a neighbour of their colour (8 neighbours) if `keep`, or only the others."""
    alone = np.ones(batch.layout.total, bool)
    for down, right in AROUND_8:
        place, inside = batch.layout.neighbour(down, right)
        alone &= ~(inside & (batch.cells[place] == batch.cells))
    return batch.recoloured(np.where(alone == keep, batch.cells, np.uint8(0)))


def blocks(batch: Batch, keep: bool) -> Batch:
    """Only the cells that are in a square of four cells other than 0 (`keep`), or only the others."""
    corner = batch.filled.copy()  # the upper left cell of such a square
    squares = [batch.layout.neighbour(down, right) for down, right in ((0, 1), (1, 0), (1, 1))]
    for place, inside in squares:
        corner &= inside & batch.filled[place]
    mask = corner.copy()
    for down, right in ((0, -1), (-1, 0), (-1, -1)):
        place, inside = batch.layout.neighbour(down, right)
        mask |= inside & corner[place]
    return batch.recoloured(np.where(mask == keep, batch.cells, np.uint8(0)))


def line_mask(batch: Batch, family: str) -> Bools:
    """Whether each cell lies in a row or column that is of one colour other than 0, (total,)."""
    line = batch.layout.line[family]
    size = int(line.max()) + 1
    low, high = np.full(size, 255, np.uint8), np.zeros(size, np.uint8)
    np.minimum.at(low, line, batch.cells)
    np.maximum.at(high, line, batch.cells)
    return ((low == high) & (high > 0))[line]


def full_lines(batch: Batch, keep: bool) -> Batch:
    """Only rows and columns of one colour other than 0 (`keep`), or only the other cells."""
    mask = line_mask(batch, "row") | line_mask(batch, "column")
    return batch.recoloured(np.where(mask == keep, batch.cells, np.uint8(0)))


def whole_lines(batch: Batch, families: tuple[str, ...]) -> Batch:
    """Each row (or column) gets its most frequent colour other than 0 in its cells of 0."""
    below = np.zeros(batch.layout.total, np.uint8)
    for family in families:
        below = np.where(below != 0, below, main_of_line(batch, batch.layout.line[family]))
    return over(batch, below)


def main_of_line(batch: Batch, line: Ints) -> Cells:
    """For each cell the most frequent colour other than 0 of its line, the lowest if several are; 0 if there is none."""
    counts = np.bincount(line * 10 + batch.cells, minlength=(int(line.max()) + 1) * 10).reshape(-1, 10)
    counts[:, 0] = 0
    return counts.argmax(1).astype(np.uint8)[line]


H, V, D, A = ("left", "right"), ("up", "down"), ("up left", "down right"), ("up right", "down left")

PRIMITIVES: tuple[Primitive, ...] = (
    on_grids("fill holes", 1, fill_holes),
    on_grids("holes", 1, holes),
    *(on_grids(f"ray {side}", 2, partial(ray, sides=(side,))) for side in SIDES),
    on_grids("ray rows", 2, partial(ray, sides=H)),
    on_grids("ray columns", 2, partial(ray, sides=V)),
    on_grids("ray cross", 2, partial(ray, sides=(*H, *V))),
    on_grids("ray diagonals", 2, partial(ray, sides=(*D, *A))),
    on_grids("connect rows", 1, partial(connect, families=(H,))),
    on_grids("connect columns", 1, partial(connect, families=(V,))),
    on_grids("connect cross", 1, partial(connect, families=(H, V))),
    on_grids("connect diagonals", 2, partial(connect, families=(D, A))),
    on_grids("connect all", 2, partial(connect, families=(H, V, D, A))),
    on_grids("grow 4", 2, partial(grow, steps=AROUND_4)),
    on_grids("grow 8", 1, partial(grow, steps=AROUND_8)),
    on_grids("grow corners", 2, partial(grow, steps=AROUND_8[4:])),
    on_grids("outline 4", 2, partial(outline, steps=AROUND_4)),
    on_grids("outline 8", 2, partial(outline, steps=AROUND_8)),
    on_grids("inner 4", 2, partial(inner, steps=AROUND_4, keep=True)),
    on_grids("inner 8", 2, partial(inner, steps=AROUND_8, keep=True)),
    on_grids("outer 4", 2, partial(inner, steps=AROUND_4, keep=False)),
    on_grids("outer 8", 2, partial(inner, steps=AROUND_8, keep=False)),
    *(on_grids(f"fall {side}", 1, partial(fall, side=side)) for side in ("left", "right", "up", "down")),
    *(on_grids(f"slide {d},{r}", 2, partial(slide, down=d, right=r)) for d, r in AROUND_4),
    *(on_grids(f"shift {d},{r}", 2, partial(shift, down=d, right=r)) for d, r in AROUND_8),
    *(on_grids(f"roll {d},{r}", 2, partial(roll, down=d, right=r)) for d, r in AROUND_4),
    on_grids("frame", 2, partial(frame, keep=True)),
    on_grids("erase frame", 2, partial(frame, keep=False)),
    on_grids("keep specks", 2, partial(specks, keep=True)),
    on_grids("erase specks", 1, partial(specks, keep=False)),
    on_grids("keep blocks", 2, partial(blocks, keep=True)),
    on_grids("erase blocks", 2, partial(blocks, keep=False)),
    on_grids("keep lines", 2, partial(full_lines, keep=True)),
    on_grids("erase lines", 2, partial(full_lines, keep=False)),
    on_grids("whole rows", 2, partial(whole_lines, families=("row",))),
    on_grids("whole columns", 2, partial(whole_lines, families=("column",))),
    on_grids("whole lines", 2, partial(whole_lines, families=("row", "column"))),
)
