"""The tasks of experiments: held out of training, never of an evaluation set, and the same first ones for every count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_helpers import make_tasks, write_challenges

from solver.arc.datasets import load_tasks
from solver.errors import InputError
from solver.experiments.tasks import (
    content_digest,
    count_facts,
    draw_tasks,
    held_out_tasks,
    named_tasks,
    procedural,
    training_tasks,
)
from solver.pretrain.guard import held_out

EVALUATION = {task.id for name in ("arc1:evaluation", "arc2:evaluation") for task in load_tasks(name)}


def test_training_tasks_are_held_out_and_of_no_evaluation_set() -> None:
    tasks = training_tasks(10_000)
    assert len(tasks) > 20
    assert len({task.id for task in tasks}) == len(tasks)
    assert not EVALUATION & {task.id for task in tasks}
    assert all(held_out(task.id) and all(pair.output is not None for pair in task.test) for task in tasks)
    short = training_tasks(600)
    assert 0 < len(short) < len(tasks)
    assert short == [task for task in tasks if task.query(0).grid_tokens() <= 600]


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    few, more = held_out_tasks(2, 900, 0), held_out_tasks(5, 900, 0)
    assert more[:2] == few
    assert len({task.id for task in more}) == 5
    for task in more:
        assert task.query(0).grid_tokens() <= 900
        assert all(pair.output is not None for pair in task.test)
    assert [held_out(task.id) for task in more if len(task.id) == 8] == [True]
    assert held_out_tasks(2, 900, 1) != few


def test_no_task_is_so_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.experiments.tasks.MAX_MISSES", 3)
    with pytest.raises(InputError, match="at most 5 grid tokens"):
        held_out_tasks(2, 5, 0)


def test_sources_are_drawn_in_turn_and_a_family_once() -> None:
    rng = np.random.default_rng(0)
    name, pairs = next(procedural(rng))
    assert (name, len(pairs)) == ("procedural", 5)
    families = iter([("a", pairs), ("a", pairs), ("b", pairs[:2]), ("c", pairs)])
    assert [task.id for task in draw_tasks(9, 10_000, rng, [families], again=False)] == ["a-000", "c-001"]


def test_named_tasks_are_those_with_answers_in_a_fixed_order(tmp_path: Path) -> None:
    few, more = named_tasks("arc1:evaluation", 3), named_tasks("arc1:evaluation", 10)
    assert more[:3] == few
    assert len(named_tasks("arc1:evaluation", None)) == 400
    with pytest.raises(InputError, match="nothing can be scored"):
        named_tasks(str(write_challenges(tmp_path / "c.json", make_tasks(2))), None)


def test_both_counts_are_explained() -> None:
    line = count_facts(list(load_tasks("arc1:evaluation")))
    assert line.startswith("419 test inputs belong to 400 tasks, of which 19 have more than one.")
    assert "one test input each" in count_facts(list(make_tasks(3)))


def test_a_digest_depends_on_answers_and_order() -> None:
    one, two = make_tasks(2)
    assert content_digest([one, two]) != content_digest([two, one])
    assert content_digest([one]) != content_digest([one.without_answers()])
    assert content_digest([one]) == content_digest([make_tasks(2).tasks[0]])
