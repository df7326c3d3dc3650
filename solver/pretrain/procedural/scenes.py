"""Scenes: sources of input grids. The style of a scene is drawn once for a family; its grids are drawn as needed.

`offers` names what a program may rely on: features ("objects", "points", ...) and roles of colours ("wall", "mask", ...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.shapes import between

Make = Callable[[np.random.Generator], Grid]
Palette = tuple[int, ...]  # colours other than the ground, in the order in which a family uses them


@dataclass(frozen=True, eq=False)
class Scene:
    """A source of input grids."""

    name: str  # the kind of scene and its style, without colours
    make: Make  # may raise Unfit
    offers: frozenset[str]
    colours: Palette  # the colours in which things are drawn
    roles: Mapping[str, int] = field(default_factory=dict)  # colours with a role, by the role's name


SCENES: dict[str, Callable[[np.random.Generator, Palette], Scene]] = {}


def scene(
    factory: Callable[[np.random.Generator, Palette], Scene],
) -> Callable[[np.random.Generator, Palette], Scene]:
    """Enter a factory of scenes into the table under its name. Names are drawn in alphabetical order: do not change them."""
    SCENES[factory.__name__] = factory
    return factory


def sides(rng: np.random.Generator, low: int, high: int) -> Callable[[np.random.Generator], tuple[int, int]]:
    """A function that draws grid shapes (rows, columns) with sides from `low` to `high`.

    Either all shapes are the same, or each side varies by up to three cells.
    """
    rows, columns = between(rng, low, high), between(rng, low, high)
    if rng.random() < 0.3:
        columns = rows
    if rng.random() < 0.4:
        return lambda _: (rows, columns)
    return lambda r: (min(high, rows + between(r, 0, 3)), min(high, columns + between(r, 0, 3)))


def random_cells(rng: np.random.Generator, shape: tuple[int, int], colours: Palette, density: float) -> Grid:
    """A grid in which each cell is filled with probability `density`, in a random one of `colours`."""
    filled = rng.random(shape) < density
    return np.where(filled, np.array(colours, dtype=np.uint8)[rng.integers(len(colours), size=shape)], np.uint8(0))


def random_box(
    rng: np.random.Generator, shape: tuple[int, ...], heights: tuple[int, int], widths: tuple[int, int]
) -> tuple[slice, slice]:
    """A box at a random place of a grid, as an index; its height and width are drawn from ranges, both ends included."""
    height, width = between(rng, *heights), between(rng, *widths)
    top, left = between(rng, 0, shape[0] - height), between(rng, 0, shape[1] - width)
    return slice(top, top + height), slice(left, left + width)
