"""Scenes of points, lines, walls and rooms."""

from __future__ import annotations

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.scenes import Palette, Scene, random_cells, scene, sides
from solver.pretrain.procedural.shapes import between, one_of, scatter
from solver.pretrain.procedural.values import Unfit, regions


@scene
def points(rng: np.random.Generator, palette: Palette) -> Scene:
    """A few single cells."""
    colours = palette[: between(rng, 1, 4)]
    size = sides(rng, 5, 12)
    most = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        inks = [colours[int(i)] for i in r.integers(len(colours), size=between(r, 1, most))]
        return scatter(r, size(r), [np.full((1, 1), ink, np.uint8) for ink in inks])

    return Scene(f"points {len(colours)} {most}", make, frozenset({"points"}), colours)


@scene
def loose(rng: np.random.Generator, palette: Palette) -> Scene:
    """Random cells on a small grid."""
    colours = palette[: between(rng, 1, 4)]
    size = sides(rng, 3, 8)
    density = float(rng.choice([0.2, 0.35, 0.5]))
    return Scene(
        f"loose {len(colours)} {density}", lambda r: random_cells(r, size(r), colours, density), frozenset({"loose"}), colours
    )


@scene
def walled(rng: np.random.Generator, palette: Palette) -> Scene:
    """Single cells among short pieces of wall."""
    colours, wall = palette[: between(rng, 1, 3)], palette[8]
    size = sides(rng, 6, 11)

    def make(r: np.random.Generator) -> Grid:
        patches = [np.full((1, between(r, 2, 4)), wall, np.uint8) for _ in range(between(r, 2, 4))]
        patches = [p if r.random() < 0.5 else p.T for p in patches]
        patches += [np.full((1, 1), one_of(r, colours), np.uint8) for _ in range(between(r, 1, 4))]
        return scatter(r, size(r), patches)

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
    """Pairs of cells of one colour in the same row or column, and some single cells."""
    colours = palette[: between(rng, 1, 3)]
    size = sides(rng, 6, 11)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(size(r), dtype=np.uint8)
        for _ in range(between(r, 1, most)):
            target = grid if r.random() < 0.5 else grid.T
            row = between(r, 0, target.shape[0] - 1)
            first, last = sorted(r.permutation(target.shape[1])[:2].tolist())
            if target[row].any() or last - first < 2:
                raise Unfit
            target[row, [first, last]] = one_of(r, colours)
        for _ in range(between(r, 0, 2)):
            at = between(r, 0, grid.shape[0] - 1), between(r, 0, grid.shape[1] - 1)
            if not grid[at[0]].any() and not grid[:, at[1]].any():
                grid[at] = one_of(r, colours)
        return grid

    return Scene("partners", make, frozenset({"partners"}), colours)


@scene
def corners(rng: np.random.Generator, palette: Palette) -> Scene:
    """Cells at the four corners of rectangles."""
    colours = palette[: between(rng, 1, 2)]
    size = sides(rng, 8, 12)

    def make(r: np.random.Generator) -> Grid:
        patches = []
        for colour in colours[: between(r, 1, len(colours))]:
            patch = np.zeros((between(r, 3, 6), between(r, 3, 6)), dtype=np.uint8)
            patch[[0, 0, -1, -1], [0, -1, 0, -1]] = colour
            patches.append(patch)
        return scatter(r, size(r), patches)

    return Scene("corners", make, frozenset({"corners"}), colours)


@scene
def arrows(rng: np.random.Generator, palette: Palette) -> Scene:
    """Pairs of cells side by side: a body, and a tip in another colour."""
    size = sides(rng, 6, 11)
    tips, body = palette[: between(rng, 1, 2)], palette[8]
    most = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        tip = np.array(tips, dtype=np.uint8)[r.integers(len(tips), size=between(r, 1, most))]
        return scatter(r, size(r), [np.rot90(np.array([[body, ink]], np.uint8), between(r, 0, 3)) for ink in tip])

    return Scene(f"arrows {len(tips)}", make, frozenset({"arrows", "body"}), tips, {"body": body})


@scene
def stamps(rng: np.random.Generator, palette: Palette) -> Scene:
    """A connected pattern of 3x3 cells, and single cells in the colour of its middle cell."""
    colours = palette[: between(rng, 2, 3)]
    size = sides(rng, 9, 13)

    def make(r: np.random.Generator) -> Grid:
        pattern = random_cells(r, (3, 3), colours[1:], 0.7)
        pattern[1, 1] = colours[0]
        if len(regions(pattern > 0, diagonal=True)) > 1 or min(pattern.any(axis=0).sum(), pattern.any(axis=1).sum()) < 3:
            raise Unfit
        room = np.zeros((3, 3), dtype=np.uint8)
        room[1, 1] = colours[0]
        return scatter(r, size(r), [pattern, *[room] * between(r, 1, 3)])

    return Scene(f"stamps {len(colours)}", make, frozenset({"stamp"}), colours)


@scene
def crossing_lines(rng: np.random.Generator, palette: Palette) -> Scene:
    """Full rows and full columns that cross."""
    colours = palette[: between(rng, 1, 2)]
    size = sides(rng, 5, 12)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(size(r), dtype=np.uint8)
        for axis in (0, 1):
            places = r.permutation(grid.shape[axis])[: between(r, 1, 2)]
            (grid if axis == 0 else grid.T)[places] = colours[axis % len(colours)]
        return grid

    return Scene(f"crossing_lines {len(colours)}", make, frozenset({"lines"}), colours)


