"""Whole answers: `solve`, the copies of a task, and the promises about time, memory and imports."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings

from solver.arc.grid import COLOURS, Grid
from solver.arc.task import Pair, Task
from solver.programs.copies import copies
from solver.programs.solve import MAX_ANSWERS, ProgramAnswer, solve
from solver.types import Deadline
from tests.arc_strategies import tasks
from tests.programs.program_values import Ticks, grid

SECONDS = 1.0  # of the process's own time, so that a busy machine changes nothing


def answers(train: list[tuple[str, str]], *tests: str) -> tuple[ProgramAnswer, ...]:
    pairs = tuple(Pair(grid(before), grid(after)) for before, after in train)
    task = Task("task", pairs, tuple(Pair(grid(text), None) for text in tests))
    return solve(task, Deadline.after(SECONDS, time.process_time))


def test_a_program_is_found_and_agreed_on() -> None:
    found = answers([("012/000/300", "210/000/003"), ("450/006/000", "054/600/000")], "100/020/033")
    assert found[0].grid.tolist() == [[0, 0, 1], [0, 2, 0], [3, 3, 0]]
    assert (found[0].program, found[0].exact, found[0].agreement) == ("flip_lr", True, 1.0)


def test_every_query_has_answers_best_first() -> None:
    found = answers([("1000/0000/0020", "1000/0000/0020"), ("0300/0000/0000", "0300/0000/0000")], "5000/0000", "06/60")
    for query, text in enumerate(("5000/0000", "06/60")):
        mine = [answer for answer in found if answer.query == query]
        assert mine[0].grid.tolist() == grid(text).tolist()
        assert len({answer.grid.tobytes() + bytes(answer.grid.shape) for answer in mine}) == len(mine) <= MAX_ANSWERS
        assert [answer.exact for answer in mine] == sorted((answer.exact for answer in mine), reverse=True)


def test_a_background_other_than_0_is_taken_for_0() -> None:
    found = answers([("8888/8128/8888", "12"), ("8888/8888/8883", "3")], "8888/4588/4588")
    assert found[0].grid.tolist() == [[4, 5], [4, 5]]


@settings(max_examples=40, deadline=None)
@given(tasks())
def test_copies_can_be_undone(task: Task) -> None:
    for copy in copies(task):
        assert np.array_equal(np.sort(copy.colours, axis=1), np.tile(np.arange(COLOURS), (len(copy.colours), 1)))
        back = copy.undo(copy.tests)
        assert [g.tolist() for g in back] == [pair.input.tolist() for pair in task.test]
        assert len(copy.train) == len(task.train)


@settings(max_examples=5, deadline=None)
@given(tasks())
def test_any_task_is_answered_by_valid_grids_without_a_look_at_the_outputs(task: Task) -> None:
    before = [(pair.input.copy(), None if pair.output is None else pair.output.copy()) for pair in task.train]
    clock = Ticks(0.01)
    found = solve(task, Deadline(2.0, clock))
    clock.now = 0.0
    again = solve(task.without_answers(), Deadline(2.0, clock))
    assert [(a.query, a.grid.tolist(), a.program) for a in found] == [(a.query, a.grid.tolist(), a.program) for a in again]
    for answer in found:
        _check(answer.grid)
        assert 0 <= answer.query < len(task.test)
        assert 0 < answer.agreement <= 1
    for pair, (given_input, given_output) in zip(task.train, before, strict=True):
        assert np.array_equal(pair.input, given_input)
        assert given_output is None or np.array_equal(pair.output, given_output)


def _check(cells: Grid) -> None:
    assert cells.dtype == np.uint8
    assert cells.ndim == 2
    assert min(cells.shape) >= 1
    assert max(cells.shape) <= 30
    assert cells.max() < COLOURS


def test_the_deadline_ends_everything() -> None:
    clock = Ticks(0.01)
    pairs = tuple(Pair(grid("120/003/000"), grid(text)) for text in ("021/300/004", "021/300/000"))
    solve(Task("task", pairs, (Pair(grid("100/000/020"), None),)), Deadline(1.0, clock))
    assert clock.now < 1.2


def test_a_deadline_that_has_passed_gives_no_answers() -> None:
    task = Task("task", (Pair(grid("12"), grid("21")),), (Pair(grid("34"), None),))
    assert solve(task, Deadline(0.0, lambda: 1.0)) == ()


HARD = """
import json, resource, sys, time
import numpy as np
from solver.arc.task import Pair, Task
from solver.programs.solve import solve
from solver.types import Deadline

rng = np.random.default_rng(0)
def scattered():
    return (rng.integers(1, 10, (30, 30)) * (rng.random((30, 30)) < 0.2)).astype(np.uint8)
pairs = tuple(Pair(scattered(), scattered()) for _ in range(6))
solve(Task("small", pairs[:1], pairs[:1]), Deadline.after(0.3, time.process_time))  # so that numpy is warm
began = time.process_time()
solve(Task("hard", pairs[1:], (pairs[0],)), Deadline.after(1.5, time.process_time))
used = time.process_time() - began
heavy = [name for name in ("torch", "pydantic", "scipy", "numba") if name in sys.modules]
print(json.dumps([used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, heavy]))
"""


# Linux counts the peak of the process that starts a program as that of the program: the one between them is small.
START = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"


def test_a_process_keeps_time_memory_and_imports_in_bounds() -> None:
    result = subprocess.run([sys.executable, "-c", START, HARD], capture_output=True, text=True, check=True, timeout=300)
    seconds, megabytes, heavy = json.loads(result.stdout)
    assert seconds < 1.7  # of the process's own time
    assert megabytes < 1000
    assert heavy == []


@pytest.mark.parametrize("field", ["query", "grid", "program", "cost", "exact", "agreement"])
def test_an_answer_has_the_fields_that_a_run_reads(field: str) -> None:
    assert field in ProgramAnswer.__dataclass_fields__
