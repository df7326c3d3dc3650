"""Primitives that describe: every cell gets a number from 0 to 9 that says something about it, its object, its row or its place.

Their results feed the learnt tables, which know what the numbers mean, and are not the start of other functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from solver.arc.grid import MAX_SIDE
from solver.programs.batch import Batch, Ints
from solver.programs.components import Components, components
from solver.programs.drawing import AROUND_4, AROUND_8
from solver.programs.primitive import Primitive, on_grids

OBJECTS: dict[str, tuple[int, bool]] = {"4": (4, True), "8": (8, True), "mixed": (8, False)}  # neighbours, of one colour
CODES = np.random.default_rng(5).integers(1, 2**62, MAX_SIDE * MAX_SIDE, dtype=np.int64)  # of each place in a grid


def _numbers(batch: Batch, values: Ints) -> Batch:
    return batch.recoloured(np.clip(values, 0, 9).astype(np.uint8))


def same_shape(parts: Components) -> Ints:
    """For each component how many components of its grid have its shape, itself included."""
    layout, inside, number = parts.batch.layout, parts.inside, parts.number
    top, left, _, _ = parts.box
    # a shape is told by the sum of random numbers of its cells, which are counted from its own corner
    place = (layout.row[inside] - top[number]) * MAX_SIDE + layout.col[inside] - left[number]
    total = np.zeros(len(parts), np.int64)
    np.add.at(total, number, CODES[place])
    key = total ^ (parts.grid * 0x9E3779B97F4A7C1)
    _, which, count = np.unique(key, return_inverse=True, return_counts=True)
    return count[which]


def hole_count(parts: Components) -> Ints:
    """For each component the enclosed parts of 0 in its grid whose left neighbour belongs to it."""
    batch = parts.batch
    empty = components(batch, 4, ~batch.filled)
    inner = np.flatnonzero(~empty.touches_edge)
    beside = parts.of[empty.first[inner] - 1] if len(inner) else np.zeros(0, np.int64)
    return np.bincount(beside[beside >= 0], minlength=len(parts))


def colours_in(parts: Components) -> Ints:
    """For each component how many colours it has."""
    seen = np.unique(parts.number * 10 + parts.batch.cells[parts.inside])
    return np.bincount(seen // 10, minlength=len(parts))


def direction(parts: Components) -> Ints:
    """1 for wide components, 2 for high ones, 3 for those with square boxes."""
    _, _, height, width = parts.box
    return np.where(width > height, 1, np.where(height > width, 2, 3))


OBJECT_NUMBERS: dict[str, Callable[[Components], Ints]] = {
    "size": lambda parts: parts.area,
    "rank": lambda parts: parts.rank(parts.area) + 1,
    "rank up": lambda parts: parts.rank(-parts.area) + 1,
    "height": lambda parts: parts.box[2],
    "width": lambda parts: parts.box[3],
    "direction": direction,
    "edge": lambda parts: 1 + parts.touches_edge,
    "solid": lambda parts: 1 + (parts.area == parts.box[2] * parts.box[3]),
    "holes": lambda parts: 1 + hole_count(parts),
    "alike": same_shape,
    "across": lambda parts: parts.rank(-parts.box[1]) + 1,
    "down": lambda parts: parts.rank(-parts.box[0]) + 1,
}


def object_numbers(batch: Batch, kind: str, number: str) -> Batch:
    """Each object's cells get a number that describes it, at most 9."""
    neighbours, one_colour = OBJECTS[kind]
    parts = components(batch, neighbours, one_colour=one_colour)
    return _numbers(batch, parts.spread(OBJECT_NUMBERS[number](parts)))


def object_colours(batch: Batch) -> Batch:
    """Each object of mixed colours gets the number of its colours."""
    parts = components(batch, 8, one_colour=False)
    return _numbers(batch, parts.spread(colours_in(parts)))


