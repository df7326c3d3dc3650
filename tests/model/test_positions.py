"""Cell positions against the grids that the ids came from."""

from __future__ import annotations

import numpy as np
import torch
from arc_strategies import tasks
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.task import Task
from solver.codec import grid_codec
from solver.model.positions import CellPositions, IndexPositions, Positions, from_start

CODEC = grid_codec()
CELLS = CellPositions((*CODEC.input_marker, *CODEC.output_marker), CODEC.newline)


def by_hand(task: Task) -> list[tuple[int, int, int]]:
    """The positions of the whole task, from its grids."""
    found = [(0, 0, 0)]
    grid = 0
    for pair in (*task.train, *task.test):
        for shown, ends in ((pair.input, False), (pair.output, True)):
            assert shown is not None
            grid += 1
            found.append((grid, 0, 0))
            for row, cells in enumerate(shown):
                if row:
                    found.append((grid, row, 0))
                found += [(grid, row, column) for column in range(1, len(cells) + 1)]
            if ends:
                found.append((grid, len(shown) - 1, shown.shape[1] + 1))
    return found


@given(tasks())
def test_positions_are_grid_row_and_column(task: Task) -> None:
    ids = torch.from_numpy(CODEC.sequence(task, 10_000).ids.astype(np.int64))
    assert [tuple(position) for position in from_start(CELLS, ids[None])[0].tolist()] == by_hand(task)


@given(
    ids=st.lists(st.lists(st.integers(0, 15), min_size=30, max_size=30), min_size=1, max_size=3),
    cuts=st.sets(st.integers(1, 29)),
    positions=st.sampled_from([CELLS, IndexPositions()]),
)
def test_a_sequence_can_be_read_in_pieces(ids: list[list[int]], cuts: set[int], positions: Positions) -> None:
    """Any ids, even such as no codec writes: a decoder without grammar may say anything."""
    whole = torch.tensor(ids)
    last = torch.tensor(positions.start).expand(len(ids), -1)
    pieces = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 30], strict=True):
        pieces.append(positions.follow(whole[:, start:end], last))
        last = pieces[-1][:, -1]
    assert torch.equal(torch.cat(pieces, 1), from_start(positions, whole))


def test_index_positions_count_tokens() -> None:
    assert from_start(IndexPositions(), torch.tensor([[11, 10, 12]])).tolist() == [[[0], [1], [2]]]
