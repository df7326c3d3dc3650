"""Primitives that move, reshape and repeat the things of a grid, and that make a grid, a number or a colour of them."""

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
    """The `moving` things slide in a direction until the border or another thing stops them."""
    down, right = STEPS[direction]
    free = np.zeros((objects.shape[0] + 2, objects.shape[1] + 2), dtype=bool)
    free[1:-1, 1:-1] = True
    for thing, moves in zip(objects.items, moving, strict=True):
        if not moves:
            free[thing.top + 1 : thing.top + 1 + thing.height, thing.left + 1 : thing.left + 1 + thing.width] &= ~thing.mask
    # the thing nearest to the border goes first, so that the others stop at it
    front = [down * (t.top + t.height * (down > 0)) + right * (t.left + t.width * (right > 0)) for t in objects.items]
    placed = dict(enumerate(objects.items))
    for index in sorted((i for i, moves in enumerate(moving) if moves), key=lambda i: -front[i]):
        thing = objects.items[index]
        while True:
            top, left = thing.top + down + 1, thing.left + right + 1
            if not free[top : top + thing.height, left : left + thing.width][thing.mask].all():
                break
            thing = thing.moved(down, right)
            require(
                thing.inside(objects.shape)
            )  # an empty edge of the box would leave the grid before the cells reach the border
        free[thing.top + 1 : thing.top + 1 + thing.height, thing.left + 1 : thing.left + 1 + thing.width] &= ~thing.mask
        placed[index] = thing
    return with_things(objects, [placed[i] for i in range(len(placed))])


@primitive("movable")
def gravity(objects: Objects, direction: Direction) -> Objects:
    """Slide all things in one direction until the border or another thing stops them."""
    return _slid(objects, direction, [True] * len(objects.items))


@primitive("movable")
def gravity_of(objects: Objects, direction: Direction, which: Which) -> Objects:
    """Slide the chosen things in one direction until the border or another thing stops them; the others stay."""
    return _slid(objects, direction, which.among(objects))


@primitive("movable", weight=2)
def shift(objects: Objects, direction: Direction, distance: Literal[1, 2, 3]) -> Objects:
    """Move all things by the same distance. Raises Unfit if one leaves the grid."""
    down, right = STEPS[direction]
    return with_things(objects, [t.moved(distance * down, distance * right) for t in objects.items])


@primitive("movable")
def shift_those(objects: Objects, which: Which, direction: Direction, distance: Literal[1, 2]) -> Objects:
    """Move the chosen things by the same distance. Raises Unfit if one leaves the grid or would cover another thing."""
    down, right = STEPS[direction]
    chosen = which.among(objects)
    moved = [t.moved(distance * down, distance * right) if c else t for t, c in zip(objects.items, chosen, strict=True)]
    return with_things_apart(objects, moved)


@primitive("movable")
def shift_by_size(objects: Objects, direction: Direction) -> Objects:
    """Move every thing by its own height (or width)."""
    down, right = STEPS[direction]
    return with_things(objects, [t.moved(down * t.height, right * t.width) for t in objects.items])


@primitive("movable", weight=2)
def gather(objects: Objects, one: One) -> Objects:
    """Slide all things that share rows or columns with the chosen one straight towards it until they touch it."""
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
    """Mirror every thing within its bounding box."""
    return with_things(objects, [replace(t, patch=t.patch[::-1] if axis == "rows" else t.patch[:, ::-1]) for t in objects.items])


@primitive(weight=2)
def flip_those(objects: Objects, which: Which, axis: Axis) -> Objects:
    """Mirror the chosen things within their bounding boxes."""
    turned = flip_each(objects, axis)
    return with_things(
        objects, [n if c else t for t, n, c in zip(objects.items, turned.items, which.among(objects), strict=True)]
    )


@primitive()
def symmetrise(objects: Objects, axis: Axis) -> Objects:
    """Make every thing symmetric: overlay it with its mirror image."""
    mirrored = flip_each(objects, axis).items
    return with_things(
        objects, [replace(t, patch=np.maximum(t.patch, m.patch)) for t, m in zip(objects.items, mirrored, strict=True)]
    )


@primitive("hollow", weight=2)
def fill_holes(objects: Objects, colour: Colour) -> Objects:
    """Fill the holes of all things with one colour."""
    return with_things(objects, [replace(t, patch=np.where(enclosed(t.mask), np.uint8(colour), t.patch)) for t in objects.items])


@primitive("hollow")
def fill_holes_alike(objects: Objects) -> Objects:
    """Fill the holes of every thing with its main colour."""
    return with_things(
        objects, [replace(t, patch=np.where(enclosed(t.mask), np.uint8(t.colour), t.patch)) for t in objects.items]
    )