def gap_numbers(batch: Batch, number: str) -> Batch:
    """Each connected part of 0 gets a number that describes it, at most 9; other cells 0."""
    parts = components(batch, 4, ~batch.filled)
    return _numbers(batch, parts.spread(OBJECT_NUMBERS[number](parts)))


def neighbour_count(batch: Batch, steps: tuple[tuple[int, int], ...]) -> Batch:
    """How many neighbours have a colour other than 0."""
    count = np.zeros(batch.layout.total, np.int64)
    for down, right in steps:
        place, inside = batch.layout.neighbour(down, right)
        count += inside & batch.filled[place]
    return _numbers(batch, count)


def line_count(batch: Batch, family: str) -> Batch:
    """How many cells of the cell's row (or column, or diagonal) have a colour other than 0."""
    line = batch.layout.line[family]
    return _numbers(batch, np.bincount(line, batch.filled)[line].astype(np.int64))


def line_rank(batch: Batch, family: str) -> Batch:
    """1 in the rows (or columns) with most cells other than 0, 2 in the next, ..."""
    line = batch.layout.line[family]
    count = np.bincount(line, batch.filled)[line].astype(np.int64)
    key = batch.layout.grid * 64 + (63 - count)
    different, place = np.unique(key, return_inverse=True)
    return _numbers(batch, place - np.searchsorted(different, batch.layout.grid * 64) + 1)


def empty_lines(batch: Batch) -> Batch:
    """1 in columns of 0 alone, 2 in such rows, 3 in both."""
    empty = [np.bincount(batch.layout.line[family], batch.filled)[batch.layout.line[family]] == 0 for family in ("column", "row")]
    return _numbers(batch, empty[0] + 2 * empty[1])


def place_number(batch: Batch, number: str) -> Batch:
    """A number of the cell's place alone."""
    layout = batch.layout
    row, col, down, across = layout.row, layout.col, layout.h - 1 - layout.row, layout.w - 1 - layout.col
    values = {
        "row": row,
        "column": col,
        "row mod 2": row % 2,
        "column mod 2": col % 2,
        "row mod 3": row % 3,
        "column mod 3": col % 3,
        "checkers": (row + col) % 2,
        "diagonal mod 3": (row + col) % 3,
        "antidiagonal mod 3": (row - col) % 3,
        "ring": np.minimum(np.minimum(row, col), np.minimum(down, across)),
        "half": np.sign(row - down) + 1 + 3 * (np.sign(col - across) + 1),
        "on diagonal": (row == col) + 2 * (row == across),
        "from right": across,
        "from bottom": down,
    }[number]
    return _numbers(batch, np.asarray(values))


PLACES = (
    "row", "column", "row mod 2", "column mod 2", "row mod 3", "column mod 3", "checkers", "diagonal mod 3", "antidiagonal mod 3",
    "ring", "half", "on diagonal", "from right", "from bottom",
)  # fmt: skip

PRIMITIVES: tuple[Primitive, ...] = tuple(
    primitive.as_leaf()
    for primitive in (
        *(
            on_grids(f"{number} of objects {kind}", 2, partial(object_numbers, kind=kind, number=number))
            for kind in OBJECTS
            for number in OBJECT_NUMBERS
        ),
        on_grids("colours of objects", 2, object_colours),
        *(
            on_grids(f"{number} of gaps", 2, partial(gap_numbers, number=number))
            for number in ("size", "rank", "rank up", "edge", "height", "width")
        ),
        on_grids("neighbours 4", 2, partial(neighbour_count, steps=AROUND_4)),
        on_grids("neighbours 8", 2, partial(neighbour_count, steps=AROUND_8)),
        *(on_grids(f"count in {family}", 2, partial(line_count, family=family)) for family in ("row", "column")),
        *(on_grids(f"rank of {family}", 2, partial(line_rank, family=family)) for family in ("row", "column")),
        on_grids("empty lines", 2, empty_lines),
        *(on_grids(f"place: {number}", 2, partial(place_number, number=number)) for number in PLACES),
    )
)