@scene
def corridors(rng: np.random.Generator, palette: Palette) -> Scene:
    """Random cells, with some rows and columns left empty."""
    colours = palette[: between(rng, 1, 2)]
    size = sides(rng, 6, 11)
    density = float(rng.choice([0.4, 0.6]))

    def make(r: np.random.Generator) -> Grid:
        grid = random_cells(r, size(r), colours, density)
        grid[r.permutation(grid.shape[0])[: between(r, 1, 2)]] = 0
        grid[:, r.permutation(grid.shape[1])[: between(r, 1, 2)]] = 0
        return grid

    return Scene(f"corridors {density}", make, frozenset({"corridors"}), colours)


@scene
def rooms(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rectangular outlines, some of them with a gap, and sometimes scattered wall cells."""
    colours = palette[: between(rng, 1, 2)]
    size = sides(rng, 7, 12)
    strewn = float(rng.choice([0.0, 0.1]))

    def make(r: np.random.Generator) -> Grid:
        patches = []
        for _ in range(between(r, 1, 3)):
            patch = np.full((between(r, 3, 5), between(r, 3, 6)), one_of(r, colours), np.uint8)
            patch[1:-1, 1:-1] = 0
            if r.random() < 0.35:
                patch[0, between(r, 1, patch.shape[1] - 2)] = 0
            patches.append(np.rot90(patch, between(r, 0, 3)))
        grid = scatter(r, size(r), patches)
        walls = (r.random(grid.shape) < strewn) & (grid == 0)
        return np.where(walls, np.uint8(colours[0]), grid)

    return Scene(f"rooms {strewn}", make, frozenset({"rooms"}), colours)


@scene
def divided(rng: np.random.Generator, palette: Palette) -> Scene:
    """A grid cut into areas by walls of one colour, sometimes with one coloured cell in each area."""
    colours, wall = palette[: between(rng, 1, 3)], palette[8]
    size = sides(rng, 6, 11)
    seeded = rng.random() < 0.6

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(size(r), dtype=np.uint8)
        row, column = between(r, 1, grid.shape[0] - 2), between(r, 1, grid.shape[1] - 2)
        grid[row] = wall
        if r.random() < 0.5:
            grid[:, column] = wall
        else:
            grid[:row, column] = wall
        if seeded:
            for area in regions(grid == 0):
                at = int(r.integers(len(area[0])))
                grid[area[0][at], area[1][at]] = one_of(r, colours)
        return grid

    offers = frozenset({"wall", "seeded"}) if seeded else frozenset({"wall", "rooms"})
    return Scene(f"divided{' seeded' if seeded else ''}", make, offers, colours, {"wall": wall})


@scene
def lattice(rng: np.random.Generator, palette: Palette) -> Scene:
    """Lines that cut the grid into equal compartments; some compartments are filled or have one filled cell."""
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
                    colour = one_of(r, colours)
                    if full:
                        part[:] = colour
                    else:
                        part[between(r, 0, size - 1), between(r, 0, size - 1)] = colour
        return grid

    return Scene(f"lattice {size}{' full' if full else ''}", make, frozenset({"lattice", "line"}), colours, {"line": ink})


@scene
def dotted_rings(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rectangular outlines in one colour, most of them with a single cell of another colour inside."""
    colours, wall = palette[: between(rng, 1, 3)], palette[8]
    size = sides(rng, 8, 12)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        patches = []
        for _ in range(between(r, 1, most)):
            patch = np.full((between(r, 3, 6), between(r, 3, 6)), wall, np.uint8)
            patch[1:-1, 1:-1] = 0
            if r.random() < 0.8:
                row, column = between(r, 1, patch.shape[0] - 2), between(r, 1, patch.shape[1] - 2)
                patch[row, column] = one_of(r, colours)
            patches.append(patch)
        return scatter(r, size(r), patches)

    return Scene("dotted_rings", make, frozenset({"seeded", "wall"}), colours, {"wall": wall})


@scene
def two_ends(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two cells of two colours, in different rows and columns."""
    start, end = palette[0], palette[1]
    size = sides(rng, 5, 11)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(size(r), dtype=np.uint8)
        rows, columns = r.permutation(grid.shape[0])[:2], r.permutation(grid.shape[1])[:2]
        grid[rows, columns] = start, end
        return grid

    return Scene("two_ends", make, frozenset({"ends", "start", "end"}), (start, end), {"start": start, "end": end})


@scene
def knots(rng: np.random.Generator, palette: Palette) -> Scene:
    """Lines that cut the grid into compartments; some full ones have a full one of the same colour in their row or column."""
    colours, ink = palette[: between(rng, 1, 2)], palette[8]
    side = between(rng, 1, 2)

    def make(r: np.random.Generator) -> Grid:
        small = np.zeros((between(r, 3, 4), between(r, 3, 4)), dtype=np.uint8)
        for _ in range(between(r, 1, 2)):
            target = small if r.random() < 0.5 else small.T
            row = between(r, 0, target.shape[0] - 1)
            target[row, [0, -1] if r.random() < 0.5 else [0, 2]] = one_of(r, colours)
        grid = np.full((small.shape[0] * (side + 1) - 1, small.shape[1] * (side + 1) - 1), ink, dtype=np.uint8)
        for (row, column), colour in np.ndenumerate(small):
            top, left = row * (side + 1), column * (side + 1)
            grid[top : top + side, left : left + side] = colour
        return grid

    return Scene(f"knots {side}", make, frozenset({"knots", "line"}), colours, {"line": ink})
