"""Views: every one can be undone, has a key that makes it again, and shows whole tasks alike."""

import numpy as np
import pytest
from arc_strategies import colour_permutations, grids, tasks, views
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.arc.view import TRANSFORMS, Transform, View, random_colours, random_view, transform_grid

SHOWN: dict[Transform, list[list[int]]] = {  # of [[1, 2, 3], [4, 5, 6]]
    "identity": [[1, 2, 3], [4, 5, 6]],
    "rot90": [[3, 6], [2, 5], [1, 4]],
    "rot180": [[6, 5, 4], [3, 2, 1]],
    "rot270": [[4, 1], [5, 2], [6, 3]],
    "flip_lr": [[3, 2, 1], [6, 5, 4]],
    "flip_ud": [[4, 5, 6], [1, 2, 3]],
    "transpose": [[1, 4], [2, 5], [3, 6]],
    "antitranspose": [[6, 3], [5, 2], [4, 1]],
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transform_by_hand(transform: Transform) -> None:
    grid = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    assert transform_grid(grid, transform).tolist() == SHOWN[transform]


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(grid=grids(), colours=colour_permutations())
def test_undo_reverses_every_transform_and_colouring(transform: Transform, grid: Grid, colours: tuple[int, ...]) -> None:
    view = View(transform, colours)
    assert np.array_equal(view.undo(view.apply_grid(grid)), grid)
    assert np.array_equal(view.apply_grid(view.undo(grid)), grid)
    assert view.apply_grid(grid).dtype == np.uint8


@given(data=st.data(), task=tasks())
def test_undo_task_reverses_apply(data: st.DataObject, task: Task) -> None:
    view = data.draw(views(len(task.train)))
    assert view.undo_task(view.apply(task)) == task
    unknown = task.without_answers()
    assert view.undo_task(view.apply(unknown)) == unknown


@given(data=st.data(), demonstrations=st.integers(0, 12))
def test_key_makes_the_same_view_again(data: st.DataObject, demonstrations: int) -> None:
    view = data.draw(views(demonstrations))
    assert View.from_key(view.key) == view


@given(data=st.data(), task=tasks(min_train=2))
def test_order_names_the_demonstration_at_each_place(data: st.DataObject, task: Task) -> None:
    order = tuple(data.draw(st.permutations(range(len(task.train)))))
    assert View(order=order).apply(task).train == tuple(task.train[i] for i in order)
    assert View(order=order).apply(task).test == task.test


@given(seed=st.integers(0, 1000))
def test_colour_modes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert random_colours(rng, "keep") == tuple(range(10))
    assert random_colours(rng, "permute_nonzero")[0] == 0
    assert sorted(random_colours(rng, "permute")) == list(range(10))


def test_colours_move_the_background_only_if_asked() -> None:
    draws = [random_colours(np.random.default_rng(seed), "permute")[0] for seed in range(50)]
    assert len(set(draws)) > 5


def test_random_view_keeps_to_the_given_transforms_and_order() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_view(rng, 4, ("rot90", "flip_lr"), "keep", shuffle=False) for _ in range(40)]
    assert {view.transform for view in drawn} == {"rot90", "flip_lr"}
    assert {view.order for view in drawn} == {()}


@pytest.mark.parametrize(
    "bad", ["", "identity", "spin/0123456789/", "identity/0123456788/", "identity/0123456789/0.2", "rot90/01/x"]
)
def test_bad_keys_are_refused(bad: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        View.from_key(bad)


@given(task=tasks(max_train=3))
def test_an_order_of_another_length_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match="orders 4 demonstrations"):
        View(order=(3, 2, 1, 0)).apply(task)
