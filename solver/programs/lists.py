"""Primitives that cut grids into lists, choose from lists, and join lists into grids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from solver.programs.batch import Batch, Bools, Ints, Layout, Lists, ranges
from solver.programs.components import Components, components
from solver.programs.drawing import enclosed, line_mask, nearest
from solver.programs.geometry import symmetry
from solver.programs.pool import Keys, content_keys
from solver.programs.primitive import Primitive, cutting, joining, on_lists

MAX_ITEMS = 60  # of a list; a cut that gives more has no result

# ---- cuts


def cut_components(batch: Batch, parts: Components) -> Lists:
    """A list of each grid's components, each cropped to its box, in place, other cells 0."""
    many = parts.per_grid[parts.grid] > MAX_ITEMS if len(parts) else np.zeros(0, bool)
    kept = np.flatnonzero(~many)
    top, left, height, width = (side[kept] for side in parts.box) if len(parts) else (np.zeros(0, np.int64),) * 4
    grid = parts.grid[kept]
    layout = Layout(height, width)
    item = layout.grid
    place = batch.layout.offset[grid][item] + (layout.row + top[item]) * batch.layout.width[grid][item] + layout.col + left[item]
    cells = np.where(parts.of[place] == kept[item], batch.cells[place], np.uint8(0))
    grids = Batch(layout, cells, batch.top[grid] + top, batch.left[grid] + left)
    return Lists(grids, np.bincount(grid, minlength=len(batch)))


def cut_objects(batch: Batch, neighbours: int, one_colour: bool) -> Lists:
    """The objects."""
    return cut_components(batch, components(batch, neighbours, one_colour=one_colour))


def cut_holes(batch: Batch) -> Lists:
    """The enclosed parts of 0, in the colour of the first other cell to their left."""
    mask = enclosed(batch)
    coloured = batch.recoloured(np.where(mask, nearest(batch, "left"), np.uint8(0)))
    return cut_components(coloured, components(coloured, 4, mask, one_colour=False))


def cut_gaps(batch: Batch) -> Lists:
    """The connected parts of 0, in the grid's main colour. No result for an empty grid."""
    coloured = batch.recoloured(np.where(batch.filled, np.uint8(0), batch.main[batch.layout.grid]))
    return cut_components(coloured, components(coloured, 4))


def cut_boxes(batch: Batch) -> Lists:
    """The boxes around the objects (8 neighbours, any colours) with all that is in them."""
    parts = components(batch, 8, one_colour=False)
    lists = cut_components(batch, parts)
    return _windows(
        batch,
        lists.owner,
        lists.grids.top - batch.top[lists.owner],
        lists.grids.left - batch.left[lists.owner],
        lists.grids.layout,
    )


def _windows(batch: Batch, grid: Ints, top: Ints, left: Ints, layout: Layout) -> Lists:
    """Windows of the shapes of `layout` of the grids numbered `grid` (ascending)."""
    item = layout.grid
    place = batch.layout.offset[grid][item] + (layout.row + top[item]) * batch.layout.width[grid][item] + layout.col + left[item]
    return Lists(
        Batch(layout, batch.cells[place], batch.top[grid] + top, batch.left[grid] + left), np.bincount(grid, minlength=len(batch))
    )


def cut_colours(batch: Batch) -> Lists:
    """For each colour other than 0 its cells, cropped to their box, most frequent first."""
    order = np.argsort(-batch.counts[:, 1:], axis=1, kind="stable") + 1
    grid = np.repeat(np.arange(len(batch)), 9)
    colour = order.ravel()
    present = batch.counts[grid, colour] > 0
    grid, colour = grid[present], colour[present].astype(np.uint8)
    many = batch.select(grid)
    single = many.recoloured(np.where(many.cells == colour[many.layout.grid], many.cells, np.uint8(0)))
    cropped = single.crop(*single.box) if len(single) else single
    return Lists(cropped, np.bincount(grid, minlength=len(batch)))


def cut_lines(batch: Batch, rows: bool) -> Lists:
    """The rows (or columns) as grids."""
    count = batch.layout.height if rows else batch.layout.width
    grid = np.repeat(np.arange(len(batch)), count)
    index = ranges(count)
    zero, one = np.zeros_like(index), np.ones_like(index)
    layout = Layout(one, batch.layout.width[grid]) if rows else Layout(batch.layout.height[grid], one)
    return _windows(batch, grid, index if rows else zero, zero if rows else index, layout)


