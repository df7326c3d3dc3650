"""The values that primitives take and give: grids, the things in them, panels, numbers and colours. Colour 0 is the ground."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NewType

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid

Mask = NDArray[np.bool_]  # (rows, columns)
Cells = tuple[NDArray[np.intp], ...]  # rows and columns, an index into a grid

Number = NewType("Number", int)
Colour = NewType("Colour", int)  # as an argument: a colour that neither the scene nor an earlier argument uses
Present = NewType("Present", int)  # an argument: a colour the scene draws with
Special = NewType("Special", int)  # an argument: the colour to which the scene gives the role named by the parameter
Scale = NewType("Scale", tuple[int, ...])  # an argument: the nine colours in a random order, one for each rank
Direction = Literal["up", "down", "left", "right"]
Axis = Literal["rows", "columns"]
Order = Literal["ascending", "descending"]
Turn = Literal["left", "half", "right"]

STEPS: dict[Direction, tuple[int, int]] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
UPRIGHT: dict[
    Direction, Callable[[Grid], Grid]
] = {  # flips a grid so that the direction points down; each function is its own inverse
    "down": lambda g: g,
    "up": lambda g: g[::-1],
    "right": lambda g: g.T,
    "left": lambda g: g[::-1, ::-1].T,
}


class Unfit(Exception):
    """A primitive does not apply to a value (a tie, nothing to change, no room): another grid is drawn."""


@dataclass(frozen=True, eq=False)
class Thing:
    """A connected set of cells: its bounding box `patch`, 0 where the thing has no cell, and the box's top-left cell."""

    patch: Grid
    top: int
    left: int

    @property
    def height(self) -> int:
        """Rows of the bounding box."""
        return int(self.patch.shape[0])

    @property
    def width(self) -> int:
        """Columns of the bounding box."""
        return int(self.patch.shape[1])

    @cached_property
    def mask(self) -> Mask:
        """Where it has cells."""
        return self.patch > 0

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """(10,) cells of each colour, none of the ground."""
        return np.bincount(self.patch[self.mask], minlength=10)

    @property
    def colour(self) -> int:
        """The colour of most of its cells."""
        return int(self.counts.argmax())

    def moved(self, rows: int, columns: int) -> Thing:
        """The thing moved down and to the right."""
        return replace(self, top=self.top + rows, left=self.left + columns)

    def inside(self, shape: tuple[int, int]) -> bool:
        """Whether its bounding box lies inside a grid of that shape."""
        return 0 <= self.top <= shape[0] - self.height and 0 <= self.left <= shape[1] - self.width

    def painted(self, colour: int) -> Thing:
        """The thing in one colour."""
        return replace(self, patch=np.where(self.mask, np.uint8(colour), np.uint8(0)))


@dataclass(frozen=True, eq=False)
class Objects:
    """The things of a grid, ordered by row and column of their top-left cells, and the shape of the grid."""

    shape: tuple[int, int]
    items: tuple[Thing, ...]


@dataclass(frozen=True, eq=False)
class Panels:
    """Parts of equal size of a grid, in reading order; `layout` is the number of rows and columns of panels."""

    layout: tuple[int, int]
    grids: tuple[Grid, ...]


def regions(mask: Mask, diagonal: bool = False) -> list[Cells]:
    """Connected regions of true cells, 4- or 8-connected, ordered by their first cell in reading order."""
    rows, columns = mask.shape
    pitch = columns + 2
    # a rim of false cells makes bounds checks unnecessary; plain lists are faster than arrays at this size
    rim = np.zeros((rows + 2, pitch), dtype=bool)
    rim[1:-1, 1:-1] = mask
    open_cells = rim.reshape(-1).tolist()
    steps = (1, -1, pitch, -pitch, pitch + 1, pitch - 1, -pitch + 1, -pitch - 1)[: 8 if diagonal else 4]
    all_regions: list[Cells] = []
    for start in np.flatnonzero(rim).tolist():
        if not open_cells[start]:
            continue
        open_cells[start] = False
        region = [start]
        for cell in region:
            for step in steps:
                if open_cells[cell + step]:
                    open_cells[cell + step] = False
                    region.append(cell + step)
        row, column = np.divmod(np.array(region), pitch)
        all_regions.append((row - 1, column - 1))
    return all_regions


def enclosed(wall: Mask) -> Mask:
    """Cells outside `wall` from which no 4-connected path leaves the grid."""
    inside = np.zeros(wall.shape, dtype=bool)
    for region in regions(~wall):
        if not on_border(region, wall.shape):
            inside[region] = True
    return inside


def on_border(region: Cells, shape: tuple[int, ...]) -> bool:
    """Whether a region has a cell on the border of its grid."""
    rows, columns = region
    return bool(rows.min() == 0 or columns.min() == 0 or rows.max() == shape[0] - 1 or columns.max() == shape[1] - 1)


def cut(grid: Grid, region: Cells) -> Thing:
    """The thing made of a region of a grid."""
    rows, columns = region
    top, left = int(rows.min()), int(columns.min())
    patch = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), dtype=np.uint8)
    patch[rows - top, columns - left] = grid[region]
    return Thing(patch, top, left)


def draw_things(objects: Objects) -> Grid:
    """A grid with the things drawn on it, later ones on top."""
    grid = np.zeros(objects.shape, dtype=np.uint8)
    for thing in objects.items:
        window = grid[thing.top : thing.top + thing.height, thing.left : thing.left + thing.width]
        np.copyto(window, thing.patch, where=thing.mask)
    return grid


def content_box(mask: Mask) -> tuple[slice, slice]:
    """The smallest box around the true cells, as an index. Raises Unfit if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise Unfit
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def tile_sizes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The sizes (rows, columns) of tiles that fit into a shape at least twice by area, ordered by area."""
    sizes = [(r, c) for r in range(1, shape[0] + 1) for c in range(1, shape[1] + 1) if 2 * r * c <= shape[0] * shape[1]]
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))


def cells_by_colour(grid: Grid) -> NDArray[np.intp]:
    """(10,) the number of cells of each colour, 0 for the ground."""
    counts = np.bincount(grid.reshape(-1), minlength=10)
    counts[0] = 0
    return counts


def colour_by_cells(grid: Grid, rank: Literal["commonest", "rarest"]) -> int:
    """The most or least frequent colour of a grid, the ground left out. Raises Unfit for a tie, or fewer than two colours."""
    ranked = sorted((int(n), c) for c, n in enumerate(cells_by_colour(grid)) if n)
    if rank == "commonest":
        ranked = ranked[::-1]
    if len(ranked) < 2 or ranked[0][0] == ranked[1][0]:
        raise Unfit
    return ranked[0][1]


def require(condition: object) -> None:
    """Raise Unfit unless the condition holds."""
    if not condition:
        raise Unfit


def with_things(objects: Objects, items: list[Thing]) -> Objects:
    """The same grid with other things. Raises Unfit if there are none, or if one leaves the grid."""
    require(items)
    require(all(thing.inside(objects.shape) for thing in items))
    return replace(objects, items=tuple(items))


def with_things_apart(objects: Objects, items: list[Thing]) -> Objects:
    """Like `with_things`, but also raises Unfit if two things overlap."""
    result = with_things(objects, items)
    require((draw_things(result) > 0).sum() == sum(t.mask.sum() for t in items))
    return result
