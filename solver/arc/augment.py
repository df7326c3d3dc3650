"""Augmenters change all grids of a task alike. The rule of the task stays recognisable, but unlike views not all can be undone.

Source: the transformations of Akyurek et al. 2024 (arXiv 2411.07279), appendix on TTT data, in this project's names. A
name of several joined by "+" is a chain, applied from left to right: "rot90+double_resolution".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from solver.arc.grid import MAX_SIDE, Grid
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, Transform, transform_grid

GridChange = Callable[[Grid], Grid]
Augmenter = Callable[[np.random.Generator], GridChange]  # draws its parameters once a task

MAX_SHIFT = 3  # cells, as published


def translate(rng: np.random.Generator) -> GridChange:
    """Roll every grid by the same 0-3 rows and columns; what leaves on one side comes back on the other."""
    shift = tuple(int(s) for s in rng.integers(0, MAX_SHIFT + 1, size=2))
    return lambda g: np.roll(g, shift, axis=(0, 1))


def reflect_right(_: np.random.Generator) -> GridChange:
    """Append the mirror image to the right: twice as wide."""
    return lambda g: np.concatenate([g, g[:, ::-1]], axis=1)


def reflect_left(_: np.random.Generator) -> GridChange:
    """Put the mirror image to the left: twice as wide."""
    return lambda g: np.concatenate([g[:, ::-1], g], axis=1)


def reflect_down(_: np.random.Generator) -> GridChange:
    """Append the mirror image below: twice as high."""
    return lambda g: np.concatenate([g, g[::-1]], axis=0)


def reflect_up(_: np.random.Generator) -> GridChange:
    """Put the mirror image above: twice as high."""
    return lambda g: np.concatenate([g[::-1], g], axis=0)


def double_height(_: np.random.Generator) -> GridChange:
    """Every row twice."""
    return lambda g: np.repeat(g, 2, axis=0)


def double_width(_: np.random.Generator) -> GridChange:
    """Every column twice."""
    return lambda g: np.repeat(g, 2, axis=1)


def double_resolution(_: np.random.Generator) -> GridChange:
    """Every cell as a 2x2 block."""
    return lambda g: np.repeat(np.repeat(g, 2, axis=0), 2, axis=1)


def repeat_down(_: np.random.Generator) -> GridChange:
    """The grid twice, one above the other."""
    return lambda g: np.tile(g, (2, 1))


def repeat_right(_: np.random.Generator) -> GridChange:
    """The grid twice, side by side."""
    return lambda g: np.tile(g, (1, 2))


def repeat_both(_: np.random.Generator) -> GridChange:
    """The grid four times, as a 2x2 tiling."""
    return lambda g: np.tile(g, (2, 2))


def _dihedral(transform: Transform) -> Augmenter:
    return lambda _: lambda g: transform_grid(g, transform)


AUGMENTERS: dict[str, Augmenter] = {
    **{transform: _dihedral(transform) for transform in TRANSFORMS if transform != "identity"},
    "translate": translate,
    "reflect_right": reflect_right,
    "reflect_left": reflect_left,
    "reflect_down": reflect_down,
    "reflect_up": reflect_up,
    "double_height": double_height,
    "double_width": double_width,
    "double_resolution": double_resolution,
    "repeat_down": repeat_down,
    "repeat_right": repeat_right,
    "repeat_both": repeat_both,
}


def augmenter(name: str) -> Augmenter:
    """The augmenter or chain of that name. Raises ValueError for an unknown one."""
    parts = name.split("+")
    for part in parts:
        if part not in AUGMENTERS:
            raise ValueError(f"unknown augmenter {part!r}; there are: {', '.join(AUGMENTERS)}, and chains joined by +")
    if len(parts) == 1:
        return AUGMENTERS[name]

    def chain(rng: np.random.Generator) -> GridChange:
        changes = [AUGMENTERS[part](rng) for part in parts]

        def change(grid: Grid) -> Grid:
            for step in changes:
                grid = step(grid)
            return grid

        return change

    return chain


def augment(task: Task, name: str, rng: np.random.Generator) -> Task | None:
    """The task with every grid changed alike, or None if one would exceed 30x30."""
    change = augmenter(name)(rng)
    changed: dict[str, tuple[Pair, ...]] = {}
    for part, pairs in (("train", task.train), ("test", task.test)):
        changed[part] = tuple(Pair(change(p.input), None if p.output is None else change(p.output)) for p in pairs)
    grids = [g for pairs in changed.values() for pair in pairs for g in (pair.input, pair.output) if g is not None]
    if max(side for grid in grids for side in grid.shape) > MAX_SIDE:
        return None
    return Task(task.id, changed["train"], changed["test"])
