"""Criteria by which programs choose and rank things: measures (a number for each thing) and traits (yes or no).

Their names are part of the names of rules, by which families are held out: do not change them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from solver.pretrain.procedural.values import Objects, Thing, Unfit, on_border, regions

MeasureFunction = Callable[[Thing, Objects], int]
TraitFunction = Callable[[Thing, Objects], bool]


@dataclass(frozen=True, eq=False)
class Measure:
    """A function that gives a number for each thing."""

    name: str
    function: MeasureFunction
    needs: frozenset[str] = frozenset()

    def of(self, objects: Objects) -> list[int]:
        """The value of every thing, in order. Raises Unfit if all are equal."""
        values = [self.function(thing, objects) for thing in objects.items]
        if len(set(values)) < 2:
            raise Unfit
        return values


@dataclass(frozen=True, eq=False)
class Trait:
    """A function that says whether a thing has a property."""

    name: str
    function: TraitFunction
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Which:
    """A choice among things: those with or without a trait, or the one with the largest or smallest value of a measure."""

    criterion: Measure | Trait
    want: Literal["most", "least", "with", "without"]

    @property
    def name(self) -> str:
        """The choice in words, as the name of a rule contains it."""
        return f"{self.want} {self.criterion.name}"

    def among(self, objects: Objects) -> list[bool]:
        """Whether each thing is chosen, in order. Raises Unfit if none or all are, or if two have the best value of a measure."""
        if isinstance(self.criterion, Measure):
            values = self.criterion.of(objects)
            best = max(values) if self.want == "most" else min(values)
            if values.count(best) > 1:
                raise Unfit
            return [value == best for value in values]
        chosen = [self.criterion.function(thing, objects) is (self.want == "with") for thing in objects.items]
        if all(chosen) or not any(chosen):
            raise Unfit
        return chosen


@dataclass(frozen=True, eq=False)
class One(Which):
    """A choice of exactly one thing."""

    def pick(self, objects: Objects) -> Thing:
        """The chosen thing. Raises Unfit if there is not exactly one."""
        chosen = self.among(objects)
        if sum(chosen) != 1:
            raise Unfit
        return objects.items[chosen.index(True)]


MEASURES: dict[str, Measure] = {}
TRAITS: dict[str, Trait] = {}


def measure(*needs: str) -> Callable[[MeasureFunction], MeasureFunction]:
    """Enter a function into the table of measures under its name."""

    def enter(function: MeasureFunction) -> MeasureFunction:
        MEASURES[function.__name__] = Measure(function.__name__, function, frozenset(needs))
        return function

    return enter


def trait(*needs: str) -> Callable[[TraitFunction], TraitFunction]:
    """Enter a function into the table of traits under its name."""

    def enter(function: TraitFunction) -> TraitFunction:
        TRAITS[function.__name__] = Trait(function.__name__, function, frozenset(needs))
        return function

    return enter


@measure()
def cells(thing: Thing, _: Objects) -> int:
    """How many cells the thing has."""
    return int(thing.mask.sum())


@measure()
def height(thing: Thing, _: Objects) -> int:
    """How many rows it spans."""
    return thing.height


@measure()
def width(thing: Thing, _: Objects) -> int:
    """How many columns it spans."""
    return thing.width


@measure()
def length(thing: Thing, _: Objects) -> int:
    """The longer side of its bounding box."""
    return max(thing.patch.shape)


@measure()
def box_area(thing: Thing, _: Objects) -> int:
    """How many cells its bounding box has."""
    return int(thing.patch.size)


@measure()
def lowness(thing: Thing, _: Objects) -> int:
    """How far down it reaches: the row below its lowest cell."""
    return thing.top + thing.height


@measure()
def rightness(thing: Thing, _: Objects) -> int:
    """How far right it reaches: the column after its rightmost cell."""
    return thing.left + thing.width


@measure("hollow")
def holes(thing: Thing, _: Objects) -> int:
    """How many holes it has."""
    return sum(not on_border(region, thing.patch.shape) for region in regions(~thing.mask))


@measure("hollow")
def hole_cells(thing: Thing, _: Objects) -> int:
    """How many cells its holes have together."""
    return sum(len(region[0]) for region in regions(~thing.mask) if not on_border(region, thing.patch.shape))


@measure("specks")
def speck_cells(thing: Thing, _: Objects) -> int:
    """How many of its cells are not in its main colour."""
    return int(thing.counts.sum() - thing.counts.max())


@measure("specks")
def colours(thing: Thing, _: Objects) -> int:
    """How many colours it has."""
    return int((thing.counts > 0).sum())


@measure("copies")
def shape_copies(thing: Thing, objects: Objects) -> int:
    """How many things have the same shape, itself included."""
    return sum(np.array_equal(thing.mask, other.mask) for other in objects.items)


@measure("coloured")
def colour_copies(thing: Thing, objects: Objects) -> int:
    """How many things have the same main colour, itself included."""
    return sum(thing.colour == other.colour for other in objects.items)


@trait()
def touches_border(thing: Thing, objects: Objects) -> bool:
    """It has a cell on the border of the grid."""
    rows, columns = objects.shape
    return thing.top == 0 or thing.left == 0 or thing.top + thing.height == rows or thing.left + thing.width == columns


@trait()
def mirrors_sideways(thing: Thing, _: Objects) -> bool:
    """It equals its left-right mirror image, colours included."""
    return np.array_equal(thing.patch, thing.patch[:, ::-1])


@trait()
def mirrors_upright(thing: Thing, _: Objects) -> bool:
    """It equals its top-bottom mirror image, colours included."""
    return np.array_equal(thing.patch, thing.patch[::-1])


@trait()
def symmetric(thing: Thing, objects: Objects) -> bool:
    """It equals its left-right or its top-bottom mirror image."""
    return mirrors_sideways(thing, objects) or mirrors_upright(thing, objects)


@trait()
def solid(thing: Thing, _: Objects) -> bool:
    """It fills its bounding box."""
    return bool(thing.mask.all())


@trait()
def straight(thing: Thing, _: Objects) -> bool:
    """It lies in one row or one column."""
    return min(thing.patch.shape) == 1


@trait()
def square(thing: Thing, _: Objects) -> bool:
    """Its bounding box is as high as it is wide."""
    return thing.height == thing.width


@trait()
def upright(thing: Thing, _: Objects) -> bool:
    """It is higher than it is wide."""
    return thing.height > thing.width


@trait()
def single(thing: Thing, _: Objects) -> bool:
    """It is a single cell."""
    return thing.patch.size == 1


@trait("hollow")
def has_hole(thing: Thing, objects: Objects) -> bool:
    """It encloses ground."""
    return holes(thing, objects) > 0


@trait("specks")
def has_speck(thing: Thing, _: Objects) -> bool:
    """It has cells of a second colour."""
    return int((thing.counts > 0).sum()) > 1


@trait("copies")
def has_twin(thing: Thing, objects: Objects) -> bool:
    """Another thing has the same shape."""
    return shape_copies(thing, objects) > 1


@trait("coloured")
def has_colour_mate(thing: Thing, objects: Objects) -> bool:
    """Another thing has the same main colour."""
    return colour_copies(thing, objects) > 1


@trait()
def in_upper_half(thing: Thing, objects: Objects) -> bool:
    """It lies in the upper half of the grid; in an odd number of rows it may cover the middle one."""
    return 2 * (thing.top + thing.height) <= objects.shape[0] + 1


@trait()
def in_left_half(thing: Thing, objects: Objects) -> bool:
    """It lies in the left half of the grid; in an odd number of columns it may cover the middle one."""
    return 2 * (thing.left + thing.width) <= objects.shape[1] + 1


def has_colour(colour: int) -> Trait:
    """The trait of having one main colour."""
    return Trait("#", lambda thing, _: thing.colour == colour, frozenset({"coloured"}))
