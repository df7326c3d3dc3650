"""Primitives that complete a pattern: cells of one colour hide parts of a grid that is periodic or mirrors itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import COLOURS, Grid
from solver.programs.batch import Batch, Layout
from solver.programs.primitive import Primitive, on_grids

MIN_SIDE = 3  # smaller grids are left alone
MAX_HIDDEN = 0.7  # of the cells
UNKNOWN = 255


def complete(grid: Grid, hidden: int) -> Grid | None:
    """The grid with its cells of colour `hidden` completed by mirrors or periods that all other cells obey; None if none does."""
    mask = grid == hidden
    if min(grid.shape) < MIN_SIDE or not mask.any() or mask.mean() > MAX_HIDDEN:
        return None
    known = np.where(mask, np.uint8(UNKNOWN), grid)
    for way in (_by_mirrors, _by_period):
        completed = way(known)
        if completed is not None:
            return completed
    return None


def _agreeing(one: Grid, other: Grid) -> int:
    """Cells known in both and equal; -1 if some known in both differ."""
    both = (one != UNKNOWN) & (other != UNKNOWN)
    equal = one == other
    return int((both & equal).sum()) if bool(equal[both].all()) else -1


def _mirrors(grid: Grid) -> Iterator[tuple[int, Callable[[Grid], Grid]]]:
    """Mirrors that the known cells obey, with the number of cells that confirm each; an image is UNKNOWN where it has no cell."""
    for turn in (False, True):
        shown = grid.T if turn else grid
        width = shown.shape[1]
        for total in range(width // 2, width + width // 2):  # of the two columns that mirror each other
            low, high = max(0, total - width + 1), min(width - 1, total)

            def image(source: Grid, turn: bool = turn, low: int = low, high: int = high) -> Grid:
                given = source.T if turn else source
                result = np.full_like(given, UNKNOWN)
                result[:, low : high + 1] = given[:, low : high + 1][:, ::-1]
                return result.T if turn else result

            if high - low + 1 >= width * 0.6 and (score := _agreeing(grid, image(grid))) > 0:
                yield score, image
    if grid.shape[0] == grid.shape[1]:
        for diagonal in (lambda g: g.T, lambda g: g[::-1, ::-1].T):
            if (score := _agreeing(grid, diagonal(grid))) > 0:
                yield score, diagonal


def _by_mirrors(grid: Grid) -> Grid | None:
    mirrors = sorted(_mirrors(grid), key=lambda mirror: -mirror[0])[:4]
    if not mirrors or mirrors[0][0] < 0.3 * grid.size:
        return None
    completed = grid
    for _ in range(3):
        for _, image in mirrors:
            completed = np.where(completed == UNKNOWN, image(completed), completed)
    return completed if not (completed == UNKNOWN).any() else None


def _by_period(grid: Grid) -> Grid | None:
    """By the smallest rectangle whose repetition agrees with every known cell and gives every unknown one."""
    height, width = grid.shape
    known = grid != UNKNOWN
    row, col = np.indices(grid.shape)
    downs = [p for p in range(1, height + 1) if _shifted(grid, known, p, 0)]
    rights = [q for q in range(1, width + 1) if _shifted(grid, known, 0, q)]
    for size, down, right in sorted((p * q, p, q) for p in downs for q in rights):
        if size * 2 > grid.size:
            return None
        place = (row % down) * right + col % right
        tile: NDArray[np.uint8] = np.full(size, UNKNOWN, np.uint8)
        tile[place[known]] = grid[known]
        if not np.array_equal(tile[place[known]], grid[known]):
            continue
        completed: Grid = tile[place]
        if not (completed == UNKNOWN).any() and size > 1:
            return completed
    return None


def _shifted(grid: Grid, known: NDArray[np.bool_], down: int, right: int) -> bool:
    one, other = grid[down:, right:], grid[: grid.shape[0] - down, : grid.shape[1] - right]
    both = known[down:, right:] & known[: grid.shape[0] - down, : grid.shape[1] - right]
    return bool((one[both] == other[both]).all())


def repair(batch: Batch, hidden: int, patch: bool) -> Batch:
    """The grid with its hidden cells completed, or only the box of what was hidden (`patch`). No result if that fails."""
    grids, top, left = [], batch.top.copy(), batch.left.copy()
    memory = batch.memory.setdefault(("repair", hidden), {})
    for i in range(len(batch)):
        grid = batch[i]
        if i not in memory:
            memory[i] = complete(grid, hidden)
        completed = memory[i]
        if completed is None:
            grids.append(np.zeros((0, 0), np.uint8))
        elif patch:
            rows, cols = np.nonzero(grid == hidden)
            top[i] += rows.min()
            left[i] += cols.min()
            grids.append(completed[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1])
        else:
            grids.append(completed)
    height, width = (np.array([g.shape[axis] for g in grids], dtype=np.int64) for axis in (0, 1))
    return Batch(Layout(height, width), np.concatenate([g.ravel() for g in grids]), top, left)


PRIMITIVES: tuple[Primitive, ...] = tuple(
    on_grids(f"{'patch' if patch else 'repair'} {c}", 1, partial(repair, hidden=c, patch=patch), c).for_inputs()
    for patch in (False, True)
    for c in range(COLOURS)
)
