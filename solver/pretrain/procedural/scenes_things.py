"""Scenes of things on the ground (colour 0)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solver.arc.grid import Grid
from solver.pretrain.procedural.scenes import Palette, Scene, random_box, random_cells, scene, sides
from solver.pretrain.procedural.shapes import SHAPES, between, one_of, scatter
from solver.pretrain.procedural.values import Unfit, regions


def _things(
    rng: np.random.Generator, palette: Palette
) -> tuple[str, Callable[[np.random.Generator], list[Grid]], set[str], Palette]:
    """A random style of things: its name, a function that makes patches, what these offer to programs, and their colours."""
    kinds = [str(k) for k in rng.choice(sorted(SHAPES), size=between(rng, 1, 3), replace=False)]
    if kinds == ["dot"]:
        kinds = ["dot", "line"]
    low = between(rng, 2, 4)
    high = low + between(rng, 0, 3)
    colouring = one_of(rng, ("one", "mixed", "mixed", "distinct"))
    style = one_of(rng, ("plain", "plain", "specks", "copies"))
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
    """Things that do not touch, on the ground."""
    name, patches, offers, colours = _things(rng, palette)
    size = sides(rng, 7, 12)
    return Scene(f"scattered {name}", lambda r: scatter(r, size(r), patches(r)), frozenset(offers), colours)


@scene
def noisy(rng: np.random.Generator, palette: Palette) -> Scene:
    """Things, and single cells of a noise colour on the ground between them."""
    name, patches, offers, colours = _things(rng, palette)
    size = sides(rng, 7, 12)
    noise = palette[8]

    def make(r: np.random.Generator) -> Grid:
        grid = scatter(r, size(r), patches(r))
        return np.where((r.random(grid.shape) < 0.08) & (grid == 0), np.uint8(noise), grid)

    offered = frozenset((offers - {"objects"}) | {"noisy", "noise"})
    return Scene(f"noisy {name}", make, offered, colours, {"noise": noise})


@scene
def dusty(rng: np.random.Generator, palette: Palette) -> Scene:
    """Things of several cells, and single cells in the same colours."""
    colours = palette[: between(rng, 1, 3)]
    kinds = [str(k) for k in rng.choice(["rectangle", "classic", "mirrored", "ring"], size=2, replace=False)]
    size = sides(rng, 7, 12)
    low = between(rng, 1, 3)

    def make(r: np.random.Generator) -> Grid:
        masks = [SHAPES[kinds[i % 2]](r) for i in range(between(r, low, low + 1))]
        masks += [np.ones((1, 1), dtype=bool)] * between(r, 2, 6)
        patches = [mask * np.uint8(one_of(r, colours)) for mask in masks]
        return scatter(r, size(r), patches)

    return Scene(f"dusty {'+'.join(kinds)}", make, frozenset({"dusty"}), colours)


@scene
def bars(rng: np.random.Generator, palette: Palette) -> Scene:
    """Vertical or horizontal bars that start at one border."""
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
            grid[size - length :, 2 * place] = one_of(r, colours)
        return grid[:, ::-1].T if lying else grid

    offers = {"objects", "bars"} | ({"coloured"} if len(colours) > 1 else set())
    return Scene(f"bars{' distinct' if distinct else ''}", make, frozenset(offers), colours)


@scene
def touching(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rectangles in several colours that may touch and cover each other."""
    colours = palette[: between(rng, 3, 4)]
    size = sides(rng, 6, 11)

    def make(r: np.random.Generator) -> Grid:
        grid = np.zeros(size(r), dtype=np.uint8)
        for colour in r.permutation(colours)[: between(r, 3, len(colours))].tolist():
            grid[random_box(r, grid.shape, (2, 4), (2, 4))] = colour
        return grid

    return Scene("touching", make, frozenset({"touching"}), colours)


