"""Primitives that change colours."""

from __future__ import annotations

from functools import partial

import numpy as np

from solver.programs.batch import Batch
from solver.programs.primitive import Primitive, on_grids


def keep_colour(batch: Batch, colour: int) -> Batch:
    """Only the cells of one colour; the others become 0."""
    return batch.recoloured(np.where(batch.cells == colour, batch.cells, np.uint8(0)))


def erase_colour(batch: Batch, colour: int) -> Batch:
    """Cells of one colour become 0."""
    return batch.recoloured(np.where(batch.cells == colour, np.uint8(0), batch.cells))


def paint(batch: Batch, colour: int) -> Batch:
    """Every cell other than 0 gets one colour."""
    return batch.recoloured(np.where(batch.filled, np.uint8(colour), np.uint8(0)))


def invert(batch: Batch) -> Batch:
    """Cells of 0 get the grid's main colour, all others become 0. No result for an empty grid."""
    main = batch.main[batch.layout.grid]
    return batch.recoloured(np.where(batch.filled, np.uint8(0), main)).only(batch.area > 0)


def keep_main(batch: Batch) -> Batch:
    """Only the cells of the most frequent colour other than 0."""
    return batch.recoloured(np.where(batch.cells == batch.main[batch.layout.grid], batch.cells, np.uint8(0)))


def erase_main(batch: Batch) -> Batch:
    """Cells of the most frequent colour other than 0 become 0."""
    return batch.recoloured(np.where(batch.cells == batch.main[batch.layout.grid], np.uint8(0), batch.cells))


def keep_rare(batch: Batch) -> Batch:
    """Only the cells of the least frequent colour other than 0."""
    return batch.recoloured(np.where(batch.cells == batch.rare[batch.layout.grid], batch.cells, np.uint8(0)))


def paint_main(batch: Batch) -> Batch:
    """Every cell other than 0 gets the grid's main colour."""
    return batch.recoloured(np.where(batch.filled, batch.main[batch.layout.grid], np.uint8(0)))


def paint_rare(batch: Batch) -> Batch:
    """Every cell other than 0 gets the grid's rarest colour."""
    return batch.recoloured(np.where(batch.filled, batch.rare[batch.layout.grid], np.uint8(0)))


def swap_two(batch: Batch) -> Batch:
    """Exchange the colours of a grid of exactly two colours. No result for other grids."""
    present = batch.counts > 0
    first, last = present.argmax(1), 9 - present[:, ::-1].argmax(1)
    two = present.sum(1) == 2
    both = (first + last).astype(np.uint8)[batch.layout.grid]
    return batch.recoloured(np.where(two[batch.layout.grid], both - batch.cells, batch.cells)).only(two)


PRIMITIVES: tuple[Primitive, ...] = (
    *(on_grids(f"keep {c}", 1, partial(keep_colour, colour=c), c) for c in range(1, 10)),
    *(on_grids(f"erase {c}", 1, partial(erase_colour, colour=c), c) for c in range(1, 10)),
    *(on_grids(f"paint {c}", 2, partial(paint, colour=c), c) for c in range(1, 10)),
    on_grids("invert", 1, invert),
    on_grids("keep main", 1, keep_main),
    on_grids("erase main", 1, erase_main),
    on_grids("keep rare", 1, keep_rare),
    on_grids("paint main", 2, paint_main),
    on_grids("paint rare", 2, paint_rare),
    on_grids("swap two", 2, swap_two),
)
