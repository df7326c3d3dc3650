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

from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.task import Task
from solver.programs.batch import Batch
from solver.programs.copies import Copy, copies
from solver.programs.found_program import FoundProgram
from solver.programs.library import for_colours
from solver.programs.mosaics import mosaic_candidates
from solver.programs.overlays import overlay_candidates
from solver.programs.pieces import make_pieces
from solver.programs.search import Search
from solver.programs.sizes import predict_shapes, shapes_by_formula
from solver.programs.tables import pair_candidates, table_candidates
from solver.types import Deadline

RESERVE = 0.08  # seconds before the deadline at which work stops
FIRST_SHARE, FIRST_SHARE_LARGE = 0.5, 0.7  # of the time, for the first copy of the task; the others share the rest
LARGE = 1500  # cells of all inputs
SEARCH_SHARE = 0.6  # of a copy's time, for values; the rest is for joining them
MAX_ANSWERS = 5  # different grids for a query
MAX_COST = 6
MAX_WHOLE = 100  # values of the search that count as candidates
AGREEMENT_BONUS = 1.5  # units of cost that an answer of all copies gains; one that a share of them found gains that share of it


@dataclass(frozen=True, eq=False)
class ProgramAnswer:
    """A grid that a program gives for a query, with what tells how far to trust it."""

    query: int  # number of the test input
    grid: Grid
    program: str  # readable: the functions, first to last
    cost: float  # of the program; lower is simpler
    exact: bool  # whether the program gives the outputs of all demonstrations
    agreement: float  # 0..1: share of the searched copies of the task (`copies.py`) that found this grid


def solve(task: Task, deadline: Deadline) -> tuple[ProgramAnswer, ...]:
    """Answers for every query of the task, best first within each query; at most MAX_ANSWERS each. Looks at no test output."""
    stop = deadline.earlier(RESERVE)
    found: list[list[FoundProgram]] = []
    every = copies(task)
    cells = sum(pair.input.size for pair in (*task.train, *task.test))
    first_share = FIRST_SHARE if cells < LARGE else FIRST_SHARE_LARGE
    for number, copy in enumerate(every):
        if stop.expired():
            break
        left = stop.remaining()
        share = first_share if number == 0 else 1 / (len(every) - number)
        until = stop.earlier(left * (1 - share))
        found.append([_undone(copy, candidate) for candidate in _candidates(copy, until)])
    return tuple(answer for query in range(len(task.test)) for answer in _ranked(query, found))


def _undone(copy: Copy, candidate: FoundProgram) -> FoundProgram:
    note = "" if copy.name == "plain" else f" [{copy.name}]"
    return FoundProgram(copy.undo(candidate.grids), candidate.program + note, candidate.cost, candidate.right)


def _ranked(query: int, found: Sequence[Sequence[FoundProgram]]) -> Iterator[ProgramAnswer]:
    """The best different answers to a query: right on more demonstrations first, then by cost less the bonus for agreement."""
    best: dict[bytes, FoundProgram] = {}
    finders: dict[bytes, set[int]] = {}
    for number, candidates in enumerate(found):
        for candidate in candidates:
            key = grid_key(candidate.grids[query])
            known = best.get(key)
            if known is None or candidate.right > known.right:
                best[key], finders[key] = candidate, {number}
            elif candidate.right == known.right:
                finders[key].add(number)
                if candidate.cost < known.cost:
                    best[key] = candidate
    agreement = {key: len(numbers) / len(found) for key, numbers in finders.items()}
    order = sorted(best, key=lambda key: (-best[key].right, best[key].cost - AGREEMENT_BONUS * agreement[key], key))
    for key in order[:MAX_ANSWERS]:
        candidate = best[key]
        grid = grid_from_key(key).copy()
        yield ProgramAnswer(query, grid, candidate.program, candidate.cost, candidate.exact, agreement[key])


def _candidates(copy: Copy, deadline: Deadline) -> Iterator[FoundProgram]:
    inputs = [*(pair.input for pair in copy.train), *copy.tests]
    outputs = [pair.output for pair in copy.train if pair.output is not None]
    present = {int(c) for grid in (*inputs, *outputs) for c in np.unique(grid)}
    search = Search(inputs, for_colours(present))
    shapes = shapes_by_formula(inputs, outputs)
    if shapes is not None and all(map(_is_larger, shapes, inputs)):
        search.start("canvas", [_on_canvas(grid, shape) for grid, shape in zip(inputs, shapes, strict=True)])
    for _ in search.run(MAX_COST, deadline.earlier((1 - SEARCH_SHARE) * max(deadline.remaining(), 0.0))):
        pass
    yield from _whole(search, outputs)
    if deadline.expired():
        return
    yield from mosaic_candidates(search, outputs, deadline)
    for likely in predict_shapes(search, inputs, outputs):
        pieces = make_pieces(search, likely, outputs, deadline)
        if pieces is None:
            return
        yield from pair_candidates(pieces, len(outputs), deadline)
        yield from overlay_candidates(pieces, len(outputs), deadline)
        yield from table_candidates(pieces, len(outputs), deadline)


def _is_larger(shape: tuple[int, int], grid: Grid) -> bool:
    return shape != grid.shape and shape[0] >= grid.shape[0] and shape[1] >= grid.shape[1]


def _on_canvas(grid: Grid, shape: tuple[int, int]) -> Grid:
    """The grid in the upper left corner of a canvas of the output's shape."""
    canvas = np.zeros(shape, np.uint8)
    canvas[: grid.shape[0], : grid.shape[1]] = grid
    return canvas


def _whole(search: Search, outputs: Sequence[Grid]) -> Iterator[FoundProgram]:
    """Values that are the outputs of all demonstrations, or of some."""
    nodes = search.nodes["grid"]
    goals = search.grids.add(Batch.of(outputs))
    content = search.grids.content.array
    right = (content[nodes.rows[:, : len(outputs)]] == content[goals]).mean(1)
    for node in np.lexsort((nodes.cost.array, -right))[:MAX_WHOLE]:
        if right[node] == 0:
            return
        grids = search.grids.batch(nodes.rows[node, len(outputs) :])
        answer = tuple(grids[i].copy() for i in range(len(grids)))
        yield FoundProgram(answer, search.program(int(node)), float(nodes.cost.array[node]), float(right[node]))
