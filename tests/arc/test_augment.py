"""Augmenters: each one by hand, chains from left to right, nothing larger than 30x30."""

import numpy as np
import pytest
from arc_strategies import tasks
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.augment import AUGMENTERS, augment, augmenter
from solver.arc.seeding import generator
from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS

BY_HAND = {  # of [[1, 2], [3, 4]]
    "rot90": [[2, 4], [1, 3]],
    "rot180": [[4, 3], [2, 1]],
    "rot270": [[3, 1], [4, 2]],
    "flip_lr": [[2, 1], [4, 3]],
    "flip_ud": [[3, 4], [1, 2]],
    "transpose": [[1, 3], [2, 4]],
    "antitranspose": [[4, 2], [3, 1]],
    "reflect_right": [[1, 2, 2, 1], [3, 4, 4, 3]],
    "reflect_left": [[2, 1, 1, 2], [4, 3, 3, 4]],
    "reflect_down": [[1, 2], [3, 4], [3, 4], [1, 2]],
    "reflect_up": [[3, 4], [1, 2], [1, 2], [3, 4]],
    "double_height": [[1, 2], [1, 2], [3, 4], [3, 4]],
    "double_width": [[1, 1, 2, 2], [3, 3, 4, 4]],
    "double_resolution": [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]],
    "repeat_down": [[1, 2], [3, 4], [1, 2], [3, 4]],
    "repeat_right": [[1, 2, 1, 2], [3, 4, 3, 4]],
    "repeat_both": [[1, 2, 1, 2], [3, 4, 3, 4], [1, 2, 1, 2], [3, 4, 3, 4]],
    "flip_lr+reflect_right": [[2, 1, 1, 2], [4, 3, 3, 4]],
    "double_width+flip_ud": [[3, 3, 4, 4], [1, 1, 2, 2]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_augmenter_by_hand(name: str) -> None:
    grid = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    changed = augmenter(name)(np.random.default_rng(0))(grid)
    assert changed.tolist() == BY_HAND[name]
    assert changed.dtype == np.uint8


def test_every_augmenter_has_a_case() -> None:
    assert set(AUGMENTERS) - set(BY_HAND) == {"translate"}
    assert set(TRANSFORMS) - set(AUGMENTERS) == {"identity"}


def test_translate_rolls_all_grids_of_a_task_alike() -> None:
    grid = np.arange(64, dtype=np.uint8).reshape(8, 8) % 10
    shifts = set()
    for seed in range(60):
        change = augmenter("translate")(np.random.default_rng(seed))
        found = [(r, c) for r in range(8) for c in range(8) if np.array_equal(np.roll(grid, (r, c), (0, 1)), change(grid))]
        assert len(found) == 1
        assert np.array_equal(change(grid.T), np.roll(grid.T, found[0], (0, 1)))
        shifts.add(found[0])
    assert shifts == {(r, c) for r in range(4) for c in range(4)}


@given(task=tasks(max_side=30, max_train=2, max_test=1), name=st.sampled_from(list(BY_HAND)))
def test_tasks_are_changed_as_a_whole_or_not_at_all(task: Task, name: str) -> None:
    change = augmenter(name)(np.random.default_rng(0))
    wanted = [(change(p.input), change(p.output)) for p in (*task.train, *task.test) if p.output is not None]
    found = augment(task, name, np.random.default_rng(0))
    if any(side > 30 for pair in wanted for grid in pair for side in grid.shape):
        assert found is None
    else:
        assert found is not None
        assert (*found.train, *found.test) == tuple(Pair(a, b) for a, b in wanted)


@pytest.mark.parametrize("name", ["", "identity", "spin", "rot90+", "rot90+spin"])
def test_unknown_augmenters_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="unknown augmenter"):
        augmenter(name)


def test_generators_depend_on_every_name_and_nothing_else() -> None:
    draws = [
        generator(seed, *names).integers(2**62)
        for seed, names in [(0, ("a", "b")), (1, ("a", "b")), (0, ("ab",)), (0, ("b", "a"))]
    ]
    assert len(set(draws)) == 4
    assert generator(0, "a", "b").integers(2**62) == draws[0]
    # fixed for all machines and Python versions
    assert generator(0, "x").integers(1000, size=3).tolist() == [544, 279, 287]
