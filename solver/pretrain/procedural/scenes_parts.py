"""Scenes of several parts: panels, frames, header rows, legends."""

from __future__ import annotations

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.scenes import Palette, Scene, random_box, random_cells, scene, sides
from solver.pretrain.procedural.shapes import SHAPES, between, one_of, scatter


@scene
def two_panels(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two grids of the same size on both sides of a dividing line, in two colours or in one."""
    return _panels(rng, palette, 2)


@scene
def gallery(rng: np.random.Generator, palette: Palette) -> Scene:
    """Three or four grids of the same size with dividing lines between them."""
    return _panels(rng, palette, between(rng, 3, 4))


def _panels(rng: np.random.Generator, palette: Palette, number: int) -> Scene:
    """`number` panels: random ones, copies of one except for an odd one, or one among them that mirrors itself sideways."""
    colours, divider = palette[:number], palette[8]
    same = rng.random() < 0.4
    low, high = (3, 5) if number == 2 else (2, 4)
    size = sides(rng, low, high)
    density = float(rng.choice([0.35, 0.5, 0.65]))
    layout = (2, 2) if number == 4 and rng.random() < 0.5 else (1, number)
    style = one_of(rng, ("random", "odd", "mirror")) if number > 2 else "random"
    upright = rng.random() < 0.5

    def make(r: np.random.Generator) -> Grid:
        shape = size(r)
        inks = colours[:1] * number if same or style == "odd" else colours
        grids = [random_cells(r, shape, (ink,), density) for ink in inks]
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
    return Scene(name, make, frozenset({"panels", "divider", style}), colours, {"divider": divider})


def _joined(grids: list[Grid], divider: int, axis: int) -> Grid:
    """Grids of the same size joined along an axis, with a line of the colour `divider` between them."""
    rows, columns = grids[0].shape
    line = np.full((1, columns) if axis == 0 else (rows, 1), divider, dtype=np.uint8)
    return np.concatenate([part for grid in grids for part in (line, grid)][1:], axis=axis)


@scene
def texture(rng: np.random.Generator, palette: Palette) -> Scene:
    """Random cells around one large empty rectangle."""
    colours = palette[: between(rng, 1, 3)]
    size = sides(rng, 7, 11)

    def make(r: np.random.Generator) -> Grid:
        grid = random_cells(r, size(r), colours, 0.6)
        grid[random_box(r, grid.shape, (2, 4), (3, 5))] = 0
        return grid

    return Scene("texture", make, frozenset({"texture"}), colours)


@scene
def framed(rng: np.random.Generator, palette: Palette) -> Scene:
    """Random cells, and one rectangular frame."""
    colours, frame = palette[: between(rng, 1, 3)], palette[8]
    size = sides(rng, 7, 12)
    density = float(rng.choice([0.2, 0.4]))

    def make(r: np.random.Generator) -> Grid:
        grid = random_cells(r, size(r), colours, density)
        part = grid[random_box(r, grid.shape, (4, 6), (4, 6))]
        inside = part[1:-1, 1:-1].copy()
        part[:] = frame
        part[1:-1, 1:-1] = inside
        return grid

    return Scene(f"framed {density}", make, frozenset({"framed", "frame"}), colours, {"frame": frame})


@scene
def headed(rng: np.random.Generator, palette: Palette) -> Scene:
    """A first row of colours, and below it random cells of one colour, the ink."""
    colours, ink = palette[: between(rng, 2, 4)], palette[8]
    size = sides(rng, 4, 8)
    density = float(rng.choice([0.3, 0.5]))

    def make(r: np.random.Generator) -> Grid:
        grid = random_cells(r, size(r), (ink,), density)
        grid[0] = r.choice(np.array(colours, dtype=np.uint8), size=grid.shape[1])
        return grid

    return Scene(f"headed {density}", make, frozenset({"heads", "ink"}), colours, {"ink": ink})


@scene
def legend(rng: np.random.Generator, palette: Palette) -> Scene:
    """A legend of two rows that pairs colours, a dividing row, and below it things in the colours of the legend's first row."""
    colours, divider = palette[: between(rng, 4, 6)], palette[8]
    size = sides(rng, 5, 8)

    def make(r: np.random.Generator) -> Grid:
        order = r.permutation(colours).astype(np.uint8)
        pairs = between(r, 2, len(colours) // 2)
        keys = order[:pairs]
        rows, columns = size(r)
        grid = np.zeros((rows + 3, columns), dtype=np.uint8)
        grid[0, :pairs], grid[1, :pairs] = keys, order[pairs : 2 * pairs]
        grid[2] = divider
        patches = [SHAPES["classic"](r) * keys[int(i)] for i in r.integers(len(keys), size=between(r, 1, 3))]
        grid[3:] = scatter(r, (rows, columns), patches)
        return grid

    return Scene("legend", make, frozenset({"legend", "divider"}), colours, {"divider": divider})


@scene
def quilt(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two to four grids of the same size side by side, without dividing lines, each in its own colour."""
    number = between(rng, 2, 4)
    colours = palette[:number]
    size = sides(rng, 2, 4)
    density = float(rng.choice([0.4, 0.6]))

    def make(r: np.random.Generator) -> Grid:
        shape = size(r)
        return np.concatenate([random_cells(r, shape, (ink,), density) for ink in colours], axis=1)

    return Scene(f"quilt {number} {density}", make, frozenset({"quilt"}), colours)


@scene
def mirror_line(rng: np.random.Generator, palette: Palette) -> Scene:
    """A full line through the middle of the grid, and random cells on one side of it."""
    colours, line = palette[: between(rng, 1, 3)], palette[8]
    size = sides(rng, 3, 6)
    density = float(rng.choice([0.2, 0.4]))
    turns = between(rng, 0, 3)

    def make(r: np.random.Generator) -> Grid:
        part = random_cells(r, size(r), colours, density)
        middle = np.full((1, part.shape[1]), line, dtype=np.uint8)
        return np.rot90(np.concatenate([part, middle, np.zeros_like(part)]), turns)

    return Scene(f"mirror_line {turns}", make, frozenset({"mirror_line", "line"}), colours, {"line": line})


@scene
def shores(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two opposite borders in two colours, and between them single cells in these colours and sometimes a third."""
    colours = palette[: between(rng, 2, 3)]
    size = sides(rng, 6, 11)
    across = rng.random() < 0.5
    most = between(rng, 2, 4)

    def make(r: np.random.Generator) -> Grid:
        rows, columns = size(r)
        inks = r.choice(np.array(colours, dtype=np.uint8), size=between(r, 1, most))
        inner = scatter(r, (rows, columns - 2), [np.full((1, 1), ink, np.uint8) for ink in inks])
        grid = np.pad(inner, ((0, 0), (1, 1)))
        grid[:, 0], grid[:, -1] = colours[0], colours[1]
        return grid.T if across else grid

    return Scene(f"shores {len(colours)}", make, frozenset({"shores"}), colours)