@primitive()
def fill_boxes(objects: Objects, colour: Colour) -> Objects:
    """Colour the ground inside the bounding box of every thing."""
    return with_things(objects, [replace(t, patch=np.where(t.mask, t.patch, np.uint8(colour))) for t in objects.items])


@primitive()
def to_boxes(objects: Objects) -> Objects:
    """Replace every thing by its bounding box, filled with its main colour."""
    return with_things(objects, [replace(t, patch=np.full_like(t.patch, t.colour)) for t in objects.items])


@primitive()
def box_those(objects: Objects, which: Which, colour: Colour) -> Objects:
    """Draw a frame around the chosen things, cut at the border of the grid. Raises Unfit if it would cover another thing."""
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
    """Draw a frame around every thing, cut at the border of the grid."""
    return with_things(objects, [*(_framed(t, colour, objects.shape) for t in objects.items), *objects.items])


def _framed(thing: Thing, colour: int, shape: tuple[int, int]) -> Thing:
    """A frame one cell wide around the bounding box, cut at the border. Raises Unfit if nothing of it is on the grid."""
    ring = np.pad(np.zeros_like(thing.patch), 1, constant_values=colour)
    top, left = thing.top - 1, thing.left - 1
    ring = ring[max(0, -top) : shape[0] - top, max(0, -left) : shape[1] - left]
    require(ring.any())
    return Thing(ring, max(0, top), max(0, left))


@primitive("blocks", weight=2)
def hollow_out(objects: Objects) -> Objects:
    """Erase the cells of every thing whose eight neighbours are all cells of that thing."""

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
    """Recolour the outline of every thing: its cells with a neighbour, diagonal ones counted, outside it."""
    cores = hollow_out(objects).items
    painted = [
        replace(t, patch=np.where(t.mask & (c.patch > 0), np.uint8(colour), t.patch))
        for t, c in zip(objects.items, cores, strict=True)
    ]
    return with_things(objects, painted)


