"""The tables that policies keep: what they remember of earlier looks never changes what they decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_policies import state, taught

from solver.budget.planner import TaskState
from solver.budget.registry import POLICIES
from solver.budget.task_table import TaskTable
from solver.config import load_settings

STATUS = (None, "complete", "cut", "failed")
changes = st.fixed_dictionaries(
    {
        "waves": st.integers(0, 3),
        "steps": st.integers(0, 100),
        "status": st.sampled_from(STATUS),
        "agreement": st.sampled_from((0.0, 0.4, 1.0)),
        "views": st.integers(1, 8),
        "losses": st.integers(0, 5),
        "killed": st.integers(0, 2),
        "busy": st.booleans(),
    }
)


def in_words(tasks: list[TaskState], size: int) -> list[str]:
    """The next tasks, by sorting all."""
    ordered = sorted(tasks, key=lambda task: (task.waves, task.losses, task.size, task.id))
    if ordered and ordered[0].losses:
        return [ordered[0].id]
    return [task.id for task in ordered[:size] if task.waves == ordered[0].waves and not task.losses]


@given(st.lists(st.tuples(st.integers(0, 5), changes), max_size=12), st.integers(1, 4))
def test_a_task_table_that_follows_changes_is_one_that_sees_all_anew(
    told: list[tuple[int, dict[str, object]]], size: int
) -> None:
    tasks = [state(number, 300.0 + 100 * (number % 3)) for number in range(6)]
    table = TaskTable(lambda task: task.waves < 2)
    assert table.see(tasks) == list(range(6))
    for row, change in told:
        tasks[row] = replace(tasks[row], **change)  # type: ignore[arg-type]
        assert table.see(tasks) == [row]
    free = [task for task in tasks if task.waves < 2 and not task.busy]
    assert [tasks[row] for row in np.flatnonzero(table.free)] == free
    assert list(table.ids(table.chunk(table.free, size))) == in_words(free, size)


def test_other_tasks_make_a_new_table() -> None:
    table = TaskTable(lambda task: not task.busy)
    first = [state(1), state(2)]
    table.see(first)
    assert table.see(first) == []
    assert not table.renewed
    assert table.see([first[0], state(3, busy=True)]) == [0, 1]
    assert table.renewed
    assert table.pending.tolist() == [True, False]
    assert table.see([]) == []
    assert not len(table.chunk(table.free, 3))


@pytest.mark.parametrize("name", ["fixed", "uniform", "adaptive"])
@given(told=st.lists(st.tuples(st.integers(0, 4), changes, st.floats(1.0, 3000.0)), min_size=1, max_size=6))
@hypothesis_settings(max_examples=25, deadline=None)
def test_a_policy_decides_as_one_that_has_just_come(name: str, told: list[tuple[int, dict[str, object], float]]) -> None:
    settings = load_settings(overrides=[f"budget.policy={name}", "budget.chunk=2"])
    tasks = [state(number, 300.0 + 400 * number) for number in range(5)]
    old = POLICIES[name](settings, taught(settings))  # type: ignore[index]
    old.next(tasks, 500.0, 2)
    for row, change, left in told:
        tasks[row] = replace(tasks[row], **change)  # type: ignore[arg-type]
        new = POLICIES[name](settings, taught(settings))  # type: ignore[index]
        assert old.next(tasks, left, 2) == new.next(tasks, left, 2)
