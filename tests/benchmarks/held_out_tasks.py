"""Tasks of families that no model of ours was trained on, drawn at random for benchmarks and sweeps; never an evaluation task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from solver.arc.datasets import load_tasks
from solver.arc.grid import grid_key
from solver.arc.task import Pair, Task
from solver.pretrain.command import evaluation_guard, load_store
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.procedural import Procedural

MOST_OF_FAMILY = 12  # tasks

Source = Iterator[tuple[str, list[Pair]]]  # a family's name and some of its pairs, their outputs known


def sources(rng: np.random.Generator, corpus: Path | None, cache: Path, pairs: int = 5) -> list[Source]:
    """Held-out families without end of our own, and those of a folder of corpora; so many pairs of each at a time."""
    return [_procedural(rng, pairs), *([_stored(corpus, cache, rng, pairs)] if corpus is not None else [])]


def draw_tasks(count: int, tokens: int, rng: np.random.Generator, turns: list[Source], tests: int = 1) -> list[Task]:
    """Tasks of three or four demonstrations and one test, up to `tests` where there are pairs left, of the sources in turn.

    None has more than so many grid tokens with its first test.
    """
    turns = list(turns)
    found: list[Task] = []
    while len(found) < count:
        shown = int(rng.integers(3, 5))
        source = turns[len(found) % len(turns)]
        family, pairs = next(source, ("", []))
        if not family:
            turns.remove(source)
        if len(pairs) <= shown:
            continue
        task = Task(f"{family}-{len(found):03}", tuple(pairs[:shown]), tuple(pairs[shown : shown + tests]))
        # demonstrations whose outputs are all the same leave open what the test is about
        told = len({grid_key(pair.output) for pair in task.train if pair.output is not None}) > 1
        if told and Task(task.id, task.train, task.test[:1]).grid_tokens() <= tokens:
            found.append(task)
    return found


def arc_training(rng: np.random.Generator) -> Source:
    """All pairs of each held-out ARC-AGI-1 training task, in random order."""
    tasks = [task for task in load_tasks("arc1:training") if held_out(task.id)]
    for place in rng.permutation(len(tasks)):
        task = tasks[int(place)]
        pairs = [*task.train, *task.test]
        yield task.id, [pairs[int(i)] for i in rng.permutation(len(pairs))]


def _procedural(rng: np.random.Generator, pairs: int) -> Source:
    """Pairs of one family after the other."""
    families = Procedural(Guard.against([]), held_out=True)
    while True:
        yield "procedural", families.pairs(rng, pairs)


def _stored(corpus: Path, cache: Path, rng: np.random.Generator, pairs: int) -> Source:
    """Random pairs of random families of the corpora, of none too often."""
    store = load_store(corpus, cache, evaluation_guard(), print)
    store = store.select([held_out(name) for name in store.names])
    left = dict.fromkeys(range(len(store)), MOST_OF_FAMILY)
    while left:
        family = int(rng.choice(list(left)))
        left[family] -= 1
        if not left[family]:
            del left[family]
        drawn = rng.permutation(list(store.family(family)))[:pairs]
        yield store.names[family].replace("/", " "), [Pair(*store.pair(int(pair))) for pair in drawn]