@scene
def row_of_things(rng: np.random.Generator, palette: Palette) -> Scene:
    """Runs of cells in one row, or in two rows with an empty row between: the one-dimensional kind of tasks."""
    colours = palette[: between(rng, 1, 4)]
    rows = between(rng, 1, 2)
    width = between(rng, 9, 16)
    longest = between(rng, 3, 5)

    def make(r: np.random.Generator) -> Grid:
        patches = [np.full((1, between(r, 1, longest)), one_of(r, colours), np.uint8) for _ in range(between(r, 2, 4))]
        return scatter(r, (2 * rows - 1, width + between(r, 0, 3)), patches)

    offers = {"objects", "movable"} | ({"coloured"} if len(colours) > 1 else set())
    return Scene(f"row_of_things {rows}", make, frozenset(offers), colours)


@scene
def twins(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two or three copies of one shape, and one other shape."""
    kinds = [str(k) for k in rng.choice(["classic", "blob", "mirrored"], size=2, replace=False)]
    colours = palette[: between(rng, 1, 3)]
    size = sides(rng, 7, 12)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        common, odd = SHAPES[kinds[0]](r), SHAPES[kinds[1]](r)
        masks = [*[common] * between(r, 2, most), odd]
        return scatter(r, size(r), [masks[i] * np.uint8(one_of(r, colours)) for i in r.permutation(len(masks))])

    offers = {"objects", "copies", "movable", "twins"} | ({"coloured"} if len(colours) > 1 else set())
    return Scene(f"twins {'+'.join(kinds)}", make, frozenset(offers), colours)


@scene
def sheets(rng: np.random.Generator, palette: Palette) -> Scene:
    """Two or three connected patterns of the same size, each in its own colour."""
    colours = palette[: between(rng, 2, 3)]
    size = sides(rng, 7, 12)
    side = between(rng, 3, 4)

    def make(r: np.random.Generator) -> Grid:
        patches = [random_cells(r, (side, side), (int(ink),), 0.6) for ink in r.permutation(colours)]
        for patch in patches:
            if not (patch[[0, -1]].any(axis=1).all() and patch[:, [0, -1]].any(axis=0).all()):
                raise Unfit
            if len(regions(patch > 0, diagonal=True)) > 1:
                raise Unfit
        return scatter(r, size(r), patches)

    return Scene(f"sheets {side}", make, frozenset({"objects", "coloured", "movable", "sheets"}), colours)


@scene
def blocks(rng: np.random.Generator, palette: Palette) -> Scene:
    """Filled rectangles of 3-6 by 3-6 cells."""
    colours = palette[: between(rng, 1, 3)]
    size = sides(rng, 8, 12)
    most = between(rng, 2, 3)

    def make(r: np.random.Generator) -> Grid:
        inks = r.choice(np.array(colours, dtype=np.uint8), size=between(r, 1, most))
        return scatter(r, size(r), [np.full((between(r, 3, 6), between(r, 3, 6)), ink, np.uint8) for ink in inks])

    offers = {"objects", "movable", "blocks"} | ({"coloured"} if len(colours) > 1 else set())
    return Scene(f"blocks {most}", make, frozenset(offers), colours)


@scene
def ladder(rng: np.random.Generator, palette: Palette) -> Scene:
    """Rows with different numbers of filled cells, each row in one colour."""
    colours = palette[: between(rng, 1, 4)]
    most = between(rng, 3, 6)
    flush = rng.random() < 0.5

    def make(r: np.random.Generator) -> Grid:
        rows = between(r, 3, most)
        width = rows + between(r, 0, 2)
        grid = np.zeros((rows, width), dtype=np.uint8)
        for row, length in enumerate((1 + r.permutation(width)[:rows]).tolist()):
            places = np.arange(length) if flush else r.permutation(width)[:length]
            grid[row, places] = one_of(r, colours)
        return grid

    return Scene(f"ladder{' flush' if flush else ''}", make, frozenset({"ladder"}), colours)
