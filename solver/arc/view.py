"""Views: invertible changes of a task (a dihedral transform, a colour permutation, an order of the demonstrations).

Source: the invertible transformations of "The Surprising Effectiveness of Test-Time Training for Few-Shot Learning"
(Akyurek et al. 2024), section 5.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from solver.arc.grid import COLOURS, Grid
from solver.arc.task import Pair, Task

Transform = Literal["identity", "rot90", "rot180", "rot270", "flip_lr", "flip_ud", "transpose", "antitranspose"]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

ColourMode = Literal["keep", "permute", "permute_nonzero"]

_FORWARD: dict[Transform, Callable[[Grid], Grid]] = {
    "identity": lambda g: g,
    "rot90": lambda g: np.rot90(g, 1),
    "rot180": lambda g: np.rot90(g, 2),
    "rot270": lambda g: np.rot90(g, 3),
    "flip_lr": lambda g: g[:, ::-1],
    "flip_ud": lambda g: g[::-1],
    "transpose": lambda g: g.T,
    "antitranspose": lambda g: g[::-1, ::-1].T,
}
_INVERSE: dict[Transform, Transform] = {name: name for name in TRANSFORMS} | {"rot90": "rot270", "rot270": "rot90"}
IDENTITY_COLOURS: tuple[int, ...] = tuple(range(COLOURS))


def transform_grid(grid: Grid, transform: Transform) -> Grid:
    """The grid under one of the 8 symmetries of the square; rotations are counter-clockwise. Returns a contiguous copy."""
    return np.ascontiguousarray(_FORWARD[transform](grid))


@dataclass(frozen=True)
class View:
    """One view: `colours[c]` replaces colour c, and `order[i]` is the index of the demonstration shown at place i.

    An empty `order` keeps any number of demonstrations in their order.
    """

    transform: Transform = "identity"
    colours: tuple[int, ...] = IDENTITY_COLOURS
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sorted(self.colours) != list(IDENTITY_COLOURS):
            raise ValueError(f"not a permutation of the ten colours: {self.colours}")
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"not an order of demonstrations: {self.order}")

    @property
    def key(self) -> str:
        """Short text identity, as ledgers store it: transform/colours/order."""
        return f"{self.transform}/{''.join(map(str, self.colours))}/{'.'.join(map(str, self.order))}"

    @staticmethod
    def from_key(key: str) -> View:
        """The view that `key` was made from. Raises ValueError for anything else."""
        transform, colours, order = key.split("/")
        if transform not in TRANSFORMS:
            raise ValueError(f"unknown transform in view key {key!r}")
        return View(transform, tuple(map(int, colours)), tuple(int(i) for i in order.split(".") if i))

    def apply_grid(self, grid: Grid) -> Grid:
        """The grid as this view shows it."""
        return transform_grid(np.asarray(self.colours, dtype=np.uint8)[grid], self.transform)

    def undo(self, grid: Grid) -> Grid:
        """The original of a grid that this view shows: `undo(apply_grid(g)) == g`."""
        back = np.argsort(np.asarray(self.colours)).astype(np.uint8)
        return back[transform_grid(grid, _INVERSE[self.transform])]

    def apply(self, task: Task) -> Task:
        """The task as this view shows it; test pairs keep their order. Raises ValueError if `order` does not fit the task."""
        if self.order and len(self.order) != len(task.train):
            raise ValueError(f"view orders {len(self.order)} demonstrations, task {task.id} has {len(task.train)}")
        train = [task.train[i] for i in self.order] if self.order else task.train
        return Task(task.id, tuple(self._pair(p) for p in train), tuple(self._pair(p) for p in task.test))

    def undo_task(self, task: Task) -> Task:
        """The original of a whole task that this view shows."""
        train = [Pair(self.undo(p.input), None if p.output is None else self.undo(p.output)) for p in task.train]
        test = [Pair(self.undo(p.input), None if p.output is None else self.undo(p.output)) for p in task.test]
        if self.order:
            train = [train[i] for i in np.argsort(self.order)]
        return Task(task.id, tuple(train), tuple(test))

    def _pair(self, pair: Pair) -> Pair:
        return Pair(self.apply_grid(pair.input), None if pair.output is None else self.apply_grid(pair.output))


def random_colours(rng: np.random.Generator, mode: ColourMode) -> tuple[int, ...]:
    """A colour permutation: none ("keep"), of all ten ("permute"), or of 1-9 with the background 0 fixed ("permute_nonzero")."""
    if mode == "keep":
        return IDENTITY_COLOURS
    if mode == "permute":
        return tuple(int(c) for c in rng.permutation(COLOURS))
    return (0, *(int(c) + 1 for c in rng.permutation(COLOURS - 1)))


def random_view(
    rng: np.random.Generator,
    demonstrations: int,
    transforms: Sequence[Transform] = TRANSFORMS,
    colours: ColourMode = "permute",
    shuffle: bool = True,
) -> View:
    """A view drawn uniformly: one of `transforms`, a colour permutation of `colours`, a demonstration order if `shuffle`."""
    order = tuple(int(i) for i in rng.permutation(demonstrations)) if shuffle else ()
    return View(transforms[int(rng.integers(len(transforms)))], random_colours(rng, colours), order)
