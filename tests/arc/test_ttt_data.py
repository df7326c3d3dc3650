"""TTT examples: made from the demonstrations alone, distinct, repeatable, in the order the scheme promises."""

from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest
from arc_strategies import tasks
from hypothesis import given, settings
from hypothesis import strategies as st

from solver.arc.datasets import load_tasks
from solver.arc.grid import MAX_SIDE, grid_key
from solver.arc.task import Pair, Task
from solver.arc.ttt_data import example_stream, ttt_examples
from solver.arc.view import TRANSFORMS
from solver.config import DataSettings

PLAIN = DataSettings(transforms=("identity",), colours="keep", shuffle=False)


def grid(*cells: int) -> np.ndarray:
    return np.array([cells], dtype=np.uint8)


def task_of(n: int, id_: str = "task") -> Task:
    """`n` demonstrations that tell themselves apart by their length, which no view changes."""
    train = tuple(Pair(grid(*range(1, i + 2)), grid(*range(2, i + 3))) for i in range(n))
    return Task(id_, train, (Pair(grid(9, 9, 9, 9, 9, 9, 9, 9), grid(8)),))


def shown(example: Task) -> tuple[tuple[int, ...], int]:
    """Which demonstrations an example shows, in order, and which one it asks for."""
    return tuple(pair.input.size - 1 for pair in example.train), example.test[0].input.size - 1


def plain(scheme: str, n: int) -> list[tuple[tuple[int, ...], int]]:
    return [shown(e) for e in ttt_examples(task_of(n), replace_scheme(PLAIN, scheme), seed=0)]


def replace_scheme(data: DataSettings, scheme: str) -> DataSettings:
    return DataSettings.model_validate({**data.model_dump(), "scheme": scheme})


def splits(n: int, leave: int) -> set[tuple[tuple[int, ...], int]]:
    return {(rest, i) for i in range(n) for rest in combinations([j for j in range(n) if j != i], n - leave)}


def test_leave_one_out_comes_first_then_leave_two_out() -> None:
    found = plain("loo", 4)
    assert set(found[:4]) == splits(4, 1)
    assert set(found[4:]) == splits(4, 2)
    assert len(found) == 4 + 12


def test_the_other_schemes_without_views() -> None:
    assert set(plain("n-1", 4)) == splits(4, 1)
    assert set(plain("n-2", 4)) == splits(4, 2)
    assert set(plain("e2e", 4)) == {((), i) for i in range(4)}


@pytest.mark.parametrize("scheme", ["loo", "n-1", "n-2", "e2e"])
def test_a_single_demonstration_is_trained_on_directly(scheme: str) -> None:
    assert plain(scheme, 1) == [((), 0)]
    data = replace_scheme(DataSettings(), scheme)
    found = ttt_examples(task_of(1), data, seed=0, count=50)
    assert len(found) == 50
    assert all(shown(example) == ((), 0) for example in found)


def test_two_demonstrations() -> None:
    assert set(plain("loo", 2)) == {((0,), 1), ((1,), 0)}
    assert set(plain("n-2", 2)) == {((), 0), ((), 1)}


def test_loo_presents_each_split_under_each_transform_plain_and_permuted() -> None:
    square = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    task = Task("t", tuple(Pair((square + i).astype(np.uint8), square) for i in range(3)), (Pair(square, None),))
    found = ttt_examples(task, DataSettings(scheme="loo"), seed=0, count=3 * len(TRANSFORMS) * 2)
    assert all(len(example.train) == 2 for example in found)
    plain_outputs = [grid_key(e.test[0].output) for e in found if e.test[0].output is not None]
    # 8 unpermuted presentations of each of the 3 splits, whose output is always the same square
    turned = ttt_examples(task, DataSettings(scheme="loo", colours="keep", shuffle=False), seed=0, count=24)
    for key in {grid_key(e.test[0].output) for e in turned if e.test[0].output is not None}:
        assert plain_outputs.count(key) >= 3
    assert len(turned) == 24


def test_the_cap_and_what_fills_up_to_it() -> None:
    found = ttt_examples(task_of(3), DataSettings(scheme="loo"), seed=0)
    assert len(found) == DataSettings().max_sequences == 250
    kinds = [len(example.train) for example in found]
    first_two_out = kinds.index(1)
    last_two_out = len(kinds) - 1 - kinds[::-1].index(1)
    assert set(kinds[:first_two_out]) == {2}
    assert set(kinds[first_two_out : last_two_out + 1]) == {1}
    assert set(kinds[last_two_out + 1 :]) == {2}


def test_n_1_asks_for_each_demonstration_equally_often() -> None:
    found = ttt_examples(task_of(5), DataSettings(scheme="n-1"), seed=0, count=100)
    asked = [shown(example)[1] for example in found]
    assert [asked.count(i) for i in range(5)] == [20] * 5
    assert len({shown(example)[0] for example in found}) > 20  # orders vary


