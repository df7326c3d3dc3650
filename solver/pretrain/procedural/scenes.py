"""What inputs look like. A scene draws its style once a family and then grids without end.

`offers` names what a program may rely on: features ("objects", "points", ...) and roles of colours ("wall", "mask", ...).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.shapes import SHAPES, between, scatter
from solver.pretrain.procedural.values import Unfit, regions

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


def _sides(rng: np.random.Generator, low: int, high: int) -> Callable[[np.random.Generator], tuple[int, int]]:
    """Sizes of a family: either one for all grids, or within three cells of each other."""
    rows, columns = between(rng, low, high), between(rng, low, high)
    if rng.random() < 0.3:
        columns = rows
    if rng.random() < 0.4:
        return lambda _: (rows, columns)
    return lambda r: (min(high, rows + between(r, 0, 3)), min(high, columns + between(r, 0, 3)))


def _random_cells(rng: np.random.Generator, shape: tuple[int, int], colours: Palette, density: float) -> Grid:
    filled = rng.random(shape) < density
    return np.where(filled, np.array(colours, dtype=np.uint8)[rng.integers(len(colours), size=shape)], np.uint8(0))


def _one_of(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


# things on a ground


def _things(
    rng: np.random.Generator, palette: Palette
) -> tuple[str, Callable[[np.random.Generator], list[Grid]], set[str], Palette]:
    """A style of things: name, a maker of their patches, what they offer, and their colours."""
    kinds = [str(k) for k in rng.choice(sorted(SHAPES), size=between(rng, 1, 3), replace=False)]
    if kinds == ["dot"]:
        kinds = ["dot", "line"]
    low = between(rng, 2, 4)
    high = low + between(rng, 0, 3)
    colouring = _one_of(rng, "one", "mixed", "mixed", "distinct")
    style = _one_of(rng, "plain", "plain", "specks", "copies")
    colours = palette[: 1 if colouring == "one" else 4 if colouring == "distinct" else between(rng, 2, 3)]
    speck = palette[4:6]
    offers = {"objects", "movable"}
    if colouring != "one":
        offers.add("coloured")
    if set(kinds) & {"ring", "pierced", "classic"}:
        offers.add("hollow")
    if style != "plain":
        offers.add(style)

    def make(r: np.random.Generator) -> list[Grid]:
        number = min(between(r, low, high), len(colours)) if colouring == "distinct" else between(r, low, high)
        masks = [SHAPES[kinds[i % len(kinds)]](r) for i in r.permutation(number).tolist()]
        if style == "copies":
            few = masks[: max(2, number // 2)]
            masks = [few[int(i)] for i in r.integers(len(few), size=number)]
        inks = (
            r.permutation(colours)[:number]
            if colouring == "distinct"
            else np.array(colours)[r.integers(len(colours), size=number)]
        )
        patches = [mask * np.uint8(ink) for mask, ink in zip(masks, inks.tolist(), strict=True)]
        if style == "specks":
            for patch in patches:
                cells = np.argwhere(patch)
                if len(cells) > 2 and r.random() < 0.7:
                    for row, column in cells[r.permutation(len(cells))[: between(r, 1, (len(cells) - 1) // 2)]]:
                        patch[row, column] = speck[int(patch[row, column]) % len(speck)]
        return patches

    return f"{'+'.join(kinds)} {colouring} {style}", make, offers, (*colours, *speck) if style == "specks" else colours


@scene
def scattered(rng: np.random.Generator, palette: Palette) -> Scene:
    """Things apart from each other on plain ground."""
    name, patches, offers, colours = _things(rng, palette)
    sides = _sides(rng, 7, 12)
    return Scene(f"scattered {name}", lambda r: scatter(r, sides(r), patches(r)), frozenset(offers), colours)


@scene
def noisy(rng: np.random.Generator, palette: Palette) -> Scene:
    """Things under single cells of a colour of their own."""
    name, patches, offers, colours = _things(rng, palette)
    sides = _sides(rng, 7, 12)
    noise = palette[8]

    def make(r: np.random.Generator) -> Grid:
        grid = scatter(r, sides(r), patches(r))
        return np.where((r.random(grid.shape) < 0.08) & (grid == 0), np.uint8(noise), grid)

    offered = frozenset((offers - {"objects"}) | {"noisy", "noise"})
    return Scene(f"noisy {name}", make, offered, colours, {"noise": noise})


@scene
def dusty(rng: np.random.Generator, palette: Palette) -> Scene:
    """Things of some size among lone cells of the same colours."""
    colours = palette[: between(rng, 1, 3)]
    kinds = [str(k) for k in rng.choice(["rectangle", "classic", "mirrored", "ring"], size=2, replace=False)]
    sides = _sides(rng, 7, 12)
    low = between(rng, 1, 3)

    def make(r: np.random.Generator) -> Grid:
        masks = [SHAPES[kinds[i % 2]](r) for i in range(between(r, low, low + 1))]
        masks += [np.ones((1, 1), dtype=bool)] * between(r, 2, 6)
        patches = [mask * np.uint8(colours[int(r.integers(len(colours)))]) for mask in masks]
        return scatter(r, sides(r), patches)

    return Scene(f"dusty {'+'.join(kinds)}", make, frozenset({"dusty"}), colours)


@scene
def bars(rng: np.random.Generator, palette: Palette) -> Scene:
    """Upright or lying bars of different lengths that begin at one border."""
    colours = palette[: between(rng, 1, 3)]
    distinct = rng.random() < 0.7
    lying = rng.random() < 0.5
    low = between(rng, 3, 4)

    def make(r: np.random.Generator) -> Grid:
        number = between(r, low, low + 1)
        size = between(r, number + 1, number + 4)
        lengths = 1 + r.permutation(size)[:number] if distinct else r.integers(1, size + 1, size=number)
        grid = np.zeros((size, 2 * number + between(r, 0, 1)), dtype=np.uint8)
        for place, length in enumerate(lengths.tolist()):
            grid[size - length :, 2 * place] = colours[int(r.integers(len(colours)))]
        return grid[:, ::-1].T if lying else grid

    offers = {"objects", "bars"} | ({"coloured"} if len(colours) > 1 else set())
    return Scene(f"bars{' distinct' if distinct else ''}", make, frozenset(offers), colours)


@scene
def touching(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rectangles in several colours that may touch and cover each other."""
    colours = palette[: between(rng, 3, 4)]
    sides = _sides(rng, 6, 11)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(sides(r), dtype=np.uint8)
        for colour in r.permutation(colours)[: between(r, 3, len(colours))].tolist():
            height, width = between(r, 2, 4), between(r, 2, 4)
            top, left = between(r, 0, grid.shape[0] - height), between(r, 0, grid.shape[1] - width)
            grid[top : top + height, left : left + width] = colour
        return grid

    return Scene("touching", make, frozenset({"touching"}), colours)


