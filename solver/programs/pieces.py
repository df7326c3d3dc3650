"""Pieces: values of the search drawn on canvases of the outputs' shapes, ready to be compared with the outputs cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid
from solver.programs.batch import Batch, Bools, Cells, Ints
from solver.programs.search import Search
from solver.programs.sizes import Shapes
from solver.types import Deadline

MAX_PIECES = 2500
MAX_PIECE_CELLS = 3_000_000
MODES = {
    "": 0.0,
    "placed": 0.2,
    "stretched": 1.0,
    "tiled": 1.0,
    "tiled in place": 1.5,
}  # how a grid fills the canvas, and its cost


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces on canvases of `shapes`. The cells of all canvases of a piece lie in a row, pair after pair."""

    search: Search
    shapes: Shapes
    target: Cells  # (demonstration cells,) the outputs
    cells: NDArray[np.uint8]  # (pieces, cells of all pairs)
    cost: NDArray[np.float64]  # (pieces,) ascending
    node: Ints  # (pieces,)
    mode: tuple[str, ...]  # (pieces,)

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def known(self) -> NDArray[np.uint8]:
        """The cells of the demonstrations, (pieces, demonstration cells)."""
        return self.cells[:, : len(self.target)]

    def name(self, piece: int) -> str:
        """The program of a piece."""
        mode = self.mode[piece]
        return self.search.program(int(self.node[piece])) + (f" > {mode}" if mode else "")

    def tests(self, cells: Cells, demonstrations: int) -> list[Grid]:
        """The test outputs in the cells of all pairs, (cells of all pairs,) or those of the tests alone."""
        grids = []
        start = len(cells) - sum(h * w for h, w in self.shapes[demonstrations:])
        for height, width in self.shapes[demonstrations:]:
            grids.append(cells[start : start + height * width].reshape(height, width).copy())
            start += height * width
        return grids


def pair_of_cell(shapes: Shapes, pairs: int) -> Ints:
    """The pair of each cell of the first `pairs` canvases."""
    return np.repeat(np.arange(pairs), [h * w for h, w in shapes[:pairs]])


def make_pieces(search: Search, shapes: Shapes, outputs: Sequence[Grid], deadline: Deadline) -> Pieces | None:
    """The different pieces, cheapest first; at most MAX_PIECES, fewer for large canvases. None if the deadline comes first."""
    target = np.concatenate([output.ravel() for output in outputs])
    total = sum(h * w for h, w in shapes)
    limit = min(MAX_PIECES, max(MAX_PIECE_CELLS // total, 50))
    nodes = search.nodes["grid"]
    rows, cost = nodes.rows, nodes.cost.array.astype(np.float64)
    top, left = search.grids.top.array[rows], search.grids.left.array[rows]
    height, width = search.grids.height.array[rows], search.grids.width.array[rows]
    high, wide = np.array([h for h, _ in shapes]), np.array([w for _, w in shapes])
    whole = ((height == high) & (width == wide)).all(1)
    meets = ((top < high) & (left < wide) & (top + height > 0) & (left + width > 0)).all(1)
    moved = ((top != 0) | (left != 0)).any(1)
    smaller = ((height <= high) & (width <= wide)).all(1) & ~whole
    fitting: dict[str, Bools] = {
        "": whole,
        "placed": meets & (moved | ~whole),
        "stretched": smaller & (high % height == 0).all(1) & (wide % width == 0).all(1),
        "tiled": smaller,
        "tiled in place": smaller & moved,
    }
    places = [(mode, np.flatnonzero(fits)) for mode, fits in fitting.items()]
    mode_of = np.repeat(np.arange(len(places)), [len(which) for _, which in places])
    node_of = np.concatenate([which for _, which in places])
    price = cost[node_of] + np.array(list(MODES.values()))[mode_of]
    order = np.argsort(price, kind="stable")[: 3 * limit // 2]
    mode_of, node_of, price = mode_of[order], node_of[order], price[order]
    cells = np.zeros((len(order), total), np.uint8)
    for number, (mode, _) in enumerate(places):
        which = np.flatnonzero(mode_of == number)
        start = 0
        for pair, (h, w) in enumerate(shapes):
            if deadline.expired():
                return None
            if len(which):
                cells[which, start : start + h * w] = _draw(search.grids.batch(rows[node_of[which], pair]), mode, h, w)
            start += h * w
    key = cells @ np.random.default_rng(7).integers(1, 2**63, total, dtype=np.uint64)
    first = np.sort(np.unique(key, return_index=True)[1])[:limit]
    names = list(MODES)
    return Pieces(search, shapes, target, cells[first], price[first], node_of[first], tuple(names[m] for m in mode_of[first]))


def _draw(grids: Batch, mode: str, height: int, width: int) -> NDArray[np.uint8]:
    """Each grid on a canvas, (grids, height * width)."""
    shape = grids.layout
    h, w, top, left = (side[:, None] for side in (shape.height, shape.width, grids.top, grids.left))
    row, col = np.arange(height)[None, :], np.arange(width)[None, :]
    if mode == "placed":
        row, col = row - top, col - left
    elif mode == "stretched":
        row, col = row * h // height, col * w // width
    elif mode == "tiled":
        row, col = row % h, col % w
    elif mode == "tiled in place":
        row, col = (row - top) % h, (col - left) % w
    inside = ((row >= 0) & (row < h))[:, :, None] & ((col >= 0) & (col < w))[:, None, :]
    start = shape.offset[:, None] + np.clip(row, 0, h - 1) * w
    drawn = grids.cells[start[:, :, None] + np.clip(col, 0, w - 1)[:, None, :]]
    return np.where(inside, drawn, np.uint8(0)).reshape(len(grids), height * width)
