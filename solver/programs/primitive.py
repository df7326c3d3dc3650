"""A primitive: one function of the search, on all grids (or lists of grids) of a batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from solver.programs.batch import Batch, Lists

Kind = Literal["grid", "list"]
GridFunction = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Primitive:
    """A total and pure function from n values to n values, some of which may be "no result".

    `apply` takes and gives a `Batch` for the kind "grid" and `Lists` for the kind "list". A function from grid to grid also works
    on every grid of a list. A function that names a `colour` is left out for tasks without that colour.
    """

    name: str
    takes: Kind
    gives: Kind
    cost: int  # what a program pays for using it: 1 common, 2 special
    apply: Callable[[Any], Any]
    colour: int | None = None
    leaf: bool = False  # no function works on its results
    first: bool = False  # works on the inputs alone, because it takes too long for everything else

    def for_inputs(self) -> Primitive:
        """The same for the inputs alone."""
        return replace(self, first=True)

    def as_leaf(self) -> Primitive:
        """The same with results that no function works on."""
        return replace(self, leaf=True)

    @property
    def lifts(self) -> bool:
        """Whether it also works on the grids of a list."""
        return self.takes == self.gives == "grid" and not self.leaf


def on_grids(name: str, cost: int, apply: GridFunction, colour: int | None = None) -> Primitive:
    """A primitive from grid to grid."""
    return Primitive(name, "grid", "grid", cost, apply, colour)


def cutting(name: str, cost: int, apply: Callable[[Batch], Lists]) -> Primitive:
    """A primitive from grid to list."""
    return Primitive(name, "grid", "list", cost, apply)


def on_lists(name: str, cost: int, apply: Callable[[Lists], Lists]) -> Primitive:
    """A primitive from list to list."""
    return Primitive(name, "list", "list", cost, apply)


def joining(name: str, cost: int, apply: Callable[[Lists], Batch], colour: int | None = None) -> Primitive:
    """A primitive from list to grid."""
    return Primitive(name, "list", "grid", cost, apply, colour)
