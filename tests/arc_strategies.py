"""Hypothesis strategies for grids, tasks and views."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from solver.arc.grid import COLOURS, MAX_SIDE, Grid
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, View, random_colours, random_view


def grids(max_side: int = MAX_SIDE) -> st.SearchStrategy[Grid]:
    sides = st.tuples(st.integers(1, max_side), st.integers(1, max_side))
    return sides.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, COLOURS - 1)))


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
