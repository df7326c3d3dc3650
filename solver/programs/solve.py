"""Answers to a task by program search: `solve(task, deadline)`.

from solver.arc.datasets import load_tasks
from solver.programs.solve import solve
from solver.types import Deadline

for answer in solve(load_tasks("arc1:training").tasks[0].without_answers(), Deadline.after(2.0)):
    print(answer.query, answer.cost, answer.exact, answer.agreement, answer.program)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solver.arc.grid import Grid, grid_key
from solver.arc.task import Task
from solver.programs.batch import Batch
from solver.programs.library import for_colours
from solver.programs.search import Search
from solver.types import Deadline

RESERVE = 0.1  # seconds before the deadline at which the search stops
MAX_ANSWERS = 5  # different grids for a query


@dataclass(frozen=True, eq=False)
class ProgramAnswer:
    """A grid that a program gives for a query, with what tells how far to trust it."""

    query: int  # number of the test input
    grid: Grid
    program: str  # readable: the functions, first to last
    cost: float  # of the program; lower is simpler
    exact: bool  # whether the program gives the outputs of all demonstrations
    agreement: float  # 0..1: share of the searched copies of the task, turned and recoloured, that found this grid


def solve(task: Task, deadline: Deadline) -> tuple[ProgramAnswer, ...]:
    """Answers for every query of the task, best first within each query; at most MAX_ANSWERS each. Looks at no test output."""
    inputs = [np.ascontiguousarray(pair.input, np.uint8) for pair in (*task.train, *task.test)]
    outputs = [pair.output for pair in task.train if pair.output is not None]
    present = {int(c) for grid in (*inputs, *outputs) for c in np.unique(grid)}
    search = Search(inputs, for_colours(present))
    for _ in search.run(4, deadline.earlier(RESERVE)):
        pass
    nodes = search.nodes["grid"]
    goals = search.grids.add(Batch.of(outputs))
    content = search.grids.content.array
    found = (content[nodes.rows[:, : len(outputs)]] == content[goals]).all(1)
    answers: list[ProgramAnswer] = []
    for query in range(len(task.test)):
        seen: set[bytes] = set()
        for node in np.flatnonzero(found):
            number = nodes.rows[node, len(task.train) + query]
            grid = search.grids.batch(np.array([number]))[0].copy()
            if grid_key(grid) not in seen and len(seen) < MAX_ANSWERS:
                seen.add(grid_key(grid))
                answers.append(ProgramAnswer(query, grid, search.program(int(node)), float(nodes.cost.array[node]), True, 1.0))
    return tuple(answers)
