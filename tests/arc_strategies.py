"""Hypothesis strategies for grids, tasks and views."""

import numpy as np
from hypothesis import strategies as st

from solver.arc.grid import COLOURS, MAX_SIDE, Grid
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, View, random_colours, random_view


def grids(max_side: int = MAX_SIDE) -> st.SearchStrategy[Grid]:
    # bytes, because drawing cell by cell is slow
    def with_cells(shape: tuple[int, int]) -> st.SearchStrategy[Grid]:
        size = shape[0] * shape[1]
        return st.binary(min_size=size, max_size=size).map(lambda raw: np.frombuffer(raw, np.uint8).reshape(shape) % COLOURS)

    return st.tuples(st.integers(1, max_side), st.integers(1, max_side)).flatmap(with_cells)


def pairs(max_side: int = 6) -> st.SearchStrategy[Pair]:
    return st.builds(Pair, grids(max_side), grids(max_side))


def tasks(max_side: int = 6, min_train: int = 1, max_train: int = 5, max_test: int = 3) -> st.SearchStrategy[Task]:
    return st.builds(
        Task,
        st.just("task"),
        st.lists(pairs(max_side), min_size=min_train, max_size=max_train).map(tuple),
        st.lists(pairs(max_side), min_size=1, max_size=max_test).map(tuple),
    )


def views(demonstrations: int) -> st.SearchStrategy[View]:
    modes = st.sampled_from(("keep", "permute", "permute_nonzero"))
    return st.builds(
        lambda seed, mode, shuffle: random_view(np.random.default_rng(seed), demonstrations, TRANSFORMS, mode, shuffle),
        st.integers(0, 2**32 - 1),
        modes,
        st.booleans(),
    )


def colour_permutations() -> st.SearchStrategy[tuple[int, ...]]:
    return st.integers(0, 2**32 - 1).map(lambda seed: random_colours(np.random.default_rng(seed), "permute"))
