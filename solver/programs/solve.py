"""Answers to a task by program search: `solve(task, deadline)`.

from solver.arc.datasets import load_tasks
from solver.programs.solve import solve
from solver.types import Deadline

for answer in solve(load_tasks("arc1:training").tasks[0].without_answers(), Deadline.after(2.0)):
    print(answer.query, answer.cost, answer.exact, answer.agreement, answer.program)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from solver.arc.grid import Grid, grid_key
from solver.arc.task import Task
from solver.programs.batch import Batch
from solver.programs.candidate import Candidate
from solver.programs.library import for_colours
from solver.programs.overlays import overlay_candidates
from solver.programs.pieces import make_pieces
from solver.programs.search import Search
from solver.programs.sizes import predict_sizes
from solver.programs.tables import table_candidates
from solver.types import Deadline

RESERVE = 0.1  # seconds before the deadline at which work stops
SEARCH_SHARE = 0.6  # of the time, for values; the rest is for joining them
MAX_ANSWERS = 5  # different grids for a query
MAX_COST = 6
MAX_EXACT = 200


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
    stop = deadline.earlier(RESERVE)
    candidates = list(_candidates(task, stop))
    candidates.sort(key=lambda candidate: (-candidate.right, candidate.cost))
    answers: list[ProgramAnswer] = []
    for query in range(len(task.test)):
        seen: set[bytes] = set()
        for candidate in candidates:
            grid = candidate.grids[query]
            if grid_key(grid) not in seen and len(seen) < MAX_ANSWERS:
                seen.add(grid_key(grid))
                answers.append(ProgramAnswer(query, grid, candidate.program, candidate.cost, candidate.exact, 1.0))
    return tuple(answers)


def _candidates(task: Task, deadline: Deadline) -> Iterator[Candidate]:
    inputs = [np.ascontiguousarray(pair.input, np.uint8) for pair in (*task.train, *task.test)]
    outputs = [np.ascontiguousarray(pair.output, np.uint8) for pair in task.train if pair.output is not None]
    present = {int(c) for grid in (*inputs, *outputs) for c in np.unique(grid)}
    search = Search(inputs, for_colours(present))
    for _ in search.run(MAX_COST, deadline.earlier((1 - SEARCH_SHARE) * max(deadline.remaining(), 0.0))):
        pass
    yield from _whole(search, outputs)
    for sizes in predict_sizes(search, inputs, outputs, 2):
        if deadline.expired():
            return
        pieces = make_pieces(search, sizes, outputs)
        yield from table_candidates(pieces, len(outputs), deadline)
        yield from overlay_candidates(pieces, len(outputs), deadline)


def _whole(search: Search, outputs: Sequence[Grid]) -> Iterator[Candidate]:
    """Values that are the outputs of all demonstrations, or of some."""
    nodes = search.nodes["grid"]
    goals = search.grids.add(Batch.of(outputs))
    content = search.grids.content.array
    right = (content[nodes.rows[:, : len(outputs)]] == content[goals]).mean(1)
    for node in np.lexsort((nodes.cost.array, -right))[:MAX_EXACT]:
        if right[node] == 0:
            return
        grids = search.grids.batch(nodes.rows[node, len(outputs) :])
        answer = tuple(grids[i].copy() for i in range(len(grids)))
        yield Candidate(answer, search.program(int(node)), float(nodes.cost.array[node]), float(right[node]))
