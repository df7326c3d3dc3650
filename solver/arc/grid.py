"""Grids: two-dimensional uint8 arrays of the colours 0-9, at most 30x30."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.uint8]  # shape (rows, columns)
GridJson = list[list[int]]

MAX_SIDE = 30
COLOURS = 10


class GridError(ValueError):
    """A value that is not a grid; the message names the offending row or cell."""


def parse_grid(value: Any) -> Grid:
    """Grid from parsed JSON (a list of equally long rows of ints 0-9). Raises GridError naming the first bad row or cell."""
    if not isinstance(value, list):
        raise GridError(f"a grid must be a list of rows, not {_kind(value)}")
    if not value:
        raise GridError("the grid is empty")
    if len(value) > MAX_SIDE:
        raise GridError(f"the grid has {len(value)} rows, at most {MAX_SIDE} are allowed")
    for r, row in enumerate(value):
        if not isinstance(row, list):
            raise GridError(f"row {r} must be a list of cells, not {_kind(row)}")
        if not row:
            raise GridError(f"row {r} is empty")
        if len(row) > MAX_SIDE:
            raise GridError(f"row {r} has {len(row)} columns, at most {MAX_SIDE} are allowed")
        if len(row) != len(value[0]):
            raise GridError(f"row {r} has {len(row)} cells, row 0 has {len(value[0])}")
        # bool is a subclass of int: True must not pass for 1
        if set(map(type, row)) == {int} and min(row) >= 0 and max(row) < COLOURS:
            continue
        for c, cell in enumerate(row):  # slower, only to name the cell
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise GridError(f"cell (row {r}, column {c}) is {cell!r}, not an integer from 0 to 9")
    return np.array(value, dtype=np.uint8)


def grid_json(grid: Grid) -> GridJson:
    """The grid as JSON-ready lists of Python ints."""
    rows: GridJson = grid.tolist()
    return rows


def grid_key(grid: Grid) -> bytes:
    """A hashable identity: equal exactly for grids of equal shape and cells."""
    return bytes(grid.shape) + grid.tobytes()


def grid_from_key(key: bytes) -> Grid:
    """The grid that `grid_key` was made from."""
    return np.frombuffer(key, dtype=np.uint8, offset=2).reshape(key[0], key[1])


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
