"""Grids and tasks: parsing names the bad cell, keys and JSON give the grid back."""

from typing import Any

import numpy as np
import pytest
from arc_strategies import grids, tasks
from hypothesis import given

from solver.arc.datasets import parse_task
from solver.arc.grid import Grid, GridError, grid_from_key, grid_json, grid_key, parse_grid
from solver.arc.task import Task


@given(first=grids(8), second=grids(8))
def test_keys_identify_grids(first: Grid, second: Grid) -> None:
    assert np.array_equal(grid_from_key(grid_key(first)), first)
    assert (grid_key(first) == grid_key(second)) == np.array_equal(first, second)


@given(grid=grids())
def test_json_round_trip(grid: Grid) -> None:
    assert np.array_equal(parse_grid(grid_json(grid)), grid)


@given(task=tasks())
def test_task_json_round_trip(task: Task) -> None:
    assert parse_task(task.id, task.to_json()) == task
    assert parse_task(task.id, task.without_answers().to_json()) == task.without_answers()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "a grid must be a list of rows, not null"),
        ("12", "not str"),
        ([], "the grid is empty"),
        ([[]], "row 0 is empty"),
        ([[1], 2], "row 1 must be a list of cells"),
        ([[1, 2], [3]], "row 1 has 1 cells, row 0 has 2"),
        ([[0] * 31], "row 0 has 31 columns"),
        ([[0]] * 31, "31 rows"),
        ([[0, 1.0]], r"cell \(row 0, column 1\) is 1.0"),
        ([["1"]], r"cell \(row 0, column 0\) is '1'"),
        ([[0], [True]], r"cell \(row 1, column 0\) is True"),
        ([[-1]], "is -1"),
        ([[10]], "is 10"),
        ([[None]], "is None"),
    ],
)
def test_bad_grids_name_the_place(value: Any, message: str) -> None:
    with pytest.raises(GridError, match=message):
        parse_grid(value)
