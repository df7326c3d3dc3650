"""The search over values, and what is made of them: shapes, pieces, tables, stacks, mosaics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from solver.programs import search as search_module
from solver.programs.batch import Batch, Layout
from solver.programs.components import components
from solver.programs.found_program import FoundProgram
from solver.programs.library import for_colours
from solver.programs.mosaics import mosaic_candidates
from solver.programs.overlays import overlay_candidates
from solver.programs.pieces import Pieces, make_pieces
from solver.programs.pool import GridLists, Grids
from solver.programs.search import Search
from solver.programs.sizes import predict_shapes
from solver.programs.tables import pair_candidates, table_candidates
from solver.types import NEVER, Deadline
from tests.programs.program_values import Ticks, grid, read, write

INPUTS = [grid(text) for text in ("120/000/003", "400/560/000", "070/008/100")]


def searched(texts: list[str], cost: int = 1) -> Search:
    search = Search([grid(text) for text in texts], for_colours(range(10)))
    assert list(search.run(cost, NEVER)) == list(range(1, cost + 1))
    return search


def programs(search: Search) -> list[str]:
    return [search.program(node) for node in range(len(search.nodes["grid"]))]


def pieces_of(search: Search, shapes: list[tuple[int, int]], outputs: list[str]) -> Pieces:
    pieces = make_pieces(search, tuple(shapes), [grid(text) for text in outputs], NEVER)
    assert pieces is not None
    return pieces


def cheapest(candidates: list[FoundProgram]) -> FoundProgram:
    return min(candidates, key=lambda candidate: candidate.cost)


def test_equal_grids_at_one_place_have_one_number() -> None:
    grids = Grids()
    numbers = grids.add(read("12/30 + 12/30 + 12/30@0,1 + 123/000"))
    assert numbers.tolist() == [0, 0, 1, 2]
    assert grids.content.array[0] == grids.content.array[1]
    assert write(grids.batch(np.array([2, 1]))) == "123/000 + 12/30@0,1"


def test_no_result_has_no_number() -> None:
    batch = read("0 + 5")
    assert Grids().add(batch.only(np.array([False, True]))).tolist() == [-1, 0]


def test_lists_are_told_apart_by_order_and_length() -> None:
    lists = GridLists()
    numbers = lists.add(np.array([1, 2, 2, 1, 1, 2, 7]), np.array([2, 2, 2, 0, 1]))
    assert numbers.tolist() == [0, 1, 0, -1, 2]
    assert lists.items(np.array([2, 0]))[0].tolist() == [7, 1, 2]


@pytest.mark.parametrize("neighbours", [4, 8])
def test_components_are_those_of_a_flood_fill(neighbours: int) -> None:
    rng = np.random.default_rng(neighbours)
    grids = [rng.integers(0, 3, (int(h), int(w))).astype(np.uint8) for h, w in rng.integers(1, 14, (12, 2))]
    parts = components(Batch.of(grids), neighbours)
    start = 0
    for cells in grids:
        labels = parts.of[start : start + cells.size].reshape(cells.shape)
        assert_flood_fill(cells, labels, neighbours)
        start += cells.size


def assert_flood_fill(cells: np.ndarray, labels: np.ndarray, neighbours: int) -> None:
    steps = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if (abs(r) + abs(c) == 1 or neighbours == 8) and (r, c) != (0, 0)]
    seen: set[tuple[int, int]] = set()
    used: set[int] = set()
    for place in zip(*np.nonzero(cells), strict=True):
        if place in seen:
            continue
        part, todo = {place}, [place]
        while todo:
            r, c = todo.pop()
            for down, right in steps:
                other = (r + down, c + right)
                inside = 0 <= other[0] < cells.shape[0] and 0 <= other[1] < cells.shape[1]
                if inside and other not in part and cells[other] == cells[place]:
                    part.add(other)
                    todo.append(other)
        seen |= part
        (label,) = {int(labels[p]) for p in part}
        assert label not in used
        used.add(label)
    assert (labels[cells == 0] == -1).all()


def test_two_programs_with_equal_values_are_one_node() -> None:
    search = searched(["12/12", "34/34"])
    assert "flip_ud" not in programs(search)  # the inputs are their own images
    rows = search.nodes["grid"].rows
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_programs_are_written_first_function_first() -> None:
    search = searched(["0120/0000/3330", "0500/0066/7700"], cost=2)
    found = {search.program(node, "list") for node in range(len(search.nodes["list"]))}
    assert "objects 4 > rot90" in found
    assert programs(search)[0] == "input"
    assert [name for name in programs(search) if name.startswith("objects 4 > ")]  # back to grids


def test_values_of_descriptions_are_the_start_of_nothing() -> None:
    search = searched(["12/03", "50/06"], cost=3)
    assert [name for name in programs(search) if " of objects " in name]
    assert not [name for name in programs(search) if " of objects " in name.rpartition(" > ")[0]]


def test_the_search_ends_at_the_deadline() -> None:
    clock = Ticks(0.001)
    search = Search(INPUTS, for_colours(range(10)))
    assert list(search.run(9, Deadline(0.3, clock))) == [1]
    assert clock.now == pytest.approx(0.3, abs=0.0015)  # the read that found the deadline is the last


def test_the_search_ends_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "MAX_NODES", 300)
    search = Search(INPUTS, for_colours(range(10)))
    assert list(search.run(9, NEVER)) == [1]
    assert search.full


def test_shapes_follow_from_the_inputs() -> None:
    outputs = [np.zeros((6, 4), np.uint8), np.zeros((4, 6), np.uint8)]
    inputs = [np.ones((3, 2), np.uint8), np.ones((2, 3), np.uint8), np.ones((5, 1), np.uint8)]
    search = Search(inputs, ())
    assert predict_shapes(search, inputs, outputs)[0] == ((6, 4), (4, 6), (10, 2))


def test_shapes_follow_from_values() -> None:
    texts = ["0000/0110/0010", "2000/0000", "0003/0330"]
    shapes = predict_shapes(searched(texts), [grid(text) for text in texts], [grid("00/00"), grid("0")])
    assert shapes[0] == ((2, 2), (1, 1), (2, 3))


def test_a_colour_map_is_learnt() -> None:
    search = searched(["12/30", "31/20", "23/10"], cost=1)
    pieces = pieces_of(search, [(2, 2)] * 3, ["45/60", "64/50"])
    best = cheapest(list(table_candidates(pieces, 2, NEVER)))
    assert (best.program, best.grids[0].tolist()) == ("colours of (input)", [[5, 6], [4, 0]])


def test_a_table_of_two_pieces_guesses_unseen_combinations_that_copy() -> None:
    # the output shows the left half where the right half is filled; the test has a new colour
    search = searched(["1233/4105", "3450/1255", "6705/7650"], cost=1)
    halves = [grid(text) for text in ("1233/4105", "3450/1255")]
    outputs = [np.where(g[:, 2:] > 0, g[:, :2], 0) for g in halves]
    pieces = pieces_of(search, [(2, 2)] * 3, ["/".join("".join(map(str, r)) for r in o.tolist()) for o in outputs])
    answers = [c.grids[0].tolist() for c in table_candidates(pieces, 2, NEVER)]
    assert [[0, 7], [7, 0]] in answers


def test_a_stack_shows_the_lower_piece_through_the_upper() -> None:
    search = searched(["120/000/000", "004/500/000", "060/700/000"], cost=1)
    outputs = ["121/000/000", "404/505/000"]
    pieces = pieces_of(search, [(3, 3)] * 3, outputs)
    best = cheapest(list(overlay_candidates(pieces, 2, NEVER)))
    assert best.program == "stack (input / flip_lr)"
    assert best.grids[0].tolist() == [[0, 6, 0], [7, 0, 7], [0, 0, 0]]


def test_a_mosaic_learns_what_every_block_shows() -> None:
    search = searched(["12/34", "05/67", "89/10"])
    outputs = [np.block([[g, g.T], [np.zeros_like(g), g[::-1]]]) for g in (grid("12/34"), grid("05/67"))]
    best = cheapest(list(mosaic_candidates(search, outputs, NEVER)))
    assert best.program == "mosaic of (input): identity transpose/blank flip_ud"
    assert best.grids[0].tolist() == [[8, 9, 8, 1], [1, 0, 9, 0], [0, 0, 1, 0], [0, 0, 8, 9]]


@pytest.mark.parametrize("finish", [table_candidates, overlay_candidates])
def test_joining_pieces_ends_at_the_deadline(finish: Callable[..., object]) -> None:
    search = searched(["1200/0030", "4500/0600"], cost=2)
    pieces = pieces_of(search, [(2, 4)] * 2, ["1203/0030"])
    clock = Ticks(0.01)
    list(finish(pieces, 1, Deadline(0.05, clock)))  # type: ignore[call-overload]
    assert clock.now < 0.3


def test_no_pieces_after_the_deadline() -> None:
    search = searched(["12", "34"])
    assert make_pieces(search, ((1, 2), (1, 2)), [grid("21")], Deadline(0.0, Ticks(1.0))) is None


def test_layouts_of_impossible_shapes_are_no_result() -> None:
    layout = Layout.limited(np.array([31, 2, 0]), np.array([2, 3, 5]))
    assert (layout.height.tolist(), layout.width.tolist()) == ([0, 2, 0], [0, 3, 0])


def test_programs_may_start_from_other_grids_than_the_inputs() -> None:
    search = Search([grid("12"), grid("3")], for_colours(range(10)))
    search.start("canvas", [grid("120/000"), grid("300")])
    assert list(search.run(2, NEVER)) == [1, 2]
    assert {"canvas", "canvas > flip_lr"} <= set(programs(search))


def test_all_pairs_of_cheap_pieces_are_tried() -> None:
    search = searched(["101/010/100", "011/110/001", "110/001/101"], cost=1)
    outputs = [np.kron(g, g) for g in (grid("101/010/100"), grid("011/110/001"))]
    pieces = pieces_of(search, [(9, 9)] * 3, ["/".join("".join(map(str, r)) for r in o.tolist()) for o in outputs])
    best = cheapest(list(pair_candidates(pieces, 2, NEVER)))
    assert best.program == "colours of (input > tiled | input > stretched)"
    assert np.array_equal(best.grids[0], np.kron(grid("110/001/101"), grid("110/001/101")))
