"""Values of the program search for tests: written as text, checked, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from solver.arc.grid import COLOURS, MAX_SIDE, Grid
from solver.programs.batch import Batch, Layout, Lists
from tests.arc_strategies import grids


def grid(text: str) -> Grid:
    return np.array([[int(c) for c in row] for row in text.split("/")], np.uint8)


def read(text: str) -> Batch:
    """The batch of the grids in a text such as "12/30@4,5 + 7"."""
    parts = [part.partition("@") for part in text.split(" + ")]
    places = [[int(n) for n in place.split(",")] if place else [0, 0] for _, _, place in parts]
    return Batch.of([grid(cells) for cells, _, _ in parts], [top for top, _ in places], [left for _, left in places])


def write(batch: Batch) -> str:
    """The text of a batch; "none" for no result."""
    texts = []
    for i in range(len(batch)):
        cells = "/".join("".join(map(str, row)) for row in batch[i].tolist())
        place = f"@{batch.top[i]},{batch.left[i]}" if batch.top[i] or batch.left[i] else ""
        texts.append(cells + place if batch.layout.height[i] else "none")
    return " + ".join(texts)


def check_batch(batch: Batch, count: int) -> None:
    """Assert that a batch is valid: `count` grids of colours 0-9 with at most 30 rows and columns, or no result."""
    layout = batch.layout
    assert len(layout.height) == len(layout.width) == len(batch.top) == len(batch.left) == count
    assert batch.cells.dtype == np.uint8
    assert batch.cells.shape == (int((layout.height * layout.width).sum()),)
    assert (batch.cells < COLOURS).all()
    assert (layout.height >= 0).all()
    assert (layout.height <= MAX_SIDE).all()
    assert (layout.width <= MAX_SIDE).all()
    assert ((layout.height > 0) == (layout.width > 0)).all()


def check_lists(lists: Lists, count: int) -> None:
    """Assert that `count` lists are valid and hold no grid without cells."""
    assert len(lists.count) == count
    assert lists.count.sum() == len(lists.grids)
    check_batch(lists.grids, len(lists.grids))
    assert (lists.grids.layout.height > 0).all()


def fresh(batch: Batch) -> Batch:
    """A copy that remembers nothing."""
    return Batch(
        Layout(batch.layout.height.copy(), batch.layout.width.copy()), batch.cells.copy(), batch.top.copy(), batch.left.copy()
    )


def arc_like(dense: Sequence[Grid], sparse: int) -> list[Grid]:
    """The grids with only every `sparse`-th cell kept and the others 0, as in grids of tasks most cells are."""
    return [np.where(np.arange(g.size).reshape(g.shape) % sparse == 0, g, 0).astype(np.uint8) for g in dense]


@dataclass
class Ticks:
    """A clock that goes on by some seconds whenever it is read, so that a search is cut at the same place each time."""

    step: float
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def batches() -> st.SearchStrategy[Batch]:
    some = st.lists(grids(), min_size=1, max_size=3)
    sparse = st.integers(1, 4)
    return st.builds(
        lambda g, s, top: Batch.of(arc_like(g, s), [top] * len(g), [-top] * len(g)), some, sparse, st.integers(-40, 40)
    )


def lists_of_grids() -> st.SearchStrategy[Lists]:
    def split(batch: Batch, cut: int) -> Lists:
        first = min(cut, len(batch))
        return Lists(batch, np.array([first, len(batch) - first] if first < len(batch) else [first]))

    small = st.lists(grids(8), min_size=1, max_size=8)
    large = st.lists(grids(), min_size=1, max_size=4)
    made = st.builds(
        lambda g, s: Batch.of(arc_like(g, s), list(range(len(g))), list(range(len(g)))), small | large, st.integers(1, 4)
    )
    return st.builds(split, made, st.integers(1, 8))