def cut_equally(batch: Batch, down: int, across: int) -> Lists:
    """Parts of equal shapes, `down` times `across`. No result where the sides cannot be divided."""
    height, width = batch.layout.height, batch.layout.width
    fits = (height % down == 0) & (width % across == 0)
    grid = np.repeat(np.flatnonzero(fits), down * across)
    part = np.arange(len(grid)) % (down * across)
    high, wide = height[grid] // down, width[grid] // across
    return _windows(batch, grid, part // across * high, part % across * wide, Layout(high, wide))


def cut_panels(batch: Batch) -> Lists:
    """The rectangles between full rows and columns of one colour. No result without such lines."""
    mask = line_mask(batch, "row") | line_mask(batch, "column")
    some = np.bincount(batch.layout.grid, mask, minlength=len(batch)) > 0
    parts = components(batch, 4, ~mask & some[batch.layout.grid], one_colour=False)
    return cut_components(batch, parts)


# ---- numbers of a list's grids, to choose and to sort by


def _pieces(grids: Batch) -> Ints:
    return components(grids, 8).per_grid


def _holes(grids: Batch) -> Ints:
    gaps = components(grids, 4, ~grids.filled)
    return np.bincount(gaps.grid[~gaps.touches_edge], minlength=len(grids))


def _symmetric(grids: Batch) -> Ints:
    keys = content_keys(grids)
    mirrored = np.array(
        [content_keys(symmetry(grids, name)) == keys for name in ("flip_lr", "flip_ud", "transpose", "antitranspose")]
    )
    return np.asarray(mirrored.any(axis=0), dtype=np.int64)


def _in_list(lists: Lists, keys: Keys) -> Keys:
    """The key of each grid mixed with its list: equal for grids of one list with equal keys."""
    return keys ^ (lists.owner.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _alike(lists: Lists, keys: Keys) -> Ints:
    """How often each grid's key comes in its list."""
    _, which, count = np.unique(_in_list(lists, keys), return_inverse=True, return_counts=True)
    return count[which]


def _shape_keys(grids: Batch) -> Keys:
    return content_keys(grids.recoloured(grids.filled.astype(np.uint8)))


NUMBERS: dict[str, Callable[[Lists], Ints]] = {
    "area": lambda lists: lists.grids.area,
    "box": lambda lists: lists.grids.layout.size,
    "height": lambda lists: lists.grids.layout.height,
    "width": lambda lists: lists.grids.layout.width,
    "colours": lambda lists: np.count_nonzero(lists.grids.counts[:, 1:], axis=1),
    "rarest": lambda lists: lists.grids.area - lists.grids.counts.max(1),
    "parts": lambda lists: _pieces(lists.grids),
    "holes": lambda lists: _holes(lists.grids),
    "symmetry": lambda lists: _symmetric(lists.grids),
    "alike": lambda lists: _alike(lists, content_keys(lists.grids)),
    "same shape": lambda lists: _alike(lists, _shape_keys(lists.grids)),
    "same colour": lambda lists: _alike(lists, lists.grids.main.astype(np.uint64)),
    "empty": lambda lists: lists.grids.counts[:, 0],
    "top": lambda lists: -lists.grids.top,
    "left": lambda lists: -lists.grids.left,
    "bottom": lambda lists: lists.grids.top + lists.grids.layout.height,
    "right": lambda lists: lists.grids.left + lists.grids.layout.width,
}


def numbers(lists: Lists, number: str) -> Ints:
    """A number of each grid, (grids,)."""
    if number not in lists.memory:
        lists.memory[number] = NUMBERS[number](lists)
    found: Ints = lists.memory[number]
    return found


def _extreme(lists: Lists, values: Ints) -> Bools:
    """The grids with the largest value of their list."""
    best = np.full(len(lists), -(10**6))
    np.maximum.at(best, lists.owner, values)
    return values == best[lists.owner]


def pick(lists: Lists, number: str, most: bool) -> Batch:
    """The grid with the largest (or smallest) number, the first if several have it. No result if all of several have it."""
    return _first(lists, _extreme(lists, _signed(lists, number, most)))


def pick_by_colour(lists: Lists, colour: int, most: bool) -> Batch:
    """The grid with most (or fewest) cells of a colour, the first if several have. No result if all of several have."""
    count = lists.grids.counts[:, colour]
    return _first(lists, _extreme(lists, count if most else -count))


def _signed(lists: Lists, number: str, most: bool) -> Ints:
    return numbers(lists, number) * (1 if most else -1)


def _first(lists: Lists, mask: Bools) -> Batch:
    """The first grid of `mask` (grids,) in each list. No result if all of several are."""
    extreme = np.flatnonzero(mask)
    owner = lists.owner[extreme]
    _, first = np.unique(owner, return_index=True)
    which = np.zeros(len(lists), np.int64)
    which[owner[first]] = extreme[first]
    chosen = lists.grids.select(which)
    return chosen.only((np.bincount(owner, minlength=len(lists)) < lists.count) | (lists.count == 1))


def item(lists: Lists, place: int) -> Batch:
    """The grid at a place of the list, from 0 on, or from -1 on backwards. No result if the list is too short."""
    length = place + 1 if place >= 0 else -place
    index = np.where(lists.count >= length, place % np.maximum(lists.count, 1), 0)
    return lists.grids.select(np.where(lists.count > 0, lists.start + index, 0)).only(lists.count >= length)


def keep_extreme(lists: Lists, number: str, most: bool, keep: bool) -> Lists:
    """Only the grids with the largest (or smallest) number, or only the others (not `keep`)."""
    return lists.keep(_extreme(lists, _signed(lists, number, most)) == keep)


def sort_by(lists: Lists, number: str, descending: bool) -> Lists:
    """The grids by a number; the order of equals stays."""
    values = numbers(lists, number)
    order = np.lexsort((lists.index, -values if descending else values, lists.owner))
    return Lists(lists.grids.select(order), lists.count)


def different(lists: Lists) -> Lists:
    """Each different grid once, where it first comes; places do not matter."""
    keys = _in_list(lists, content_keys(lists.grids))
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return lists.keep(first)


def reverse(lists: Lists) -> Lists:
    """The grids in the opposite order."""
    order = np.repeat(lists.start + lists.count - 1, lists.count) - lists.index
    return Lists(lists.grids.select(order), lists.count)


# ---- joins


def _ends(lists: Lists, first: Ints, last: Ints) -> tuple[Ints, Ints]:
    low, high = np.full(len(lists), 10**6), np.full(len(lists), -(10**6))
    np.minimum.at(low, lists.owner, first)
    np.maximum.at(high, lists.owner, last)
    return low, high


def _paint(lists: Lists, layout: Layout, top: Ints, left: Ints) -> np.ndarray:
    """Canvases of `layout` with the grids of the lists at `top`, `left` (grids,), later ones above earlier ones."""
    cells = np.zeros(layout.total, np.uint8)
    grids = lists.grids
    item = grids.layout.grid
    owner = lists.owner[item]
    place = layout.offset[owner] + (grids.layout.row + top[item]) * layout.width[owner] + grids.layout.col + left[item]
    shown = grids.filled & (layout.height[owner] > 0)
    cells[place[shown]] = grids.cells[shown]  # of equal places the last counts
    return cells


def compose(lists: Lists) -> Batch:
    """All grids at their places, later ones above earlier ones, on the smallest canvas."""
    grids = lists.grids
    some = lists.count > 0
    low_row, high_row = _ends(lists, grids.top, grids.top + grids.layout.height)
    low_col, high_col = _ends(lists, grids.left, grids.left + grids.layout.width)
    layout = Layout.limited(np.where(some, high_row - low_row, 0), np.where(some, high_col - low_col, 0))
    owner = lists.owner
    cells = _paint(lists, layout, grids.top - low_row[owner], grids.left - low_col[owner])
    return Batch(layout, cells, np.where(some, low_row, 0), np.where(some, low_col, 0))


def stack(lists: Lists, down: bool) -> Batch:
    """The grids below (or beside) each other. Smaller ones start at the left (or top)."""
    grids, owner = lists.grids, lists.owner
    length = grids.layout.height if down else grids.layout.width
    start = np.cumsum(length) - length
    start -= start[lists.start[owner]]
    total = np.bincount(owner, length, minlength=len(lists)).astype(np.int64)
    breadth = grids.layout.width if down else grids.layout.height
    across = np.where(lists.count > 0, _ends(lists, breadth, breadth)[1], 0)
    layout = Layout.limited(total, across) if down else Layout.limited(across, total)
    zero = np.zeros_like(start)
    cells = _paint(lists, layout, start if down else zero, zero if down else start)
    return Batch(layout, cells, np.zeros(len(lists), np.int64), np.zeros(len(lists), np.int64))


def combine(lists: Lists, rule: str) -> Batch:
    """Grids of one shape laid on each other: cells where "any" is other than 0, where "all" are, where "one" alone is."""
    grids = lists.grids
    h_low, h_high = _ends(lists, grids.layout.height, grids.layout.height)
    w_low, w_high = _ends(lists, grids.layout.width, grids.layout.width)
    fits = (lists.count > 1) & (h_low == h_high) & (w_low == w_high)
    layout = Layout.limited(np.where(fits, h_low, 0), np.where(fits, w_low, 0))
    zero = np.zeros(len(grids), np.int64)
    cells = _paint(lists, layout, zero, zero)
    item = grids.layout.grid
    owner = lists.owner[item]
    place = layout.offset[owner] + grids.layout.row * layout.width[owner] + grids.layout.col
    filled = np.bincount(place[grids.filled & fits[owner]], minlength=layout.total)
    wanted = {"any": filled > 0, "all": filled == lists.count[layout.grid], "one": filled == 1}[rule]
    nowhere = np.zeros(len(lists), np.int64)
    return Batch(layout, np.where(wanted, cells, np.uint8(0)), nowhere, nowhere)


def bar(lists: Lists) -> Batch:
    """A row with one cell for each grid, in its main colour."""
    layout = Layout.limited(np.where(lists.count > 0, 1, 0), lists.count)
    zero = np.zeros(len(lists), np.int64)
    return Batch(layout, lists.grids.main[layout.height[lists.owner] > 0], zero, zero)


BOTH = (  # numbers of which the largest and the smallest are picked
    "area", "box", "colours", "parts", "alike", "same shape", "same colour", "height", "width", "rarest", "empty", "symmetry",
    "holes",
)  # fmt: skip

PRIMITIVES: tuple[Primitive, ...] = (
    cutting("objects 4", 1, partial(cut_objects, neighbours=4, one_colour=True)),
    cutting("objects 8", 1, partial(cut_objects, neighbours=8, one_colour=True)),
    cutting("objects mixed", 1, partial(cut_objects, neighbours=8, one_colour=False)),
    cutting("cut holes", 1, cut_holes),
    cutting("cut gaps", 1, cut_gaps),
    cutting("cut boxes", 1, cut_boxes),
    cutting("cut colours", 1, cut_colours),
    cutting("cut rows", 1, partial(cut_lines, rows=True)),
    cutting("cut columns", 1, partial(cut_lines, rows=False)),
    cutting("cut panels", 1, cut_panels),
    *(
        cutting(f"cut {d}x{a}", 1, partial(cut_equally, down=d, across=a))
        for d, a in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (3, 3), (1, 4), (4, 1))
    ),
    *(
        joining(f"{'most' if most else 'least'} {number}", 1, partial(pick, number=number, most=most))
        for most, chosen_by in ((True, (*BOTH, "top", "left", "bottom", "right")), (False, BOTH))
        for number in chosen_by
    ),
    *(
        joining(f"{'most' if most else 'least'} {c}", 2, partial(pick_by_colour, colour=c, most=most), c)
        for most in (True, False)
        for c in range(1, 10)
    ),
    *(joining(f"item {place}", 1, partial(item, place=place)) for place in (0, 1, 2, -1)),
    *(
        on_lists(
            f"{verb} {'most' if most else 'least'} {n}", cost, partial(keep_extreme, number=n, most=most, keep=verb == "keep")
        )
        for verb, cost, chosen_by in (
            ("keep", 1, ("area", "colours", "parts", "symmetry", "alike")),
            ("drop", 2, ("area", "parts", "alike")),
        )
        for most in (True, False)
        for n in chosen_by
    ),
    on_lists("sort by area", 1, partial(sort_by, number="area", descending=False)),
    on_lists("sort by area down", 1, partial(sort_by, number="area", descending=True)),
    on_lists("sort by column", 1, partial(sort_by, number="left", descending=True)),
    on_lists("different", 1, different),
    on_lists("reverse", 1, reverse),
    joining("compose", 1, compose),
    joining("stack down", 1, partial(stack, down=True)),
    joining("stack across", 1, partial(stack, down=False)),
    *(joining(f"where {rule}", 1, partial(combine, rule=rule)) for rule in ("any", "all", "one")),
    joining("bar", 1, bar),
)
