"""ARC's candidate grids as samples of a verifier, and the selection rule that ranks them by it.

A problem is a test input with its demonstrations, as the model that answered read it; a solution is a candidate grid. The
verifier reads them under several views, and the score of a candidate is the mean over the views.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.tally import Tally, program_rank
from solver.arc.task import Task
from solver.arc.view import TRANSFORMS, View
from solver.codec import Codec, TooLong
from solver.types import Deadline
from solver.verify.pooling import pool
from solver.verify.samples import Problem, Sample
from solver.verify.verifier import Verifier


def views(count: int) -> list[View]:
    """The first `count` views under which candidates are judged: the 8 dihedral transforms, colours and order as they are."""
    return [View(transform) for transform in TRANSFORMS[:count]]


def grid_problem(
    codec: Codec, context: int, task: Task, query: int, view: View, grids: Sequence[Grid], reference: str = ""
) -> Problem | None:
    """A test input of a task under a view; None if it does not fit the context with the longest grid."""
    room = max(map(codec.answer_tokens, (view.apply_grid(grid) for grid in grids)))
    try:
        prompt = codec.prompt(view.apply(task.query(query)), 0, context, room)
    except TooLong:
        return None
    return Problem(f"{task.id}/{query}/{view.transform}", tuple(int(id_) for id_ in prompt.ids), reference)


def grid_samples(
    codec: Codec, context: int, task: Task, query: int, tally: Tally, answer: Grid, under: Sequence[View]
) -> Iterable[tuple[Problem, list[Sample]]]:
    """The distinct candidates of a test input under each view, labelled by its known answer.

    The log-probability of a sample is the highest with which the grid was found.
    """
    grids = [group.grid for group in tally.grids.values()]
    reference = text_of(answer)
    for view in under:
        problem = grid_problem(codec, context, task, query, view, grids, reference)
        if problem is None:
            continue
        samples = [
            Sample(
                problem.id,
                text_of(group.grid),
                tuple(int(id_) for id_ in codec.encode_answer(view.apply_grid(group.grid))),
                group.votes.best,
                text_of(group.grid),
                np.array_equal(group.grid, answer),
            )
            for group in tally.grids.values()
        ]
        yield problem, samples


def text_of(grid: Grid) -> str:
    """A grid as text: digits, rows joined by a slash."""
    return "/".join("".join(map(str, row)) for row in grid.tolist())


class GridJudge:
    """Scores candidate grids of test inputs."""

    def __init__(self, verifier: Verifier, count: int = 1, pooling: str = "last") -> None:
        """`count` views are asked, 1 to 8."""
        self._verifier, self._views, self._pooling = verifier, views(count), pooling

    def scores(self, task: Task, query: int, grids: Sequence[Grid], deadline: Deadline) -> dict[bytes, float]:
        """The mean score of every grid, by its key. Empty if the test input does not fit, or the deadline came first."""
        codec, found = self._verifier.base.codec, []
        context = self._verifier.base.context
        for view in self._views:
            problem = grid_problem(codec, context, task, query, view, grids)
            if problem is None:
                continue
            answers = [codec.encode_answer(view.apply_grid(grid)) for grid in grids]
            values = self._verifier.values(np.array(problem.prompt, dtype=np.int32), answers, deadline)
            if values is None:
                return {}
            found.append([pool(self._pooling, one) for one in values])
        if not found:
            return {}
        means = np.mean(np.array(found), axis=0)
        return {grid_key(grid): float(mean) for grid, mean in zip(grids, means, strict=True)}


def by_scores(tally: Tally, scores: Mapping[bytes, float]) -> list[Grid]:
    """The candidates by falling score. Ties and grids without a score: those of the network by votes, then those of programs."""
    ranked = sorted(all_grids(tally).items(), key=lambda item: -scores.get(item[0], float("-inf")))  # stable: keeps the order
    return [grid for _, grid in ranked]


def all_grids(tally: Tally) -> dict[bytes, Grid]:
    """Every distinct grid by its key: those of the network by falling votes, then those that programs alone gave, best first."""
    programs = sorted(tally.programs, key=lambda key: program_rank(tally.programs[key]))
    of_network = {key: tally.grids[key].grid for *_, key in tally.ranks}
    return of_network | {key: grid_from_key(key) for key in programs if key not in of_network}