@scene
def row_of_things(rng: np.random.Generator, palette: Palette) -> Scene:
    """Runs of cells in a single row (or a few rows): the world with one dimension."""
    colours = palette[: between(rng, 1, 4)]
    rows = between(rng, 1, 2)
    width = between(rng, 9, 16)
    longest = between(rng, 3, 5)

    def make(r: np.random.Generator) -> Grid:
        patches = [
            np.full((1, between(r, 1, longest)), colours[int(r.integers(len(colours)))], np.uint8)
            for _ in range(between(r, 2, 4))
        ]
        return scatter(r, (2 * rows - 1, width + between(r, 0, 3)), patches)

    offers = {"objects", "movable"} | ({"coloured"} if len(colours) > 1 else set())
    return Scene(f"row_of_things {rows}", make, frozenset(offers), colours)


# small grids


@scene
def motif(rng: np.random.Generator, palette: Palette) -> Scene:
    """A small grid of random cells, dense or sparse."""
    colours = palette[: between(rng, 1, 4)]
    density = float(rng.choice([0.4, 0.6, 0.9]))
    low = between(rng, 2, 4)
    spread = between(rng, 0, 2)
    square = rng.random() < 0.5

    def make(r: np.random.Generator) -> Grid:
        rows = between(r, low, low + spread)
        return _random_cells(r, (rows, rows if square else between(r, low, low + spread)), colours, density)

    return Scene(f"motif {len(colours)} {density}", make, frozenset({"motif"}), colours)


