"""Scenes of small grids and of patterns that repeat or mirror themselves."""

from __future__ import annotations

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.scenes import Palette, Scene, random_box, random_cells, scene, sides
from solver.pretrain.procedural.shapes import between
from solver.pretrain.procedural.values import Unfit


@scene
def motif(rng: np.random.Generator, palette: Palette) -> Scene:
    """A small grid of random cells."""
    colours = palette[: between(rng, 1, 4)]
    density = float(rng.choice([0.4, 0.6, 0.9]))
    low = between(rng, 2, 4)
    spread = between(rng, 0, 2)
    square = rng.random() < 0.5

    def make(r: np.random.Generator) -> Grid:
        rows = between(r, low, low + spread)
        return random_cells(r, (rows, rows if square else between(r, low, low + spread)), colours, density)

    return Scene(f"motif {len(colours)} {density}", make, frozenset({"motif"}), colours)


@scene
def blocky(rng: np.random.Generator, palette: Palette) -> Scene:
    """A small random grid with every cell drawn as a square block."""
    small = motif(rng, palette)
    largest = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        size = between(r, 2, largest)
        grid = small.make(r)
        return np.repeat(np.repeat(grid, size, axis=0), size, axis=1)

    return Scene(f"blocky {small.name}", make, frozenset({"blocky"}), small.colours)


@scene
def stretched(rng: np.random.Generator, palette: Palette) -> Scene:
    """A small random grid with every row and column repeated one to three times."""
    small = motif(rng, palette)

    def make(r: np.random.Generator) -> Grid:
        grid = small.make(r)
        grid = np.repeat(grid, r.integers(1, 4, size=grid.shape[0]), axis=0)
        return np.repeat(grid, r.integers(1, 4, size=grid.shape[1]), axis=1)

    return Scene(f"stretched {small.name}", make, frozenset({"stretched"}), small.colours)


@scene
def tiled(rng: np.random.Generator, palette: Palette) -> Scene:
    """A random tile, repeated in both directions."""
    colours = palette[: between(rng, 2, 4)]
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        tile = random_cells(r, (between(r, 2, 3), between(r, 2, 4)), colours, 0.8)
        return np.tile(tile, (between(r, 2, most), between(r, 2, most)))

    return Scene(f"tiled {len(colours)}", make, frozenset({"tiled"}), colours)


@scene
def plain_rows(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rows (or columns) of one colour each, with some random cells changed."""
    colours = palette[: between(rng, 3, 4)]
    across = rng.random() < 0.5
    size = sides(rng, 3, 8)
    disturbed = float(rng.choice([0.1, 0.25]))

    def make(r: np.random.Generator) -> Grid:
        rows, columns = size(r)
        grid = np.repeat(r.choice(np.array(colours, dtype=np.uint8), size=rows)[:, None], columns, axis=1)
        wild = r.random(grid.shape) < disturbed
        grid = np.where(wild, r.choice(np.array(colours, dtype=np.uint8), size=grid.shape), grid)
        return grid.T if across else grid

    return Scene(f"plain_rows {disturbed}", make, frozenset({"rows"}), colours)


@scene
def symmetric(rng: np.random.Generator, palette: Palette) -> Scene:
    """A grid that mirrors itself along rows and columns, with one rectangle masked."""
    colours, mask = palette[: between(rng, 2, 4)], palette[8]
    side = between(rng, 3, 5)
    density = float(rng.choice([0.6, 0.9]))

    def make(r: np.random.Generator) -> Grid:
        part = random_cells(r, (side, side), colours, density)
        part = np.maximum(part, part.T) if r.random() < 0.5 else part
        wide = np.concatenate([part, part[:, ::-1]], axis=1)
        return _masked(r, np.concatenate([wide, wide[::-1]]), mask, side - 1)

    return Scene(f"symmetric {side}", make, frozenset({"symmetric", "mask"}), colours, {"mask": mask})


@scene
def periodic(rng: np.random.Generator, palette: Palette) -> Scene:
    """A repeated tile, with one rectangle masked."""
    colours, mask = palette[: between(rng, 2, 4)], palette[8]
    size = sides(rng, 7, 11)

    def make(r: np.random.Generator) -> Grid:
        tile = random_cells(r, (between(r, 2, 3), between(r, 2, 3)), colours, 0.9)
        rows, columns = size(r)
        return _masked(r, np.tile(tile, (6, 6))[:rows, :columns], mask, 3)

    return Scene(f"periodic {len(colours)}", make, frozenset({"periodic", "mask"}), colours, {"mask": mask})


def _masked(rng: np.random.Generator, grid: Grid, mask: int, largest: int) -> Grid:
    """The grid with a random box of 2 to `largest` by 2 to `largest` cells in the colour `mask`."""
    result = grid.copy()
    result[random_box(rng, grid.shape, (2, largest), (2, largest))] = mask
    return result


@scene
def unfinished(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rows that repeat periodically, with the lower rows left empty."""
    colours = palette[: between(rng, 1, 4)]
    width = between(rng, 1, 6)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        period = between(r, 1 if width > 1 else 2, most)
        rows = period * 2 + between(r, 0, 2)
        grid = np.tile(random_cells(r, (period, width), colours, 0.8), (8, 1))[: rows + between(r, 2, 4)]
        if not grid[:rows].any(axis=1).all():
            raise Unfit
        grid[rows:] = 0
        return grid

    return Scene(f"unfinished {width}", make, frozenset({"unfinished"}), colours)


@scene
def half_drawn(rng: np.random.Generator, palette: Palette) -> Scene:
    """Random cells in one half of the grid; the other half is empty."""
    colours = palette[: between(rng, 1, 3)]
    size = sides(rng, 2, 5)
    density = float(rng.choice([0.35, 0.6]))
    turns = between(rng, 0, 3)

    def make(r: np.random.Generator) -> Grid:
        part = random_cells(r, size(r), colours, density)
        return np.rot90(np.concatenate([part, np.zeros_like(part)]), turns)

    return Scene(f"half_drawn {turns}", make, frozenset({"symmetric_half"}), colours)


@scene
def onion(rng: np.random.Generator, palette: Palette) -> Scene:
    """Concentric square rings, each in another colour, sometimes with ground in the middle."""
    colours = palette[: between(rng, 3, 5)]
    most = between(rng, 3, min(5, len(colours)))

    def make(r: np.random.Generator) -> Grid:
        core = 2 * int(r.random() < 0.5)  # side of the ground in the middle
        grid = np.zeros((core, core), dtype=np.uint8)
        for ink in r.permutation(colours)[: between(r, 2, most)]:
            grid = np.pad(grid, 1, constant_values=ink) if len(grid) else np.full((1, 1), ink, dtype=np.uint8)
        return grid

    return Scene(f"onion {most}", make, frozenset({"onion"}), colours)


@scene
def strip(rng: np.random.Generator, palette: Palette) -> Scene:
    """One row whose first cells are filled."""
    colours = palette[: between(rng, 1, 3)]
    widest = between(rng, 3, 5)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros((1, 2 * between(r, 2, widest)), dtype=np.uint8)
        filled = between(r, 1, grid.shape[1] // 2 + 1)
        grid[0, :filled] = r.choice(np.array(colours, dtype=np.uint8), size=filled)
        return grid

    return Scene(f"strip {len(colours)}", make, frozenset({"strip"}), colours)
