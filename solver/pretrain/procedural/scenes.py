"""What inputs look like. A scene draws its style once a family and then grids without end.

`offers` names what a program may rely on: features ("objects", "points", ...) and roles of colours ("wall", "mask", ...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.shapes import between

Make = Callable[[np.random.Generator], Grid]
Palette = tuple[int, ...]  # the nine colours in the order in which the family uses them


@dataclass(frozen=True, eq=False)
class Scene:
    """A source of input grids."""

    name: str  # with the choices of style that matter, colours left out
    make: Make  # may raise Unfit
    offers: frozenset[str]
    colours: Palette  # those it draws things with
    roles: Mapping[str, int] = field(default_factory=dict)


SCENES: dict[str, Callable[[np.random.Generator, Palette], Scene]] = {}


def scene(
    factory: Callable[[np.random.Generator, Palette], Scene],
) -> Callable[[np.random.Generator, Palette], Scene]:
    """Enter a factory of scenes into the table under its name."""
    SCENES[factory.__name__] = factory
    return factory


def sides(rng: np.random.Generator, low: int, high: int) -> Callable[[np.random.Generator], tuple[int, int]]:
    """Sizes of a family: either one for all grids, or within three cells of each other."""
    rows, columns = between(rng, low, high), between(rng, low, high)
    if rng.random() < 0.3:
        columns = rows
    if rng.random() < 0.4:
        return lambda _: (rows, columns)
    return lambda r: (min(high, rows + between(r, 0, 3)), min(high, columns + between(r, 0, 3)))


def random_cells(rng: np.random.Generator, shape: tuple[int, int], colours: Palette, density: float) -> Grid:
    """A grid of a shape, a share of its cells filled with random colours."""
    filled = rng.random(shape) < density
    return np.where(filled, np.array(colours, dtype=np.uint8)[rng.integers(len(colours), size=shape)], np.uint8(0))


def one_of(rng: np.random.Generator, *options: str) -> str:
    """One of some words."""
    return options[int(rng.integers(len(options)))]
