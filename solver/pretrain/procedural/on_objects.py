"""Primitives that find the things of a grid, choose among them and recolour them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.criteria import Measure, One, Which
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import (
    Colour,
    Objects,
    Scale,
    Thing,
    cut,
    regions,
    require,
    with_things,
)


def _ranks(values: list[int]) -> list[int]:
    """The rank of each value, 0 for the largest; equal values have the same rank."""
    distinct = sorted(set(values), reverse=True)
    return [distinct.index(value) for value in values]


@primitive("objects", weight=30)
def find_things(grid: Grid) -> Objects:
    """Find the things of a grid: 8-connected groups of filled cells of any colours. Raises Unfit for more than 12."""
    things = sorted((cut(grid, region) for region in regions(grid > 0, diagonal=True)), key=lambda t: (t.top, t.left))
    require(1 <= len(things) <= 12)
    return Objects((grid.shape[0], grid.shape[1]), tuple(things))


@primitive("touching", weight=5)
def find_colour_things(grid: Grid) -> Objects:
    """Find the things of a grid in which things may touch: 4-connected groups of one colour. Raises Unfit for more than 12."""
    things = [cut(grid, region) for colour in np.unique(grid[grid > 0]) for region in regions(grid == colour)]
    require(1 <= len(things) <= 12)
    return Objects((grid.shape[0], grid.shape[1]), tuple(sorted(things, key=lambda t: (t.top, t.left))))


@primitive()
def keep(objects: Objects, which: Which) -> Objects:
    """Keep the chosen things and erase all others."""
    return with_things(objects, [t for t, chosen in zip(objects.items, which.among(objects), strict=True) if chosen])


@primitive()
def paint_those(objects: Objects, which: Which, colour: Colour) -> Objects:
    """Recolour the chosen things."""
    chosen = which.among(objects)
    return with_things(objects, [t.painted(colour) if c else t for t, c in zip(objects.items, chosen, strict=True)])


@primitive()
def paint_two_ways(objects: Objects, which: Which, yes: Colour, no: Colour) -> Objects:
    """Recolour the chosen things with `yes` and all others with `no`."""
    return with_things(objects, [t.painted(yes if c else no) for t, c in zip(objects.items, which.among(objects), strict=True)])


@primitive()
def paint_by_rank(objects: Objects, measure: Measure, scale: Scale) -> Objects:
    """Recolour every thing by its rank under a measure, the largest value first; equal values get the same colour."""
    ranks = _ranks(measure.of(objects))
    require(max(ranks) < len(scale))
    return with_things(objects, [t.painted(scale[rank]) for t, rank in zip(objects.items, ranks, strict=True)])


@primitive()
def paint_by_amount(objects: Objects, measure: Literal["cells", "length", "height"], scale: Scale) -> Objects:
    """Recolour every thing by its number of cells, its length or its height: `scale[n - 1]` for n."""
    amounts = [{"cells": int(t.mask.sum()), "length": max(t.patch.shape), "height": t.height}[measure] for t in objects.items]
    require(len(set(amounts)) > 1 and max(amounts) <= len(scale))
    return with_things(objects, [t.painted(scale[n - 1]) for t, n in zip(objects.items, amounts, strict=True)])


@primitive("coloured", weight=2)
def paint_like(objects: Objects, one: One) -> Objects:
    """Recolour all things with the colour of the chosen one."""
    colour = one.pick(objects).colour
    return with_things(objects, [t.painted(colour) for t in objects.items])


@primitive("coloured", weight=2)
def trade_colours(objects: Objects, measure: Measure) -> Objects:
    """Exchange the colours of the things with the largest and the smallest value of a measure."""
    first, last = One(measure, "most").pick(objects), One(measure, "least").pick(objects)
    require(first.colour != last.colour)
    swap = {id(first): last.colour, id(last): first.colour}
    return with_things(objects, [t.painted(swap[id(t)]) if id(t) in swap else t for t in objects.items])


@primitive("specks", weight=2)
def paint_by_speck(objects: Objects) -> Objects:
    """Recolour every thing that has a speck (cells of a second colour) with the speck's colour, and erase all others."""
    specked = [t for t in objects.items if (t.counts > 0).sum() == 2]
    return with_things(objects, [t.painted(int(np.where(t.counts > 0, t.counts, 99).argmin())) for t in specked])


@primitive("specks", weight=2)
def swap_speck(objects: Objects) -> Objects:
    """Exchange the two colours of every thing that has a speck."""

    def swapped(thing: Thing) -> Thing:
        present = np.flatnonzero(thing.counts)
        if len(present) != 2:
            return thing
        return replace(thing, patch=np.where(thing.mask, np.uint8(present.sum()) - thing.patch, np.uint8(0)).astype(np.uint8))

    return with_things(objects, [swapped(t) for t in objects.items])


@primitive("specks", weight=2)
def only_specks(objects: Objects) -> Objects:
    """Keep the cells that are not of the main colour of their thing, and erase all others."""
    specks = [(t, np.nonzero(t.mask & (t.patch != t.colour))) for t in objects.items]
    return with_things(objects, [cut(t.patch, cells).moved(t.top, t.left) for t, cells in specks if len(cells[0])])
