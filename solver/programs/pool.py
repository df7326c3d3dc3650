"""All different grids and lists of a search, numbered. Equal values have one number, so each function meets each value once."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import COLOURS, MAX_SIDE
from solver.programs.batch import Batch, Ints, Layout, Lists, ranges

Keys = NDArray[np.uint64]  # 64-bit identities: two different values share one with a probability of about 2 ** -64

_rng = np.random.default_rng(20200527)


def _random(count: int) -> Keys:
    return _rng.integers(0, 2**64, count, dtype=np.uint64) | np.uint64(1)


_CELL = _random(MAX_SIDE * MAX_SIDE * COLOURS)
_SHAPE = _random((MAX_SIDE + 1) * (MAX_SIDE + 1))
_TOP, _LEFT, _ITEM = _random(1), _random(1), _random(4096)

Scalar = TypeVar("Scalar", bound=np.generic)


class Column(Generic[Scalar]):
    """A one-dimensional array that grows at its end."""

    def __init__(self, dtype: type[Scalar]) -> None:
        self._data: NDArray[Scalar] = np.empty(1024, dtype)
        self.length = 0

    def extend(self, values: NDArray[Scalar]) -> None:
        """Append values."""
        end = self.length + len(values)
        if end > len(self._data):
            grown = np.empty(max(end, 2 * len(self._data)), self._data.dtype)
            grown[: self.length] = self._data[: self.length]
            self._data = grown
        self._data[self.length : end] = values
        self.length = end

    @property
    def array(self) -> NDArray[Scalar]:
        """What was appended so far; a view that the next `extend` may leave behind."""
        return self._data[: self.length]


def content_keys(batch: Batch) -> Keys:
    """The identity of each grid without its place."""
    layout = batch.layout
    sums = np.zeros(layout.total + 1, np.uint64)
    np.cumsum(_CELL[layout.place * COLOURS + batch.cells], out=sums[1:])
    return sums[layout.offset + layout.size] - sums[layout.offset] + _SHAPE[layout.height * (MAX_SIDE + 1) + layout.width]


def row_keys(rows: Ints) -> Keys:
    """The identity of each row of numbers."""
    return ((rows.astype(np.uint64) + np.uint64(1)) * _ITEM[: rows.shape[1]]).sum(1, dtype=np.uint64)


class Numbers:
    """Numbers identities by the order in which they first came."""

    def __init__(self) -> None:
        self._number: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._number)

    def add(self, keys: Keys) -> tuple[Ints, Ints]:
        """The number of each key, and the places in `keys` of those that are new."""
        known = self._number
        numbers = np.empty(len(keys), dtype=np.int64)
        new = []
        for i, key in enumerate(keys.tolist()):
            number = known.get(key)
            if number is None:
                number = known[key] = len(known)
                new.append(i)
            numbers[i] = number
        return numbers, np.array(new, dtype=np.int64)


class Grids:
    """The different grids; the place belongs to the identity."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._cells: Column[np.uint8] = Column(np.uint8)
        self.height, self.width, self.top, self.left, self._offset = (Column(np.int64) for _ in range(5))
        self.content: Column[np.uint64] = Column(np.uint64)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def cells(self) -> int:
        """Cells of all grids together."""
        return self._cells.length

    def add(self, batch: Batch) -> Ints:
        """The number of each grid; -1 for no result."""
        layout = batch.layout
        valid = layout.height > 0
        content = content_keys(batch)
        keys = content + batch.top.astype(np.uint64) * _TOP + batch.left.astype(np.uint64) * _LEFT
        numbers = np.full(len(batch), -1, dtype=np.int64)
        some = np.flatnonzero(valid)
        numbers[some], new = self._numbers.add(keys[some])
        if len(new):
            fresh = batch.select(some[new])
            self._offset.extend(self._cells.length + fresh.layout.offset)
            self._cells.extend(fresh.cells)
            self.height.extend(fresh.layout.height)
            self.width.extend(fresh.layout.width)
            self.top.extend(fresh.top)
            self.left.extend(fresh.left)
            self.content.extend(content[some[new]])
        return numbers

    def batch(self, numbers: Ints) -> Batch:
        """The grids of these numbers."""
        layout = Layout(self.height.array[numbers], self.width.array[numbers])
        index = np.repeat(self._offset.array[numbers] - layout.offset, layout.size) + np.arange(layout.total)
        return Batch(layout, self._cells.array[index], self.top.array[numbers], self.left.array[numbers])


class GridLists:
    """The different lists of grid numbers."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._items: Column[np.int64] = Column(np.int64)
        self._offset: Column[np.int64] = Column(np.int64)
        self.count: Column[np.int64] = Column(np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def members(self) -> int:
        """Grids in all lists together."""
        return self._items.length

    def add(self, items: Ints, count: Ints) -> Ints:
        """The number of each list, whose `count[i]` items lie one after the other in `items`; -1 for an empty list."""
        sums = np.zeros(len(items) + 1, np.uint64)
        np.cumsum((items.astype(np.uint64) + np.uint64(1)) * _ITEM[ranges(count) % len(_ITEM)], out=sums[1:])
        start = np.cumsum(count) - count
        keys = sums[start + count] - sums[start]
        numbers = np.full(len(count), -1, dtype=np.int64)
        some = np.flatnonzero(count > 0)
        numbers[some], new = self._numbers.add(keys[some])
        if len(new):
            which = some[new]
            kept = items[np.repeat(start[which], count[which]) + ranges(count[which])]
            self._offset.extend(self._items.length + np.cumsum(count[which]) - count[which])
            self._items.extend(kept)
            self.count.extend(count[which])
        return numbers

    def items(self, numbers: Ints) -> tuple[Ints, Ints]:
        """The grid numbers of these lists one after the other, and how many each has."""
        count = self.count.array[numbers]
        return self._items.array[np.repeat(self._offset.array[numbers], count) + ranges(count)], count

    def lists(self, numbers: Ints, grids: Grids) -> Lists:
        """The lists of these numbers."""
        items, count = self.items(numbers)
        return Lists(grids.batch(items), count)
