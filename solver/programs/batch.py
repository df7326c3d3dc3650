"""Many grids of different shapes as flat arrays, so that one numpy call works on all of them.

A search applies every function to thousands of grids of about a hundred cells. Called grid by grid, numpy would spend most
of its time on the call itself. Here the cells of all grids lie in one array, with index arrays that say for every cell which
grid, row and column it is in.

A grid of height 0 means "no result": a function gives it where it does not apply. Batches that go into a function hold none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import COLOURS, MAX_SIDE, Grid

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Cells = NDArray[np.uint8]


def ranges(count: Ints) -> Ints:
    """0 to count[i] - 1 for each i, one after the other."""
    start = np.cumsum(count) - count
    return np.arange(int(count.sum())) - np.repeat(start, count)


@dataclass(frozen=True, eq=False)
class Layout:
    """The shapes of n grids, and where their cells lie in a flat array of `total` cells (row by row, grid after grid)."""

    height: Ints  # (n,)
    width: Ints  # (n,)

    @staticmethod
    def limited(height: Ints, width: Ints) -> Layout:
        """The layout of these shapes; shapes that no grid may have become 0x0."""
        fits = (height >= 1) & (width >= 1) & (height <= MAX_SIDE) & (width <= MAX_SIDE)
        if fits.all():
            return Layout(height, width)
        return Layout(np.where(fits, height, 0), np.where(fits, width, 0))

    def __len__(self) -> int:
        return len(self.height)

    @cached_property
    def size(self) -> Ints:
        """Cells of each grid, (n,)."""
        return self.height * self.width

    @cached_property
    def total(self) -> int:
        """Cells of all grids."""
        return int(self.size.sum())

    @cached_property
    def offset(self) -> Ints:
        """The place of the first cell of each grid, (n,)."""
        return np.cumsum(self.size) - self.size

    @cached_property
    def grid(self) -> Ints:
        """The grid of each cell, (total,)."""
        return np.repeat(np.arange(len(self)), self.size)

    @cached_property
    def _of_row(self) -> tuple[Ints, Ints]:
        return ranges(self.height), np.repeat(self.width, self.height)

    @cached_property
    def row(self) -> Ints:
        """The row of each cell in its grid, (total,)."""
        rows, widths = self._of_row
        return np.repeat(rows, widths)

    @cached_property
    def col(self) -> Ints:
        """The column of each cell in its grid, (total,)."""
        return ranges(self._of_row[1])

    @cached_property
    def h(self) -> Ints:
        """The height of each cell's grid, (total,)."""
        return self.height[self.grid]

    @cached_property
    def w(self) -> Ints:
        """The width of each cell's grid, (total,)."""
        return self.width[self.grid]

    @cached_property
    def place(self) -> Ints:
        """row * 30 + column of each cell, (total,)."""
        return self.row * MAX_SIDE + self.col

    @cached_property
    def by_column(self) -> Ints:
        """The cells in the order grid, column, row, (total,)."""
        flipped = Layout(self.width, self.height)
        return self.offset[flipped.grid] + flipped.col * self.width[flipped.grid] + flipped.row

    @cached_property
    def line(self) -> dict[str, Ints]:
        """For each family of lines a number for every cell: equal for cells of one line; ascending in the order of `along`."""
        base = self.grid * (2 * MAX_SIDE)
        return {
            "row": base + self.row,
            "column": base + self.col,
            "diagonal": base + self.row - self.col + MAX_SIDE,
            "antidiagonal": base + self.row + self.col,
        }

    @cached_property
    def along(self) -> dict[str, Ints]:
        """For each family of lines an order of the cells that walks down (or right) one line after the other, (total,) each."""
        every = np.arange(self.total)
        return {
            "row": every,
            "column": self.by_column,
            "diagonal": np.argsort(self.line["diagonal"], kind="stable"),
            "antidiagonal": np.argsort(self.line["antidiagonal"], kind="stable"),
        }

    def neighbour(self, down: int, right: int) -> tuple[Ints, Bools]:
        """For each cell the place of the cell `down` rows and `right` columns further, and whether that lies in the grid."""
        row, col = self.row + down, self.col + right
        inside = (row >= 0) & (row < self.h) & (col >= 0) & (col < self.w)
        return np.where(inside, np.arange(self.total) + down * self.w + right, 0), inside