@scene
def blocky(rng: np.random.Generator, palette: Palette) -> Scene:
    """A small grid whose cells are drawn as square blocks."""
    small = motif(rng, palette)
    largest = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        size = between(r, 2, largest)
        grid = small.make(r)
        return np.repeat(np.repeat(grid, size, axis=0), size, axis=1)

    return Scene(f"blocky {small.name}", make, frozenset({"blocky"}), small.colours)


@scene
def stretched(rng: np.random.Generator, palette: Palette) -> Scene:
    """A small grid whose rows and columns are drawn several times, not equally often."""
    small = motif(rng, palette)

    def make(r: np.random.Generator) -> Grid:
        grid = small.make(r)
        grid = np.repeat(grid, r.integers(1, 4, size=grid.shape[0]), axis=0)
        return np.repeat(grid, r.integers(1, 4, size=grid.shape[1]), axis=1)

    return Scene(f"stretched {small.name}", make, frozenset({"stretched"}), small.colours)


@scene
def tiled(rng: np.random.Generator, palette: Palette) -> Scene:
    """A tile repeated in both directions."""
    colours = palette[: between(rng, 2, 4)]
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        tile = _random_cells(r, (between(r, 2, 3), between(r, 2, 4)), colours, 0.8)
        return np.tile(tile, (between(r, 2, most), between(r, 2, most)))

    return Scene(f"tiled {len(colours)}", make, frozenset({"tiled"}), colours)