@settings(max_examples=25, deadline=None)
@given(
    task=tasks(max_side=4),
    scheme=st.sampled_from(["loo", "n-1", "n-2", "e2e"]),
    seed=st.integers(0, 99),
    augmenters=st.sampled_from([(), ("translate", "double_resolution", "rot90+reflect_down")]),
)
def test_promises_of_every_stream(task: Task, scheme: str, seed: int, augmenters: tuple[str, ...]) -> None:
    data = DataSettings.model_validate({"scheme": scheme, "augmenters": augmenters})
    found = ttt_examples(task, data, seed, count=30)
    assert found
    assert len(set(found)) == len(found)
    assert all(len(e.test) == 1 and e.test[0].output is not None and e.id == task.id for e in found)
    grids = [g for e in found for p in (*e.train, *e.test) for g in (p.input, p.output) if g is not None]
    assert max(side for g in grids for side in g.shape) <= MAX_SIDE
    assert found == ttt_examples(task, data, seed, count=30)
    if len(found) > 10:
        assert found[10:20] == ttt_examples(task, data, seed, count=10, start=10)
    assert found == list(islice(example_stream(task, data, seed), 30))


def test_without_augmentation_grids_stay_as_they_are() -> None:
    data = DataSettings(augment=False, augmenters=("translate",))
    shown_pairs = {pair for example in ttt_examples(task_of(4), data, seed=0) for pair in (*example.train, *example.test)}
    assert shown_pairs == set(task_of(4).train)
    orders = {shown(example) for example in ttt_examples(task_of(4), data, seed=0)}
    assert len(orders) == 4 * 6  # the order of demonstrations still varies
    same = replace_scheme(PLAIN, "loo").model_copy(update={"augment": False})
    assert plain("loo", 4) == [shown(example) for example in ttt_examples(task_of(4), same, seed=0)]


def test_a_share_of_the_examples_keeps_its_colours() -> None:
    task = task_of(4)
    colours = set(task.train[0].input.ravel()) | set(task.train[0].output.ravel())

    def kept(share: float) -> int:
        data = DataSettings(transforms=("identity",), colours="permute", original_colours=share)
        found = ttt_examples(task, data, seed=0, count=100)
        return sum(all(pair in task.train for pair in example.train) for example in found)

    assert colours == {1, 2}
    assert kept(0.0) < 5
    assert 10 <= kept(0.2) <= 24  # of the 24 orders at most, as no two examples are equal
    assert ttt_examples(task, DataSettings(), 0, 50) == ttt_examples(task, DataSettings(original_colours=0.0), 0, 50)


@settings(max_examples=15, deadline=None)
@given(task=tasks(max_side=3, max_train=3), other=tasks(max_side=3))
def test_test_pairs_are_never_looked_at(task: Task, other: Task) -> None:
    data = DataSettings(scheme="loo")
    found = ttt_examples(task, data, seed=0, count=20)
    assert found == ttt_examples(task.without_answers(), data, seed=0, count=20)
    assert found == ttt_examples(replace(task, test=other.test), data, seed=0, count=20)


def test_a_refit_sees_new_examples() -> None:
    first = ttt_examples(task_of(3), DataSettings(), seed=0, count=100)
    second = ttt_examples(task_of(3), DataSettings(), seed=0, count=100, start=100)
    assert not set(first) & set(second)
    assert len(second) == 100


def test_a_supply_that_is_used_up_begins_again() -> None:
    data = replace_scheme(PLAIN, "n-1")
    supply = ttt_examples(task_of(3), data, seed=0)
    assert len(supply) == 3
    assert ttt_examples(task_of(3), data, seed=0, start=2) == supply[2:]
    assert ttt_examples(task_of(3), data, seed=0, start=3) == supply
    assert ttt_examples(task_of(3), data, seed=0, start=7) == supply[1:]


def test_streams_differ_by_seed_and_by_task() -> None:
    base = ttt_examples(task_of(4), DataSettings(), seed=0, count=8)
    assert ttt_examples(task_of(4), DataSettings(), seed=1, count=8) != base
    assert [shown(e) for e in ttt_examples(task_of(4, "other"), DataSettings(), seed=0, count=8)] != [shown(e) for e in base]


def test_augmenters_that_never_fit_do_not_starve_the_stream() -> None:
    wide = np.zeros((1, 30), dtype=np.uint8)
    task = Task("t", (Pair(wide, wide), Pair(wide + 1, wide)), (Pair(wide, None),))
    for scheme in ("loo", "n-1"):
        data = DataSettings.model_validate(
            {"scheme": scheme, "colours": "permute", "augmenters": ("double_width", "repeat_right")}
        )
        assert len(ttt_examples(task, data, seed=0, count=40)) == 40


def test_real_tasks_have_enough_examples() -> None:
    for task in load_tasks("arc1:evaluation").tasks[:2]:
        for scheme in ("loo", "n-1", "n-2", "e2e"):
            assert len(ttt_examples(task, replace_scheme(DataSettings(), scheme), seed=0)) == 250