@dataclass(frozen=True, eq=False)
class Batch:
    """n grids: `cells` in the order of `layout`; `top` and `left` place each grid on the canvas that it was cut from."""

    layout: Layout
    cells: Cells  # (layout.total,)
    top: Ints  # (n,)
    left: Ints  # (n,)

    @staticmethod
    def of(grids: Sequence[Grid], top: Sequence[int] = (), left: Sequence[int] = ()) -> Batch:
        """A batch of grids; without places all at the origin."""
        height = np.array([g.shape[0] for g in grids], dtype=np.int64)
        width = np.array([g.shape[1] for g in grids], dtype=np.int64)
        cells = np.concatenate([g.ravel() for g in grids]) if grids else np.zeros(0, np.uint8)
        zeros = [0] * len(grids)
        return Batch(
            Layout(height, width), cells, np.array(top or zeros, dtype=np.int64), np.array(left or zeros, dtype=np.int64)
        )

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, i: int) -> Grid:
        start, height, width = int(self.layout.offset[i]), int(self.layout.height[i]), int(self.layout.width[i])
        return self.cells[start : start + height * width].reshape(height, width)

    def recoloured(self, cells: Cells) -> Batch:
        """The same shapes and places with other cells."""
        return Batch(self.layout, cells, self.top, self.left)

    def moved(self, top: Ints, left: Ints) -> Batch:
        """The same grids at other places."""
        return Batch(self.layout, self.cells, top, left)

    def only(self, keep: Bools) -> Batch:
        """The grids where `keep`, and no result elsewhere."""
        if keep.all():
            return self
        layout = Layout(np.where(keep, self.layout.height, 0), np.where(keep, self.layout.width, 0))
        return Batch(layout, self.cells[keep[self.layout.grid]], self.top, self.left)

    def select(self, which: Ints) -> Batch:
        """The grids of these numbers, in this order, repeated where a number is."""
        layout = Layout(self.layout.height[which], self.layout.width[which])
        cells = self.cells[np.repeat(self.layout.offset[which] - layout.offset, layout.size) + np.arange(layout.total)]
        return Batch(layout, cells, self.top[which], self.left[which])

    @cached_property
    def memory(self) -> dict[Any, Any]:
        """Where functions keep what several of them need of this batch."""
        return {}

    @cached_property
    def filled(self) -> Bools:
        """Whether each cell has a colour other than 0, (total,)."""
        return self.cells != 0

    @cached_property
    def counts(self) -> Ints:
        """How often each colour comes, (n, 10)."""
        return np.bincount(self.layout.grid * COLOURS + self.cells, minlength=len(self) * COLOURS).reshape(-1, COLOURS)

    @cached_property
    def area(self) -> Ints:
        """Cells with a colour other than 0, (n,)."""
        return self.layout.size - self.counts[:, 0]

    @cached_property
    def main(self) -> Cells:
        """The most frequent colour other than 0, the lowest if several are; 0 for an empty grid, (n,)."""
        most = self.counts[:, 1:].argmax(1) + 1
        return np.where(self.area > 0, most, 0).astype(np.uint8)

    @cached_property
    def rare(self) -> Cells:
        """The least frequent colour there is other than 0, the lowest if several are; 0 for an empty grid, (n,)."""
        present = np.where(self.counts[:, 1:] > 0, self.counts[:, 1:], np.iinfo(np.int64).max)
        return np.where(self.area > 0, present.argmin(1) + 1, 0).astype(np.uint8)

    @cached_property
    def box(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Top, left, height, width of the smallest box around the cells other than 0, (n,) each; all 0 for an empty grid."""
        layout = self.layout
        far = MAX_SIDE + 1
        top = np.minimum.reduceat(np.where(self.filled, layout.row, far), layout.offset)
        left = np.minimum.reduceat(np.where(self.filled, layout.col, far), layout.offset)
        bottom = np.maximum.reduceat(np.where(self.filled, layout.row, -1), layout.offset)
        right = np.maximum.reduceat(np.where(self.filled, layout.col, -1), layout.offset)
        some = bottom >= 0
        return (
            np.where(some, top, 0),
            np.where(some, left, 0),
            np.where(some, bottom - top + 1, 0),
            np.where(some, right - left + 1, 0),
        )

    def take(self, layout: Layout, row: Ints, col: Ints, top: Ints | None = None, left: Ints | None = None) -> Batch:
        """A batch of `layout` whose cells come from row `row` and column `col` of the same grid, (layout.total,) each."""
        index = self.layout.offset[layout.grid] + row * self.layout.width[layout.grid] + col
        return Batch(layout, self.cells[index], self.top if top is None else top, self.left if left is None else left)

    def take_or_zero(self, layout: Layout, row: Ints, col: Ints, top: Ints | None = None, left: Ints | None = None) -> Batch:
        """As `take`; rows and columns outside of the grid give colour 0."""
        height, width = self.layout.height[layout.grid], self.layout.width[layout.grid]
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        index = np.where(inside, self.layout.offset[layout.grid] + row * width + col, 0)
        cells = np.where(inside, self.cells[index], np.uint8(0)) if self.cells.size else np.zeros(layout.total, np.uint8)
        return Batch(layout, cells, self.top if top is None else top, self.left if left is None else left)

    def crop(self, top: Ints, left: Ints, height: Ints, width: Ints) -> Batch:
        """The given box of each grid, which must lie inside; no result where the height or width is 0."""
        layout = Layout.limited(height, width)
        row, col = layout.row + top[layout.grid], layout.col + left[layout.grid]
        return self.take(layout, row, col, self.top + top, self.left + left)


@dataclass(frozen=True, eq=False)
class Lists:
    """n lists of grids: `grids` holds those of all lists one after the other, `count[i]` of them are of list i. 0: no result."""

    grids: Batch
    count: Ints  # (n,)

    def __len__(self) -> int:
        return len(self.count)

    @cached_property
    def memory(self) -> dict[Any, Any]:
        """Where functions keep what several of them need of these lists."""
        return {}

    @cached_property
    def owner(self) -> Ints:
        """The list of each grid, (grids,)."""
        return np.repeat(np.arange(len(self.count)), self.count)

    @cached_property
    def start(self) -> Ints:
        """The number of the first grid of each list, (n,)."""
        return np.cumsum(self.count) - self.count

    @cached_property
    def index(self) -> Ints:
        """The place of each grid in its list, (grids,)."""
        return ranges(self.count)

    def keep(self, mask: Bools) -> Lists:
        """The grids of `mask` (grids,), in their lists."""
        return Lists(self.grids.select(np.flatnonzero(mask)), np.bincount(self.owner[mask], minlength=len(self)))
