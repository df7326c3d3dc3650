"""Primitives over the things of a grid: finding, choosing, painting, moving, reshaping, summing up."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.criteria import Measure, One, Which
from solver.pretrain.procedural.registry import primitive
from solver.pretrain.procedural.values import (
    STEPS,
    Axis,
    Colour,
    Direction,
    Number,
    Objects,
    Order,
    Present,
    Scale,
    Thing,
    Unfit,
    cut,
    draw_things,
    enclosed,
    regions,
    require,
)


def _of(objects: Objects, items: list[Thing]) -> Objects:
    """Other things on the same grid. Raises Unfit if there are none, or if one leaves the grid."""
    rows, columns = objects.shape
    require(items)
    require(all(0 <= t.top <= rows - t.height and 0 <= t.left <= columns - t.width for t in items))
    return replace(objects, items=tuple(items))


def _apart(objects: Objects, items: list[Thing]) -> Objects:
    """As `_of`; raises Unfit also if two things overlap."""
    result = _of(objects, items)
    require((draw_things(result) > 0).sum() == sum(t.mask.sum() for t in items))
    return result


def _ranks(values: list[int]) -> list[int]:
    distinct = sorted(set(values), reverse=True)
    return [distinct.index(value) for value in values]


@primitive("objects", weight=30)
def find_things(grid: Grid) -> Objects:
    """The things of a grid: cells that touch, corners included, whatever their colours."""
    things = sorted((cut(grid, region) for region in regions(grid > 0, diagonal=True)), key=lambda t: (t.top, t.left))
    require(1 <= len(things) <= 12)
    return Objects((grid.shape[0], grid.shape[1]), tuple(things))


@primitive("touching", weight=5)
def find_colour_things(grid: Grid) -> Objects:
    """The things of a grid where things may touch: side by side cells of one colour."""
    things = [cut(grid, region) for colour in np.unique(grid[grid > 0]) for region in regions(grid == colour)]
    require(1 <= len(things) <= 12)
    return Objects((grid.shape[0], grid.shape[1]), tuple(sorted(things, key=lambda t: (t.top, t.left))))


@primitive()
def keep(objects: Objects, which: Which) -> Objects:
    """Only the chosen things stay."""
    return _of(objects, [t for t, chosen in zip(objects.items, which.among(objects), strict=True) if chosen])


@primitive()
def paint_those(objects: Objects, which: Which, colour: Colour) -> Objects:
    """The chosen things take a colour."""
    chosen = which.among(objects)
    return _of(objects, [t.painted(colour) if c else t for t, c in zip(objects.items, chosen, strict=True)])


@primitive()
def paint_two_ways(objects: Objects, which: Which, yes: Colour, no: Colour) -> Objects:
    """The chosen things take one colour, all others another."""
    return _of(objects, [t.painted(yes if c else no) for t, c in zip(objects.items, which.among(objects), strict=True)])


@primitive()
def paint_by_rank(objects: Objects, measure: Measure, scale: Scale) -> Objects:
    """Things take colours by their rank under a measure; equal ones the same."""
    ranks = _ranks(measure.of(objects))
    require(max(ranks) < len(scale))
    return _of(objects, [t.painted(scale[rank]) for t, rank in zip(objects.items, ranks, strict=True)])


@primitive()
def paint_by_amount(objects: Objects, measure: Literal["cells", "length", "height"], scale: Scale) -> Objects:
    """Things take the colour that stands for their number of cells or their length."""
    amounts = [{"cells": int(t.mask.sum()), "length": max(t.patch.shape), "height": t.height}[measure] for t in objects.items]
    require(len(set(amounts)) > 1 and max(amounts) <= len(scale))
    return _of(objects, [t.painted(scale[n - 1]) for t, n in zip(objects.items, amounts, strict=True)])


@primitive("coloured", weight=2)
def paint_like(objects: Objects, one: One) -> Objects:
    """All things take the colour of the chosen one."""
    colour = one.pick(objects).colour
    return _of(objects, [t.painted(colour) for t in objects.items])


@primitive("coloured", weight=2)
def trade_colours(objects: Objects, measure: Measure) -> Objects:
    """The things with the most and the least of a measure trade colours."""
    first, last = One(measure, "most").pick(objects), One(measure, "least").pick(objects)
    require(first.colour != last.colour)
    swap = {id(first): last.colour, id(last): first.colour}
    return _of(objects, [t.painted(swap[id(t)]) if id(t) in swap else t for t in objects.items])


@primitive("specks", weight=2)
def paint_by_speck(objects: Objects) -> Objects:
    """Every thing with a speck takes the colour of the speck; those without go."""
    specked = [t for t in objects.items if (t.counts > 0).sum() == 2]
    return _of(objects, [t.painted(int(np.where(t.counts > 0, t.counts, 99).argmin())) for t in specked])


@primitive("specks", weight=2)
def swap_speck(objects: Objects) -> Objects:
    """Main colour and speck colour trade places in every thing."""

    def swapped(thing: Thing) -> Thing:
        present = np.flatnonzero(thing.counts)
        if len(present) != 2:
            return thing
        return replace(thing, patch=np.where(thing.mask, np.uint8(present.sum()) - thing.patch, np.uint8(0)).astype(np.uint8))

    return _of(objects, [swapped(t) for t in objects.items])


@primitive("specks", weight=2)
def only_specks(objects: Objects) -> Objects:
    """Only the cells that are not in the main colour of their thing stay."""
    specks = [(t, np.nonzero(t.mask & (t.patch != t.colour))) for t in objects.items]
    return _of(objects, [cut(t.patch, cells).moved(t.top, t.left) for t, cells in specks if len(cells[0])])


def _slid(objects: Objects, direction: Direction, moving: list[bool]) -> Objects:
    down, right = STEPS[direction]
    free = np.zeros((objects.shape[0] + 2, objects.shape[1] + 2), dtype=bool)
    free[1:-1, 1:-1] = True
    for thing, moves in zip(objects.items, moving, strict=True):
        if not moves:
            free[thing.top + 1 : thing.top + 1 + thing.height, thing.left + 1 : thing.left + 1 + thing.width] &= ~thing.mask
    # the foremost first, so that each comes to rest on what already lies
    front = [down * (t.top + t.height * (down > 0)) + right * (t.left + t.width * (right > 0)) for t in objects.items]
    placed = dict(enumerate(objects.items))
    for index in sorted((i for i, moves in enumerate(moving) if moves), key=lambda i: -front[i]):
        thing = objects.items[index]
        while True:
            top, left = thing.top + down + 1, thing.left + right + 1
            if not free[top : top + thing.height, left : left + thing.width][thing.mask].all():
                break
            thing = thing.moved(down, right)
        free[thing.top + 1 : thing.top + 1 + thing.height, thing.left + 1 : thing.left + 1 + thing.width] &= ~thing.mask
        placed[index] = thing
    return _of(objects, [placed[i] for i in range(len(placed))])


@primitive("movable")
def gravity(objects: Objects, direction: Direction) -> Objects:
    """All things slide to one side until the wall or another thing stops them."""
    return _slid(objects, direction, [True] * len(objects.items))


@primitive("movable")
def gravity_of(objects: Objects, direction: Direction, which: Which) -> Objects:
    """The chosen things slide to one side until something stops them; the others stay."""
    return _slid(objects, direction, which.among(objects))


@primitive("movable", weight=2)
def shift(objects: Objects, direction: Direction, distance: Literal[1, 2, 3]) -> Objects:
    """All things move the same way."""
    down, right = STEPS[direction]
    return _of(objects, [t.moved(distance * down, distance * right) for t in objects.items])


@primitive("movable")
def shift_those(objects: Objects, which: Which, direction: Direction, distance: Literal[1, 2]) -> Objects:
    """The chosen things move by a fixed way; nothing may stand in it."""
    down, right = STEPS[direction]
    chosen = which.among(objects)
    moved = [t.moved(distance * down, distance * right) if c else t for t, c in zip(objects.items, chosen, strict=True)]
    return _apart(objects, moved)


@primitive("movable")
def shift_by_size(objects: Objects, direction: Direction) -> Objects:
    """Every thing moves by its own extent."""
    down, right = STEPS[direction]
    return _of(objects, [t.moved(down * t.height, right * t.width) for t in objects.items])


@primitive("movable", weight=2)
def gather(objects: Objects, one: One) -> Objects:
    """All other things slide straight towards the chosen one until they touch it, if they face it."""
    target = one.pick(objects)
    moved = []
    for thing in objects.items:
        beside = thing.top < target.top + target.height and target.top < thing.top + thing.height
        above = thing.left < target.left + target.width and target.left < thing.left + thing.width
        if thing is target or beside == above:
            moved.append(thing)
        elif beside:
            right = (
                target.left + target.width - thing.left if thing.left > target.left else target.left - thing.left - thing.width
            )
            moved.append(thing.moved(0, right))
        else:
            down = target.top + target.height - thing.top if thing.top > target.top else target.top - thing.top - thing.height
            moved.append(thing.moved(down, 0))
    return _apart(objects, moved)


@primitive()
def flip_each(objects: Objects, axis: Axis) -> Objects:
    """Every thing is mirrored in its place."""
    return _of(objects, [replace(t, patch=t.patch[::-1] if axis == "rows" else t.patch[:, ::-1]) for t in objects.items])


@primitive(weight=2)
def flip_those(objects: Objects, which: Which, axis: Axis) -> Objects:
    """The chosen things are mirrored in their places."""
    turned = flip_each(objects, axis)
    return _of(objects, [n if c else t for t, n, c in zip(objects.items, turned.items, which.among(objects), strict=True)])


@primitive()
def symmetrise(objects: Objects, axis: Axis) -> Objects:
    """Every thing is laid over its mirror image."""
    mirrored = flip_each(objects, axis).items
    return _of(objects, [replace(t, patch=np.maximum(t.patch, m.patch)) for t, m in zip(objects.items, mirrored, strict=True)])


@primitive("hollow", weight=2)
def fill_holes(objects: Objects, colour: Colour) -> Objects:
    """What things enclose is filled with a colour."""
    return _of(objects, [replace(t, patch=np.where(enclosed(t.mask), np.uint8(colour), t.patch)) for t in objects.items])


@primitive("hollow")
def fill_holes_alike(objects: Objects) -> Objects:
    """What things enclose is filled with their own colour."""
    return _of(objects, [replace(t, patch=np.where(enclosed(t.mask), np.uint8(t.colour), t.patch)) for t in objects.items])


@primitive()
def fill_boxes(objects: Objects, colour: Colour) -> Objects:
    """What a thing leaves free in its bounding box is filled with a colour."""
    return _of(objects, [replace(t, patch=np.where(t.mask, t.patch, np.uint8(colour))) for t in objects.items])


@primitive()
def to_boxes(objects: Objects) -> Objects:
    """Every thing becomes its bounding box, filled."""
    return _of(objects, [replace(t, patch=np.full_like(t.patch, t.colour)) for t in objects.items])


@primitive()
def box_those(objects: Objects, which: Which, colour: Colour) -> Objects:
    """The chosen things get a frame around them; it may leave the grid but not touch another thing."""
    items: list[Thing] = []
    for thing, chosen in zip(objects.items, which.among(objects), strict=True):
        if chosen:
            items.append(_framed(thing, colour, objects.shape))
        items.append(thing)
    grown = replace(objects, items=tuple(items))
    for thing in objects.items:
        window = (slice(thing.top, thing.top + thing.height), slice(thing.left, thing.left + thing.width))
        require(np.array_equal(draw_things(grown)[window][thing.mask], thing.patch[thing.mask]))
    return grown


@primitive()
def box_each(objects: Objects, colour: Colour) -> Objects:
    """Every thing gets a frame around it, cut at the border of the grid."""
    return _of(objects, [*(_framed(t, colour, objects.shape) for t in objects.items), *objects.items])


def _framed(thing: Thing, colour: int, shape: tuple[int, int]) -> Thing:
    ring = np.pad(np.zeros_like(thing.patch), 1, constant_values=colour)
    top, left = thing.top - 1, thing.left - 1
    ring = ring[max(0, -top) : shape[0] - top, max(0, -left) : shape[1] - left]
    require(ring.any())
    return Thing(ring, max(0, top), max(0, left))


@primitive("blocks", weight=2)
def hollow_out(objects: Objects) -> Objects:
    """Cells surrounded on all eight sides by their own thing become ground."""

    def rim(thing: Thing) -> Thing:
        around = np.pad(thing.mask, 1)
        inner = thing.mask.copy()
        for down in (0, 1, 2):
            for right in (0, 1, 2):
                inner &= around[down : down + thing.height, right : right + thing.width]
        return replace(thing, patch=np.where(inner, np.uint8(0), thing.patch))

    return _of(objects, [rim(t) for t in objects.items])


@primitive("blocks", weight=2)
def mark_rims(objects: Objects, colour: Colour) -> Objects:
    """Cells on the outline of their thing take a colour."""
    cores = hollow_out(objects).items
    painted = [
        replace(t, patch=np.where(t.mask & (c.patch > 0), np.uint8(colour), t.patch))
        for t, c in zip(objects.items, cores, strict=True)
    ]
    return _of(objects, painted)


@primitive()
def mark_centres(objects: Objects, colour: Colour) -> Objects:
    """The middle of every bounding box of odd sides takes a colour."""

    def marked(thing: Thing) -> Thing:
        if thing.height % 2 == 0 or thing.width % 2 == 0:
            return thing
        patch = thing.patch.copy()
        patch[thing.height // 2, thing.width // 2] = colour
        return replace(thing, patch=patch)

    return _of(objects, [marked(t) for t in objects.items])


@primitive(weight=2)
def repeat_once(objects: Objects, direction: Direction, gap: Literal[0, 1]) -> Objects:
    """Every thing appears a second time beside itself; nothing may stand there."""
    down, right = STEPS[direction]
    copies = [t.moved(down * (t.height + gap), right * (t.width + gap)) for t in objects.items]
    items = [*objects.items, *copies]
    return _apart(objects, items)


@primitive()
def repeat_to_border(objects: Objects, direction: Direction, gap: Literal[0, 1]) -> Objects:
    """Every thing is repeated beside itself as long as a whole copy fits, under what stood there."""
    down, right = STEPS[direction]
    copies: list[Thing] = []
    for thing in objects.items:
        while True:
            thing = thing.moved(down * (thing.height + gap), right * (thing.width + gap))
            inside = 0 <= thing.top <= objects.shape[0] - thing.height and 0 <= thing.left <= objects.shape[1] - thing.width
            if not inside:
                break
            copies.append(thing)
    require(copies)
    return _of(objects, [*copies, *objects.items])


@primitive()
def trail(objects: Objects, direction: Direction) -> Objects:
    """Every thing leaves a trail of its cells up to the border, under what stood there."""
    down, right = STEPS[direction]
    copies: list[Thing] = []
    for thing in objects.items:
        while True:
            thing = thing.moved(down, right)
            inside = 0 <= thing.top <= objects.shape[0] - thing.height and 0 <= thing.left <= objects.shape[1] - thing.width
            if not inside:
                break
            copies.append(thing)
    require(copies)
    return _of(objects, [*copies, *objects.items])


@primitive(weight=20)
def draw(objects: Objects) -> Grid:
    """The grid that shows the things."""
    return draw_things(objects)


@primitive(leaves=("motif",))
def crop_one(objects: Objects, one: One) -> Grid:
    """The chosen thing alone, cut to its bounding box."""
    return one.pick(objects).patch


@primitive()
def crop_around_one(objects: Objects, one: One) -> Grid:
    """The neighbourhood of the chosen thing: its box and one cell more on every side inside the grid."""
    thing = one.pick(objects)
    window = (
        slice(max(0, thing.top - 1), thing.top + thing.height + 1),
        slice(max(0, thing.left - 1), thing.left + thing.width + 1),
    )
    return draw_things(objects)[window]


@primitive()
def crop_span(objects: Objects) -> Grid:
    """The smallest box that holds all the things."""
    top, left = min(t.top for t in objects.items), min(t.left for t in objects.items)
    bottom, right = max(t.top + t.height for t in objects.items), max(t.left + t.width for t in objects.items)
    return draw_things(objects)[top:bottom, left:right]


@primitive("twins", leaves=("motif",), weight=3)
def commonest_shape(objects: Objects) -> Grid:
    """The shape that most things have."""
    return _shape_by_copies(objects, most=True)


@primitive("twins", leaves=("motif",), weight=3)
def odd_shape(objects: Objects) -> Grid:
    """The one shape that appears only once."""
    return _shape_by_copies(objects, most=False)


def _shape_by_copies(objects: Objects, most: bool) -> Grid:
    keys = [(t.patch.shape, t.mask.tobytes()) for t in objects.items]
    ranked = Counter(keys).most_common()
    require(len(ranked) > 1)
    if most:
        require(ranked[0][1] > ranked[1][1])
        return objects.items[keys.index(ranked[0][0])].patch
    require(ranked[-1][1] == 1 and ranked[-2][1] > 1)
    return objects.items[keys.index(ranked[-1][0])].patch


@primitive("sheets", leaves=("motif",), weight=8)
def overlay(objects: Objects) -> Grid:
    """Things of equal size laid over each other, earlier ones below."""
    shapes = {t.patch.shape for t in objects.items}
    require(len(shapes) == 1 and len(objects.items) in (2, 3))
    result = objects.items[0].patch.copy()
    for thing in objects.items[1:]:
        np.copyto(result, thing.patch, where=thing.mask)
    return result


def _sorted(objects: Objects, measure: Measure, order: Order) -> list[Thing]:
    values = measure.of(objects)
    require(len(set(values)) == len(values))
    places = sorted(range(len(values)), key=lambda i: values[i], reverse=order == "descending")
    return [objects.items[i] for i in places]


@primitive()
def line_up(objects: Objects, measure: Measure, order: Order) -> Grid:
    """The things side by side on a common floor, sorted by a measure, one column between them."""
    things = _sorted(objects, measure, order)
    grid = np.zeros((max(t.height for t in things), sum(t.width + 1 for t in things) - 1), dtype=np.uint8)
    left = 0
    for thing in things:
        grid[grid.shape[0] - thing.height :, left : left + thing.width] = thing.patch
        left += thing.width + 1
    return grid


@primitive("coloured")
def list_colours(objects: Objects, measure: Measure, order: Order, axis: Axis) -> Grid:
    """The colours of the things as one line of cells, sorted by a measure."""
    colours = np.array([[t.colour for t in _sorted(objects, measure, order)]], dtype=np.uint8)
    return colours if axis == "rows" else colours.T


@primitive("coloured")
def count_chart(objects: Objects, order: Order) -> Grid:
    """One bar for each colour, as long as the number of its things, sorted by length."""
    counts = Counter(t.colour for t in objects.items).most_common()
    require(len(counts) > 1 and len({n for _, n in counts}) == len(counts))
    chart = np.zeros((len(counts), counts[0][1]), dtype=np.uint8)
    for row, (colour, count) in enumerate(counts if order == "descending" else counts[::-1]):
        chart[row, :count] = colour
    return chart


@primitive()
def count(objects: Objects) -> Number:
    """How many things there are."""
    return Number(len(objects.items))


@primitive()
def count_those(objects: Objects, which: Which) -> Number:
    """How many things are chosen."""
    return Number(sum(which.among(objects)))


@primitive("coloured")
def count_of_colour(objects: Objects, colour: Present) -> Number:
    """How many things have a colour."""
    return Number(sum(t.colour == colour for t in objects.items))


@primitive(weight=2)
def amount_of_one(objects: Objects, one: One) -> Number:
    """How many cells the chosen thing has."""
    return Number(int(one.pick(objects).mask.sum()))


@primitive("coloured")
def colour_of_one(objects: Objects, one: One) -> Colour:
    """The colour of the chosen thing."""
    require(len({t.colour for t in objects.items}) > 1)
    return Colour(one.pick(objects).colour)


@primitive("coloured")
def commonest_colour(objects: Objects) -> Colour:
    """The colour that most things have."""
    ranked = Counter(t.colour for t in objects.items).most_common(2)
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        raise Unfit
    return Colour(ranked[0][0])


@primitive("bars", weight=3)
def rest_on(objects: Objects, direction: Direction) -> Objects:
    """Every thing moves to one border, whatever stands between."""
    rows, columns = objects.shape

    def moved(thing: Thing) -> Thing:
        far = {"up": (0, thing.left), "left": (thing.top, 0), "down": (rows - thing.height, thing.left)}
        top, left = far.get(direction, (thing.top, columns - thing.width))
        return replace(thing, top=top, left=left)

    items = [moved(t) for t in objects.items]
    return _apart(objects, items)
