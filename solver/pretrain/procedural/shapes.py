"""Random masks of things, and their placement on a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.values import Mask, Unfit

Shape = Callable[[np.random.Generator], Mask]
Option = TypeVar("Option")

_MAX_TRIES = 20  # places tried for a thing before it is left out


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, high + 1))


def one_of(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """A random one of some options."""
    return options[int(rng.integers(len(options)))]


def blob(rng: np.random.Generator) -> Mask:
    """A 4-connected set of 2 to 7 cells, grown cell by cell at random."""
    cells = {(0, 0)}
    wanted = between(rng, 2, 7)
    for row, column in rng.integers(0, 1 << 30, size=(4 * wanted, 2)).tolist():
        if len(cells) == wanted:
            break
        base = sorted(cells)[row % len(cells)]
        down, right = ((0, 1), (1, 0), (0, -1), (-1, 0))[column % 4]
        cells.add((base[0] + down, base[1] + right))
    return _mask(sorted(cells))


def rectangle(rng: np.random.Generator) -> Mask:
    """A filled rectangle of 1-4 by 1-4 cells."""
    return np.ones((between(rng, 1, 4), between(rng, 1, 4)), dtype=bool)


def ring(rng: np.random.Generator) -> Mask:
    """The outline of a rectangle of 3-5 by 3-5 cells."""
    mask = np.ones((between(rng, 3, 5), between(rng, 3, 5)), dtype=bool)
    mask[1:-1, 1:-1] = False
    return mask


def line(rng: np.random.Generator) -> Mask:
    """A straight line of 1-5 cells."""
    mask = np.ones((1, between(rng, 1, 5)), dtype=bool)
    return mask if rng.random() < 0.5 else mask.T


def classic(rng: np.random.Generator) -> Mask:
    """A random one of `_CLASSICS`, rotated at random."""
    return np.rot90(one_of(rng, _CLASSICS), between(rng, 0, 3))


def mirrored(rng: np.random.Generator) -> Mask:
    """A blob joined to its mirror image."""
    half = blob(rng)
    return np.concatenate([half, half[:, ::-1]], axis=1)


def dot(_: np.random.Generator) -> Mask:
    """One cell."""
    return np.ones((1, 1), dtype=bool)


def pierced(rng: np.random.Generator) -> Mask:
    """The outline of a rectangle of 3-4 by 3-6 cells, each cell of its inside filled with probability 1/2."""
    mask = np.ones((between(rng, 3, 4), between(rng, 3, 6)), dtype=bool)
    mask[1:-1, 1:-1] = rng.random((mask.shape[0] - 2, mask.shape[1] - 2)) < 0.5
    return mask


SHAPES: dict[str, Shape] = {
    "blob": blob,
    "rectangle": rectangle,
    "ring": ring,
    "line": line,
    "classic": classic,
    "mirrored": mirrored,
    "dot": dot,
    "pierced": pierced,
}


def scatter(rng: np.random.Generator, shape: tuple[int, int], patches: Sequence[Grid]) -> Grid:
    """A grid with the patches at random places that do not touch; patches for which no place is found are left out.

    Raises Unfit if none is placed, or only one of several.
    """
    grid = np.zeros(shape, dtype=np.uint8)
    taken = [0] * (shape[0] + 2)  # by row, a bit for each column; a placed box takes a rim of one cell, too
    placed = 0
    for patch in patches:
        height, width = patch.shape
        if height > shape[0] or width > shape[1]:
            continue
        for top, left in rng.integers(0, (shape[0] - height + 1, shape[1] - width + 1), size=(_MAX_TRIES, 2)).tolist():
            box = (1 << width) - 1 << left + 1
            if not any(row & box for row in taken[top + 1 : top + 1 + height]):
                grid[top : top + height, left : left + width] = patch
                for row in range(top, top + height + 2):
                    taken[row] |= box | box << 1 | box >> 1
                placed += 1
                break
    if placed < min(2, len(patches)):
        raise Unfit
    return grid


def _mask(cells: Sequence[tuple[int, int]]) -> Mask:
    """The smallest mask that holds cells given as (row, column)."""
    places = np.array(cells)
    places -= places.min(axis=0)
    mask = np.zeros(places.max(axis=0) + 1, dtype=bool)
    mask[places[:, 0], places[:, 1]] = True
    return mask


def _figure(text: str) -> Mask:
    """The mask drawn in a text: rows between slashes, `#` for a cell."""
    return np.array([[cell == "#" for cell in row] for row in text.split("/")])


_CLASSICS = [
    _figure(text)
    for text in (
        ".#./###/.#.",
        "#.#/.#./#.#",
        "###/#.#/###",
        "#../#../###",
        "###/.#./.#.",
        "#.#/###",
        "##./.##",
        "##/##",
        "#./##",
        "###/###/###",
        "#../##./###",
        "##./#.#/.##",
        "#####",
        "##./##./..#",
    )
]
