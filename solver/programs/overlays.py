"""Stacks of pieces: the output as a few pieces on top of each other, where colour 0 of an upper piece lets the lower ones show.

Greedy set cover from each of the most promising first pieces: of the pieces that paint no uncovered cell of a demonstration
wrongly, the one that paints most of them rightly is added, until the outputs are complete.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from solver.programs.found_program import FoundProgram
from solver.programs.pieces import Pieces
from solver.types import Deadline

MAX_STACK = 5
STARTS = 24
MAX_CHOICE = 1500  # pieces, the cheapest
LAYER_COST = 1.0  # of every piece after the first


def overlay_candidates(pieces: Pieces, demonstrations: int, deadline: Deadline) -> Iterator[FoundProgram]:
    """Stacks of two to MAX_STACK pieces that give all demonstrations."""
    target, known = pieces.target, pieces.known[:MAX_CHOICE]
    painted = known != 0
    equal = known == target
    right, wrong = (painted & equal).astype(np.float32), (painted & ~equal).astype(np.float32)
    needed = (target != 0).astype(np.float32)
    seen: set[tuple[int, ...]] = set()
    for first in _best(right, wrong, np.ones(len(target), np.float32), pieces.cost, STARTS):
        stack = _complete(pieces, int(first), right, wrong, needed)
        if stack and len(stack) > 1 and stack not in seen:
            seen.add(stack)
            cells = np.zeros(pieces.cells.shape[1] - len(target), np.uint8)
            for piece in reversed(stack):
                layer = pieces.cells[piece, len(target) :]
                cells = np.where(layer != 0, layer, cells)
            cost = float(sum(pieces.cost[list(stack)])) + LAYER_COST * (len(stack) - 1)
            names = " / ".join(pieces.name(p) for p in stack)
            yield FoundProgram(tuple(pieces.tests(cells, demonstrations)), f"stack ({names})", cost, 1.0)
        if deadline.expired():
            return


def _best(right: np.ndarray, wrong: np.ndarray, open_cells: np.ndarray, cost: np.ndarray, count: int) -> np.ndarray:
    """The pieces that paint most open cells rightly and none wrongly, the cheaper first if equal."""
    gain = right @ open_cells
    usable = np.flatnonzero((wrong @ open_cells == 0) & (gain > 0))
    return usable[np.lexsort((cost[usable], -gain[usable]))[:count]]


def _complete(pieces: Pieces, first: int, right: np.ndarray, wrong: np.ndarray, needed: np.ndarray) -> tuple[int, ...] | None:
    stack = [first]
    open_cells = (pieces.known[first] == 0).astype(np.float32)
    while (open_cells * needed).any():
        best = _best(right, wrong, open_cells, pieces.cost, 1)
        if not len(best) or len(stack) == MAX_STACK:
            return None
        stack.append(int(best[0]))
        open_cells *= pieces.known[stack[-1]] == 0
    return tuple(stack)