@primitive()
def mark_centres(objects: Objects, colour: Colour) -> Objects:
    """Recolour the middle cell of every bounding box with odd height and width."""

    def marked(thing: Thing) -> Thing:
        if thing.height % 2 == 0 or thing.width % 2 == 0:
            return thing
        patch = thing.patch.copy()
        patch[thing.height // 2, thing.width // 2] = colour
        return replace(thing, patch=patch)

    return with_things(objects, [marked(t) for t in objects.items])


@primitive(weight=2)
def repeat_once(objects: Objects, direction: Direction, gap: Literal[0, 1]) -> Objects:
    """Add a copy of every thing beside it. Raises Unfit if a copy would cover another thing."""
    down, right = STEPS[direction]
    copies = [t.moved(down * (t.height + gap), right * (t.width + gap)) for t in objects.items]
    items = [*objects.items, *copies]
    return with_things_apart(objects, items)


@primitive()
def repeat_to_border(objects: Objects, direction: Direction, gap: Literal[0, 1]) -> Objects:
    """Add copies of every thing side by side as far as whole copies fit; the things lie on top of copies."""
    return _repeated(objects, direction, lambda thing: (thing.height + gap, thing.width + gap))


@primitive()
def trail(objects: Objects, direction: Direction) -> Objects:
    """Draw every thing again at every step towards the border; the things lie on top of the trail."""
    return _repeated(objects, direction, lambda _: (1, 1))


def _repeated(objects: Objects, direction: Direction, stride: Callable[[Thing], tuple[int, int]]) -> Objects:
    """Add copies of every thing, `stride` (rows, columns) apart, below the things, as far as whole copies fit."""
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
    """Draw the things on a grid."""
    return draw_things(objects)


@primitive(leaves=("motif",))
def crop_one(objects: Objects, one: One) -> Grid:
    """Crop the bounding box of the chosen thing, without other things."""
    return one.pick(objects).patch


@primitive()
def crop_around_one(objects: Objects, one: One) -> Grid:
    """Crop the bounding box of the chosen thing and one cell more on every side, as far as the grid goes."""
    thing = one.pick(objects)
    window = (
        slice(max(0, thing.top - 1), thing.top + thing.height + 1),
        slice(max(0, thing.left - 1), thing.left + thing.width + 1),
    )
    return draw_things(objects)[window]


@primitive()
def crop_span(objects: Objects) -> Grid:
    """Crop the smallest box that contains all things."""
    top, left = min(t.top for t in objects.items), min(t.left for t in objects.items)
    bottom, right = max(t.top + t.height for t in objects.items), max(t.left + t.width for t in objects.items)
    return draw_things(objects)[top:bottom, left:right]


@primitive("twins", leaves=("motif",), weight=3)
def commonest_shape(objects: Objects) -> Grid:
    """Crop the first thing of the most frequent shape."""
    return _shape_by_copies(objects, most=True)


@primitive("twins", leaves=("motif",), weight=3)
def odd_shape(objects: Objects) -> Grid:
    """Crop the only thing whose shape appears once."""
    return _shape_by_copies(objects, most=False)


def _shape_by_copies(objects: Objects, most: bool) -> Grid:
    """A thing of the most frequent shape, or of the only shape that appears once. Raises Unfit for ties."""
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
    """Lay two or three things of equal size over each other, later ones on top."""
    shapes = {t.patch.shape for t in objects.items}
    require(len(shapes) == 1 and len(objects.items) in (2, 3))
    result = objects.items[0].patch.copy()
    for thing in objects.items[1:]:
        np.copyto(result, thing.patch, where=thing.mask)
    return result


def _sorted(objects: Objects, measure: Measure, order: Order) -> list[Thing]:
    """The things sorted by a measure. Raises Unfit if two have the same value."""
    values = measure.of(objects)
    require(len(set(values)) == len(values))
    places = sorted(range(len(values)), key=lambda i: values[i], reverse=order == "descending")
    return [objects.items[i] for i in places]


@primitive()
def line_up(objects: Objects, measure: Measure, order: Order) -> Grid:
    """Place the things side by side, aligned at the bottom and sorted by a measure, with one empty column between them."""
    things = _sorted(objects, measure, order)
    grid = np.zeros((max(t.height for t in things), sum(t.width + 1 for t in things) - 1), dtype=np.uint8)
    left = 0
    for thing in things:
        grid[grid.shape[0] - thing.height :, left : left + thing.width] = thing.patch
        left += thing.width + 1
    return grid


@primitive("coloured")
def list_colours(objects: Objects, measure: Measure, order: Order, axis: Axis) -> Grid:
    """List the colours of the things in one row or column, sorted by a measure."""
    colours = np.array([[t.colour for t in _sorted(objects, measure, order)]], dtype=np.uint8)
    return colours if axis == "rows" else colours.T


@primitive("coloured")
def count_chart(objects: Objects, order: Order) -> Grid:
    """Draw one bar for each colour, as long as its number of things, sorted by length."""
    counts = Counter(t.colour for t in objects.items).most_common()
    require(len(counts) > 1 and len({n for _, n in counts}) == len(counts))
    chart = np.zeros((len(counts), counts[0][1]), dtype=np.uint8)
    for row, (colour, count) in enumerate(counts if order == "descending" else counts[::-1]):
        chart[row, :count] = colour
    return chart


@primitive()
def count(objects: Objects) -> Number:
    """Count the things."""
    return Number(len(objects.items))


@primitive()
def count_those(objects: Objects, which: Which) -> Number:
    """Count the chosen things."""
    return Number(sum(which.among(objects)))


@primitive("coloured")
def count_of_colour(objects: Objects, colour: Present) -> Number:
    """Count the things of one colour."""
    return Number(sum(t.colour == colour for t in objects.items))


@primitive(weight=2)
def amount_of_one(objects: Objects, one: One) -> Number:
    """Count the cells of the chosen thing."""
    return Number(int(one.pick(objects).mask.sum()))


@primitive("coloured")
def colour_of_one(objects: Objects, one: One) -> Colour:
    """Give the main colour of the chosen thing."""
    require(len({t.colour for t in objects.items}) > 1)
    return Colour(one.pick(objects).colour)


@primitive("coloured")
def commonest_colour(objects: Objects) -> Colour:
    """Give the main colour that most things have."""
    ranked = Counter(t.colour for t in objects.items).most_common(2)
    if len(ranked) < 2 or ranked[0][1] == ranked[1][1]:
        raise Unfit
    return Colour(ranked[0][0])


@primitive("bars", weight=3)
def rest_on(objects: Objects, direction: Direction) -> Objects:
    """Move every thing straight to one border, past whatever lies between."""
    rows, columns = objects.shape

    def moved(thing: Thing) -> Thing:
        far = {"up": (0, thing.left), "left": (thing.top, 0), "down": (rows - thing.height, thing.left)}
        top, left = far.get(direction, (thing.top, columns - thing.width))
        return replace(thing, top=top, left=left)

    items = [moved(t) for t in objects.items]
    return with_things_apart(objects, items)