@scene
def plain_rows(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rows or columns mostly of one colour each, disturbed or not."""
    colours = palette[: between(rng, 3, 4)]
    across = rng.random() < 0.5
    sides = _sides(rng, 3, 8)
    disturbed = float(rng.choice([0.1, 0.25]))

    def make(r: np.random.Generator) -> Grid:
        rows, columns = sides(r)
        grid = np.repeat(r.choice(np.array(colours, dtype=np.uint8), size=rows)[:, None], columns, axis=1)
        wild = r.random(grid.shape) < disturbed
        grid = np.where(wild, r.choice(np.array(colours, dtype=np.uint8), size=grid.shape), grid)
        return grid.T if across else grid

    return Scene(f"plain_rows {disturbed}", make, frozenset({"rows"}), colours)


# points, lines and walls


@scene
def points(rng: np.random.Generator, palette: Palette) -> Scene:
    """A few single cells."""
    colours = palette[: between(rng, 1, 4)]
    sides = _sides(rng, 5, 12)
    most = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        inks = [colours[int(i)] for i in r.integers(len(colours), size=between(r, 1, most))]
        return scatter(r, sides(r), [np.full((1, 1), ink, np.uint8) for ink in inks])

    return Scene(f"points {len(colours)} {most}", make, frozenset({"points"}), colours)


@scene
def loose(rng: np.random.Generator, palette: Palette) -> Scene:
    """Cells strewn over a small grid."""
    colours = palette[: between(rng, 1, 4)]
    sides = _sides(rng, 3, 8)
    density = float(rng.choice([0.2, 0.35, 0.5]))
    return Scene(
        f"loose {len(colours)} {density}", lambda r: _random_cells(r, sides(r), colours, density), frozenset({"loose"}), colours
    )


@scene
def walled(rng: np.random.Generator, palette: Palette) -> Scene:
    """Single cells among pieces of wall."""
    colours, wall = palette[: between(rng, 1, 3)], palette[8]
    sides = _sides(rng, 6, 11)

    def make(r: np.random.Generator) -> Grid:
        patches = [np.full((1, between(r, 2, 4)), wall, np.uint8) for _ in range(between(r, 2, 4))]
        patches = [p if r.random() < 0.5 else p.T for p in patches]
        patches += [np.full((1, 1), colours[int(r.integers(len(colours)))], np.uint8) for _ in range(between(r, 1, 4))]
        return scatter(r, sides(r), patches)

    return Scene("walled", make, frozenset({"walls", "wall"}), colours, {"wall": wall})


@scene
def corner_point(rng: np.random.Generator, palette: Palette) -> Scene:
    """One cell in a corner of a wide grid."""
    rows = between(rng, 2, 5)
    place = between(rng, 0, 3)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros((between(r, rows, rows + 1), between(r, 8, 14)), dtype=np.uint8)
        grid[-(place % 2), -(place // 2)] = palette[0]
        return grid

    return Scene(f"corner_point {place}", make, frozenset({"corner"}), palette[:1])


@scene
def partners(rng: np.random.Generator, palette: Palette) -> Scene:
    """Pairs of cells of one colour in a common row or column."""
    colours = palette[: between(rng, 1, 3)]
    sides = _sides(rng, 6, 11)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(sides(r), dtype=np.uint8)
        for _ in range(between(r, 1, most)):
            target = grid if r.random() < 0.5 else grid.T
            row = between(r, 0, target.shape[0] - 1)
            first, last = sorted(r.permutation(target.shape[1])[:2].tolist())
            if target[row].any() or last - first < 2:
                raise Unfit
            target[row, [first, last]] = colours[int(r.integers(len(colours)))]
        for _ in range(between(r, 0, 2)):
            at = between(r, 0, grid.shape[0] - 1), between(r, 0, grid.shape[1] - 1)
            if not grid[at[0]].any() and not grid[:, at[1]].any():
                grid[at] = colours[int(r.integers(len(colours)))]
        return grid

    return Scene("partners", make, frozenset({"partners"}), colours)


@scene
def corners(rng: np.random.Generator, palette: Palette) -> Scene:
    """Cells that mark the four corners of rectangles."""
    colours = palette[: between(rng, 1, 2)]
    sides = _sides(rng, 8, 12)

    def make(r: np.random.Generator) -> Grid:
        patches = []
        for colour in colours[: between(r, 1, len(colours))]:
            patch = np.zeros((between(r, 3, 6), between(r, 3, 6)), dtype=np.uint8)
            patch[[0, 0, -1, -1], [0, -1, 0, -1]] = colour
            patches.append(patch)
        return scatter(r, sides(r), patches)

    return Scene("corners", make, frozenset({"corners"}), colours)


@scene
def arrows(rng: np.random.Generator, palette: Palette) -> Scene:
    """Pairs of cells side by side, a body and a tip of another colour."""
    sides = _sides(rng, 6, 11)
    tips, body = palette[: between(rng, 1, 2)], palette[8]
    most = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        tip = np.array(tips, dtype=np.uint8)[r.integers(len(tips), size=between(r, 1, most))]
        return scatter(r, sides(r), [np.rot90(np.array([[body, ink]], np.uint8), between(r, 0, 3)) for ink in tip])

    return Scene(f"arrows {len(tips)}", make, frozenset({"arrows", "body"}), tips, {"body": body})


@scene
def stamps(rng: np.random.Generator, palette: Palette) -> Scene:
    """A pattern of 3x3 cells and lone cells in the colour of its middle."""
    colours = palette[: between(rng, 2, 3)]
    sides = _sides(rng, 9, 13)

    def make(r: np.random.Generator) -> Grid:
        pattern = _random_cells(r, (3, 3), colours[1:], 0.7)
        pattern[1, 1] = colours[0]
        if len(regions(pattern > 0, diagonal=True)) > 1 or min(pattern.any(axis=0).sum(), pattern.any(axis=1).sum()) < 3:
            raise Unfit
        room = np.zeros((3, 3), dtype=np.uint8)
        room[1, 1] = colours[0]
        return scatter(r, sides(r), [pattern, *[room] * between(r, 1, 3)])

    return Scene(f"stamps {len(colours)}", make, frozenset({"stamp"}), colours)


@scene
def crossing_lines(rng: np.random.Generator, palette: Palette) -> Scene:
    """Full rows and full columns that cross."""
    colours = palette[: between(rng, 1, 2)]
    sides = _sides(rng, 5, 12)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(sides(r), dtype=np.uint8)
        for axis in (0, 1):
            places = r.permutation(grid.shape[axis])[: between(r, 1, 2)]
            (grid if axis == 0 else grid.T)[places] = colours[axis % len(colours)]
        return grid

    return Scene(f"crossing_lines {len(colours)}", make, frozenset({"lines"}), colours)


@scene
def corridors(rng: np.random.Generator, palette: Palette) -> Scene:
    """Strewn cells with whole rows and columns left free."""
    colours = palette[: between(rng, 1, 2)]
    sides = _sides(rng, 6, 11)
    density = float(rng.choice([0.4, 0.6]))

    def make(r: np.random.Generator) -> Grid:
        grid = _random_cells(r, sides(r), colours, density)
        grid[r.permutation(grid.shape[0])[: between(r, 1, 2)]] = 0
        grid[:, r.permutation(grid.shape[1])[: between(r, 1, 2)]] = 0
        return grid

    return Scene(f"corridors {density}", make, frozenset({"corridors"}), colours)


@scene
def rooms(rng: np.random.Generator, palette: Palette) -> Scene:
    """Closed and open outlines, and strewn wall."""
    colours = palette[: between(rng, 1, 2)]
    sides = _sides(rng, 7, 12)
    strewn = float(rng.choice([0.0, 0.1]))

    def make(r: np.random.Generator) -> Grid:
        patches = []
        for _ in range(between(r, 1, 3)):
            patch = np.full((between(r, 3, 5), between(r, 3, 6)), colours[int(r.integers(len(colours)))], np.uint8)
            patch[1:-1, 1:-1] = 0
            if r.random() < 0.35:
                patch[0, between(r, 1, patch.shape[1] - 2)] = 0
            patches.append(np.rot90(patch, between(r, 0, 3)))
        grid = scatter(r, sides(r), patches)
        walls = (r.random(grid.shape) < strewn) & (grid == 0)
        return np.where(walls, np.uint8(colours[0]), grid)

    return Scene(f"rooms {strewn}", make, frozenset({"rooms"}), colours)


@scene
def divided(rng: np.random.Generator, palette: Palette) -> Scene:
    """A grid cut into areas by full walls of one colour."""
    colours, wall = palette[: between(rng, 1, 3)], palette[8]
    sides = _sides(rng, 6, 11)
    seeded = rng.random() < 0.6

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(sides(r), dtype=np.uint8)
        row, column = between(r, 1, grid.shape[0] - 2), between(r, 1, grid.shape[1] - 2)
        grid[row] = wall
        if r.random() < 0.5:
            grid[:, column] = wall
        else:
            grid[:row, column] = wall
        if seeded:
            for area in regions(grid == 0):
                at = int(r.integers(len(area[0])))
                grid[area[0][at], area[1][at]] = colours[int(r.integers(len(colours)))]
        return grid

    offers = frozenset({"wall", "seeded"}) if seeded else frozenset({"wall", "rooms"})
    return Scene(f"divided{' seeded' if seeded else ''}", make, offers, colours, {"wall": wall})


@scene
def lattice(rng: np.random.Generator, palette: Palette) -> Scene:
    """Lines that cut the grid into equal compartments, one cell drawn in some of them."""
    colours, ink = palette[: between(rng, 1, 3)], palette[8]
    size = between(rng, 2, 3)
    low = between(rng, 2, 3)
    share = float(rng.choice([0.4, 0.6]))
    full = rng.random() < 0.4

    def make(r: np.random.Generator) -> Grid:
        rows, columns = between(r, low, 3), between(r, low, 3)
        grid = np.zeros((rows * (size + 1) - 1, columns * (size + 1) - 1), dtype=np.uint8)
        grid[size :: size + 1] = ink
        grid[:, size :: size + 1] = ink
        for row in range(rows):
            for column in range(columns):
                if r.random() < share:
                    part = grid[row * (size + 1) : row * (size + 1) + size, column * (size + 1) : column * (size + 1) + size]
                    colour = colours[int(r.integers(len(colours)))]
                    if full:
                        part[:] = colour
                    else:
                        part[between(r, 0, size - 1), between(r, 0, size - 1)] = colour
        return grid

    return Scene(f"lattice {size}{' full' if full else ''}", make, frozenset({"lattice", "line"}), colours, {"line": ink})


# several parts


@scene
def two_panels(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two grids of one size on both sides of a line, each in its colour."""
    return _panels(rng, palette, 2)


@scene
def gallery(rng: np.random.Generator, palette: Palette) -> Scene:
    """Three or four grids of one size with lines between."""
    return _panels(rng, palette, between(rng, 3, 4))


def _panels(rng: np.random.Generator, palette: Palette, number: int) -> Scene:
    colours, divider = palette[:number], palette[8]
    same = rng.random() < 0.4
    low, high = (3, 5) if number == 2 else (2, 4)
    sides = _sides(rng, low, high)
    density = float(rng.choice([0.35, 0.5, 0.65]))
    layout = (2, 2) if number == 4 and rng.random() < 0.5 else (1, number)
    style = _one_of(rng, "random", "odd", "mirror") if number > 2 else "random"
    upright = rng.random() < 0.5

    def make(r: np.random.Generator) -> Grid:
        shape = sides(r)
        inks = colours[:1] * number if same or style == "odd" else colours
        grids = [_random_cells(r, shape, (ink,), density) for ink in inks]
        chosen = int(r.integers(number))
        if style == "odd":
            grids = [grids[chosen] if i == chosen else grids[chosen - 1] for i in range(number)]
        elif style == "mirror":
            grids[chosen] = np.maximum(grids[chosen], grids[chosen][:, ::-1])
        rows = [grids[i * layout[1] : (i + 1) * layout[1]] for i in range(layout[0])]
        bands = [_joined(row, divider, axis=1) for row in rows]
        if upright and layout[0] == 1:
            return _joined(grids, divider, axis=0)
        return _joined(bands, divider, axis=0)

    name = f"panels {number} {style} {density}{' same' if same else ''}"
    return Scene(name, make, frozenset({"panels", "divider"}), colours, {"divider": divider})


def _joined(grids: list[Grid], divider: int, axis: int) -> Grid:
    rows, columns = grids[0].shape
    line = np.full((1, columns) if axis == 0 else (rows, 1), divider, dtype=np.uint8)
    return np.concatenate([part for grid in grids for part in (line, grid)][1:], axis=axis)


@scene
def symmetric(rng: np.random.Generator, palette: Palette) -> Scene:
    """A grid that mirrors itself both ways, a rectangle of it masked."""
    colours, mask = palette[: between(rng, 2, 4)], palette[8]
    side = between(rng, 3, 5)
    density = float(rng.choice([0.6, 0.9]))

    def make(r: np.random.Generator) -> Grid:
        part = _random_cells(r, (side, side), colours, density)
        part = np.maximum(part, part.T) if r.random() < 0.5 else part
        wide = np.concatenate([part, part[:, ::-1]], axis=1)
        return _masked(r, np.concatenate([wide, wide[::-1]]), mask, side - 1)

    return Scene(f"symmetric {side}", make, frozenset({"symmetric", "mask"}), colours, {"mask": mask})


@scene
def periodic(rng: np.random.Generator, palette: Palette) -> Scene:
    """A repeated tile, a rectangle of it masked."""
    colours, mask = palette[: between(rng, 2, 4)], palette[8]
    sides = _sides(rng, 7, 11)

    def make(r: np.random.Generator) -> Grid:
        tile = _random_cells(r, (between(r, 2, 3), between(r, 2, 3)), colours, 0.9)
        rows, columns = sides(r)
        return _masked(r, np.tile(tile, (6, 6))[:rows, :columns], mask, 3)

    return Scene(f"periodic {len(colours)}", make, frozenset({"periodic", "mask"}), colours, {"mask": mask})


def _masked(rng: np.random.Generator, grid: Grid, mask: int, largest: int) -> Grid:
    height, width = between(rng, 2, largest), between(rng, 2, largest)
    top, left = between(rng, 0, grid.shape[0] - height), between(rng, 0, grid.shape[1] - width)
    result = grid.copy()
    result[top : top + height, left : left + width] = mask
    return result


@scene
def unfinished(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rows that repeat, the lower ones not drawn yet."""
    colours = palette[: between(rng, 1, 4)]
    width = between(rng, 1, 6)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        period = between(r, 1 if width > 1 else 2, most)
        rows = period * 2 + between(r, 0, 2)
        grid = np.tile(_random_cells(r, (period, width), colours, 0.8), (8, 1))[: rows + between(r, 2, 4)]
        if not grid[:rows].any(axis=1).all():
            raise Unfit
        grid[rows:] = 0
        return grid

    return Scene(f"unfinished {width}", make, frozenset({"unfinished"}), colours)


@scene
def half_drawn(rng: np.random.Generator, palette: Palette) -> Scene:
    """A drawing in one half of the grid, the other half empty."""
    colours = palette[: between(rng, 1, 3)]
    sides = _sides(rng, 2, 5)
    density = float(rng.choice([0.35, 0.6]))
    turns = between(rng, 0, 3)

    def make(r: np.random.Generator) -> Grid:
        part = _random_cells(r, sides(r), colours, density)
        return np.rot90(np.concatenate([part, np.zeros_like(part)]), turns)

    return Scene(f"half_drawn {turns}", make, frozenset({"symmetric_half"}), colours)


@scene
def texture(rng: np.random.Generator, palette: Palette) -> Scene:
    """Strewn cells around one large free rectangle."""
    colours = palette[: between(rng, 1, 3)]
    sides = _sides(rng, 7, 11)

    def make(r: np.random.Generator) -> Grid:
        grid = _random_cells(r, sides(r), colours, 0.6)
        height, width = between(r, 2, 4), between(r, 3, 5)
        top, left = between(r, 0, grid.shape[0] - height), between(r, 0, grid.shape[1] - width)
        grid[top : top + height, left : left + width] = 0
        return grid

    return Scene("texture", make, frozenset({"texture"}), colours)


@scene
def framed(rng: np.random.Generator, palette: Palette) -> Scene:
    """Strewn cells, and one rectangular frame around some of them."""
    colours, frame = palette[: between(rng, 1, 3)], palette[8]
    sides = _sides(rng, 7, 12)
    density = float(rng.choice([0.2, 0.4]))

    def make(r: np.random.Generator) -> Grid:
        grid = _random_cells(r, sides(r), colours, density)
        height, width = between(r, 4, 6), between(r, 4, 6)
        top, left = between(r, 0, grid.shape[0] - height), between(r, 0, grid.shape[1] - width)
        inner = grid[top + 1 : top + height - 1, left + 1 : left + width - 1].copy()
        grid[top : top + height, left : left + width] = frame
        grid[top + 1 : top + height - 1, left + 1 : left + width - 1] = inner
        return grid

    return Scene(f"framed {density}", make, frozenset({"framed", "frame"}), colours, {"frame": frame})


@scene
def headed(rng: np.random.Generator, palette: Palette) -> Scene:
    """Cells in one ink under a row of colours, a colour to a column."""
    colours, ink = palette[: between(rng, 2, 4)], palette[8]
    sides = _sides(rng, 4, 8)
    density = float(rng.choice([0.3, 0.5]))

    def make(r: np.random.Generator) -> Grid:
        grid = _random_cells(r, sides(r), (ink,), density)
        grid[0] = r.choice(np.array(colours, dtype=np.uint8), size=grid.shape[1])
        return grid

    return Scene(f"headed {density}", make, frozenset({"heads", "ink"}), colours, {"ink": ink})


@scene
def legend(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two rows that pair colours, a dividing row, and things in the upper colours below."""
    colours, divider = palette[: between(rng, 4, 6)], palette[8]
    sides = _sides(rng, 5, 8)

    def make(r: np.random.Generator) -> Grid:
        order = r.permutation(colours).astype(np.uint8)
        pairs = between(r, 2, len(colours) // 2)
        keys = order[:pairs]
        rows, columns = sides(r)
        grid = np.zeros((rows + 3, columns), dtype=np.uint8)
        grid[0, :pairs], grid[1, :pairs] = keys, order[pairs : 2 * pairs]
        grid[2] = divider
        patches = [SHAPES["classic"](r) * keys[int(i)] for i in r.integers(len(keys), size=between(r, 1, 3))]
        grid[3:] = scatter(r, (rows, columns), patches)
        return grid

    return Scene("legend", make, frozenset({"legend", "divider"}), colours, {"divider": divider})
