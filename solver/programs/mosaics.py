"""Mosaics: outputs made of equal blocks, each of which is one value of the search under some symmetry, or of one colour.

Which block shows what is learnt from the demonstrations, and must be the same in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import MAX_SIDE, Grid
from solver.arc.view import TRANSFORMS, transform_grid
from solver.programs.found_program import FoundProgram
from solver.programs.search import Search
from solver.types import Deadline

MAX_SOURCES = 300  # values that are tried as blocks, cheapest first
BLANK = len(TRANSFORMS)  # what a block shows, beside the symmetries: colour 0
MOSAIC_COST = 1.5
TURNING = [i for i, name in enumerate(TRANSFORMS) if transform_grid(np.zeros((1, 2), np.uint8), name).shape != (1, 2)]


def mosaic_candidates(search: Search, outputs: Sequence[Grid], deadline: Deadline) -> Iterator[FoundProgram]:
    """Candidates with at least two blocks that give all demonstrations."""
    nodes = search.nodes["grid"]
    known = len(outputs)
    high, wide = np.array([g.shape[0] for g in outputs]), np.array([g.shape[1] for g in outputs])
    rows = nodes.rows[: 20 * MAX_SOURCES]
    height, width = search.grids.height.array[rows], search.grids.width.array[rows]
    h, w = height[:, :known], width[:, :known]
    down, across = high // h, wide // w
    fits = ((down * h == high) & (across * w == wide)).all(1)
    fits &= (down == down[:, :1]).all(1) & (across == across[:, :1]).all(1) & (down[:, 0] * across[:, 0] > 1)
    fits &= (height.max(1) * down[:, 0] <= MAX_SIDE) & (width.max(1) * across[:, 0] <= MAX_SIDE)
    for node in np.flatnonzero(fits)[:MAX_SOURCES]:
        if deadline.expired():
            return
        batch = search.grids.batch(rows[node])
        sources = [batch[i] for i in range(len(batch))]
        if any((source == source[0, 0]).all() for source in sources[:known]):
            continue
        shown = _arrangement(sources[:known], outputs, int(down[node, 0]), int(across[node, 0]))
        if shown is None:
            continue
        turned = bool(np.isin(shown, TURNING).any())
        if turned and any(source.shape[0] != source.shape[1] for source in sources):
            continue
        answers = tuple(_build(source, shown) for source in sources[known:])
        layout = "/".join(" ".join("blank" if i == BLANK else TRANSFORMS[i] for i in line) for line in shown.tolist())
        cost = float(nodes.cost.array[node]) + MOSAIC_COST + 0.1 * len(np.unique(shown))
        yield FoundProgram(answers, f"mosaic of ({search.program(int(node))}): {layout}", cost, 1.0)


def _arrangement(sources: Sequence[Grid], outputs: Sequence[Grid], down: int, across: int) -> NDArray[np.int64] | None:
    """For each block the first symmetry (or BLANK) that shows it in all demonstrations, (down, across); None if there is none."""
    possible = np.ones((down, across, BLANK + 1), bool)
    for source, output in zip(sources, outputs, strict=True):
        h, w = source.shape
        blocks = output.reshape(down, h, across, w).swapaxes(1, 2)
        for i, name in enumerate(TRANSFORMS):
            image = transform_grid(source, name)
            possible[:, :, i] &= (blocks == image).all((2, 3)) if image.shape == (h, w) else False
        possible[:, :, BLANK] &= (blocks == 0).all((2, 3))
        if not possible.any(2).all():
            return None
    return possible.argmax(2)


def _build(source: Grid, shown: NDArray[np.int64]) -> Grid:
    blocks = [
        [np.zeros_like(source) if i == BLANK else transform_grid(source, TRANSFORMS[i]) for i in line] for line in shown.tolist()
    ]
    return np.block(blocks)
