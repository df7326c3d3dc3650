"""Primitives over the things of a grid: moving, reshaping, repeating them, summing them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
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
    Thing,
    Unfit,
    draw_things,
    enclosed,
    require,
    with_things,
    with_things_apart,
)


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
            require(thing.inside(objects.shape))  # the empty rim of a box leaves the grid before its cells meet the wall
        free[thing.top + 1 : thing.top + 1 + thing.height, thing.left + 1 : thing.left + 1 + thing.width] &= ~thing.mask
        placed[index] = thing
    return with_things(objects, [placed[i] for i in range(len(placed))])


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
    return with_things(objects, [t.moved(distance * down, distance * right) for t in objects.items])


@primitive("movable")
def shift_those(objects: Objects, which: Which, direction: Direction, distance: Literal[1, 2]) -> Objects:
    """The chosen things move by a fixed way; nothing may stand in it."""
    down, right = STEPS[direction]
    chosen = which.among(objects)
    moved = [t.moved(distance * down, distance * right) if c else t for t, c in zip(objects.items, chosen, strict=True)]
    return with_things_apart(objects, moved)


@primitive("movable")
def shift_by_size(objects: Objects, direction: Direction) -> Objects:
    """Every thing moves by its own extent."""
    down, right = STEPS[direction]
    return with_things(objects, [t.moved(down * t.height, right * t.width) for t in objects.items])


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
    return with_things_apart(objects, moved)


@primitive()
def flip_each(objects: Objects, axis: Axis) -> Objects:
    """Every thing is mirrored in its place."""
    return with_things(objects, [replace(t, patch=t.patch[::-1] if axis == "rows" else t.patch[:, ::-1]) for t in objects.items])


@primitive(weight=2)
def flip_those(objects: Objects, which: Which, axis: Axis) -> Objects:
    """The chosen things are mirrored in their places."""
    turned = flip_each(objects, axis)
    return with_things(
        objects, [n if c else t for t, n, c in zip(objects.items, turned.items, which.among(objects), strict=True)]
    )


@primitive()
def symmetrise(objects: Objects, axis: Axis) -> Objects:
    """Every thing is laid over its mirror image."""
    mirrored = flip_each(objects, axis).items
    return with_things(
        objects, [replace(t, patch=np.maximum(t.patch, m.patch)) for t, m in zip(objects.items, mirrored, strict=True)]
    )


@primitive("hollow", weight=2)
def fill_holes(objects: Objects, colour: Colour) -> Objects:
    """What things enclose is filled with a colour."""
    return with_things(objects, [replace(t, patch=np.where(enclosed(t.mask), np.uint8(colour), t.patch)) for t in objects.items])


@primitive("hollow")
def fill_holes_alike(objects: Objects) -> Objects:
    """What things enclose is filled with their own colour."""
    return with_things(
        objects, [replace(t, patch=np.where(enclosed(t.mask), np.uint8(t.colour), t.patch)) for t in objects.items]
    )


@primitive()
def fill_boxes(objects: Objects, colour: Colour) -> Objects:
    """What a thing leaves free in its bounding box is filled with a colour."""
    return with_things(objects, [replace(t, patch=np.where(t.mask, t.patch, np.uint8(colour))) for t in objects.items])


@primitive()
def to_boxes(objects: Objects) -> Objects:
    """Every thing becomes its bounding box, filled."""
    return with_things(objects, [replace(t, patch=np.full_like(t.patch, t.colour)) for t in objects.items])


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
    return with_things(objects, [*(_framed(t, colour, objects.shape) for t in objects.items), *objects.items])


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

    return with_things(objects, [rim(t) for t in objects.items])


@primitive("blocks", weight=2)
def mark_rims(objects: Objects, colour: Colour) -> Objects:
    """Cells on the outline of their thing take a colour."""
    cores = hollow_out(objects).items
    painted = [
        replace(t, patch=np.where(t.mask & (c.patch > 0), np.uint8(colour), t.patch))
        for t, c in zip(objects.items, cores, strict=True)
    ]
    return with_things(objects, painted)


@primitive()
def mark_centres(objects: Objects, colour: Colour) -> Objects:
    """The middle of every bounding box of odd sides takes a colour."""

    def marked(thing: Thing) -> Thing:
        if thing.height % 2 == 0 or thing.width % 2 == 0:
            return thing
        patch = thing.patch.copy()
        patch[thing.height // 2, thing.width // 2] = colour
        return replace(thing, patch=patch)

    return with_things(objects, [marked(t) for t in objects.items])


@primitive(weight=2)
def repeat_once(objects: Objects, direction: Direction, gap: Literal[0, 1]) -> Objects:
    """Every thing appears a second time beside itself; nothing may stand there."""
    down, right = STEPS[direction]
    copies = [t.moved(down * (t.height + gap), right * (t.width + gap)) for t in objects.items]
    items = [*objects.items, *copies]
    return with_things_apart(objects, items)


@primitive()
def repeat_to_border(objects: Objects, direction: Direction, gap: Literal[0, 1]) -> Objects:
    """Every thing is repeated beside itself as long as a whole copy fits, under what stood there."""
    return _repeated(objects, direction, lambda thing: (thing.height + gap, thing.width + gap))


@primitive()
def trail(objects: Objects, direction: Direction) -> Objects:
    """Every thing leaves a trail of its cells up to the border, under what stood there."""
    return _repeated(objects, direction, lambda _: (1, 1))


def _repeated(objects: Objects, direction: Direction, stride: Callable[[Thing], tuple[int, int]]) -> Objects:
    """With copies of every thing, `stride` (rows, columns) apart, under the things, as far as whole ones fit."""
    down, right = STEPS[direction]
    copies: list[Thing] = []
    for thing in objects.items:
        rows, columns = stride(thing)
        while (thing := thing.moved(down * rows, right * columns)).inside(objects.shape):
            copies.append(thing)
    require(copies)
    return with_things(objects, [*copies, *objects.items])


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
    return with_things_apart(objects, items)
