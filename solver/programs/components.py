"""Connected components of all grids of a batch at once.

Labels spread along the edges between neighbouring cells by hooking and pointer jumping, so the rounds grow with the logarithm of
the length of a component (Shiloach and Vishkin 1982, "An O(log n) parallel connectivity algorithm").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from solver.programs.batch import Batch, Bools, Cells, Ints

STEPS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}  # each pair of neighbours once


def join(count: int, one: Ints, other: Ints) -> Ints:
    """The smallest member of each member's component, (count,), where members `one[i]` and `other[i]` are joined."""
    label = np.arange(count)
    while len(one):
        low = np.minimum(label[one], label[other])
        np.minimum.at(label, label[one], low)
        np.minimum.at(label, label[other], low)
        while True:
            jumped = label[label]
            if np.array_equal(jumped, label):
                break
            label = jumped
        apart = label[one] != label[other]
        one, other = one[apart], other[apart]
    return label


@dataclass(frozen=True, eq=False)
class Components:
    """The components of the cells of `mask` in reading order of their first cells, grid after grid; `of` is -1 outside."""

    batch: Batch
    of: Ints  # (total,) number of each cell's component
    first: Ints  # (components,) place of the first cell

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def inside(self) -> Ints:
        """The places of the cells that belong to components."""
        return np.flatnonzero(self.of >= 0)

    @cached_property
    def number(self) -> Ints:
        """The component of each cell of `inside`."""
        return self.of[self.inside]

    @cached_property
    def grid(self) -> Ints:
        """The grid of each component."""
        return self.batch.layout.grid[self.first]

    @cached_property
    def colour(self) -> Cells:
        """The colour of each component's first cell."""
        return self.batch.cells[self.first]

    @cached_property
    def area(self) -> Ints:
        """The cells of each component."""
        return np.bincount(self.number, minlength=len(self))

    @cached_property
    def per_grid(self) -> Ints:
        """The components of each grid, (n,)."""
        return np.bincount(self.grid, minlength=len(self.batch))

    @cached_property
    def box(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Top, left, height, width of each component."""
        layout, inside, number = self.batch.layout, self.inside, self.number
        row, col = layout.row[inside], layout.col[inside]
        top = np.full(len(self), 99)
        left, bottom, right = top.copy(), np.full(len(self), -1), np.full(len(self), -1)
        np.minimum.at(top, number, row)
        np.minimum.at(left, number, col)
        np.maximum.at(bottom, number, row)
        np.maximum.at(right, number, col)
        return top, left, bottom - top + 1, right - left + 1

    @cached_property
    def touches_edge(self) -> Bools:
        """Whether each component has a cell in the first or last row or column of its grid."""
        layout, inside = self.batch.layout, self.inside
        row, col = layout.row[inside], layout.col[inside]
        edge = (row == 0) | (col == 0) | (row == layout.h[inside] - 1) | (col == layout.w[inside] - 1)
        return np.bincount(self.number, edge, minlength=len(self)) > 0

    def spread(self, values: Ints | Cells | Bools, outside: int = 0) -> Ints:
        """For each cell the value of its component; `outside` for cells of none."""
        cells = np.full(self.batch.layout.total, outside, dtype=np.int64)
        cells[self.inside] = values[self.number]
        return cells

    def rank(self, values: Ints) -> Ints:
        """How many different larger values there are among the components of the same grid: 0 for the largest."""
        key = self.grid * (1 << 20) + ((1 << 19) - values)
        different, place = np.unique(key, return_inverse=True)
        start = np.searchsorted(different, self.grid * (1 << 20))
        return place - start


def components(batch: Batch, neighbours: int, mask: Bools | None = None, one_colour: bool = True) -> Components:
    """The components of the cells of `mask` (None: those other than 0) under 4 or 8 neighbours; `one_colour`: of equal colour."""
    if mask is None:
        key = ("components", neighbours, one_colour)
        if key not in batch.memory:
            batch.memory[key] = components(batch, neighbours, batch.filled, one_colour)
        found: Components = batch.memory[key]
        return found
    layout = batch.layout
    ones, others = [], []
    for down, right in STEPS[neighbours]:
        place, inside = layout.neighbour(down, right)
        joined = inside & mask & mask[place]
        if one_colour:
            joined &= batch.cells == batch.cells[place]
        here = np.flatnonzero(joined)
        ones.append(here)
        others.append(place[here])
    label = join(layout.total, np.concatenate(ones), np.concatenate(others))
    first = np.flatnonzero(mask & (label == np.arange(layout.total)))
    number = np.full(layout.total, -1, dtype=np.int64)
    number[first] = np.arange(len(first))
    return Components(batch, np.where(mask, number[label], -1), first)
