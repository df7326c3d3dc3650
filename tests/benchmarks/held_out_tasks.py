"""Tasks of families that no model of ours was trained on, drawn at random for benchmarks and sweeps; never an evaluation task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from solver.arc.grid import grid_key
from solver.arc.task import Pair, Task
from solver.pretrain.command import evaluation_guard, load_store
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.procedural import Procedural

MOST_OF_FAMILY = 12  # times a stored one is drawn
PROCEDURAL = "procedural"

Source = Iterator[tuple[str, list[Pair]]]  # a family's name and some of its pairs, their outputs known


def draw_tasks(
    count: int, tokens: int, rng: np.random.Generator, sources: list[Source], tests: int = 1, again: bool = True
) -> list[Task]:
    """Tasks of three or four demonstrations and one test, up to `tests` where there are pairs left, of the sources in turn.

    None has more than so many grid tokens with its first test. Unless families may come `again`, each gives one task, except
    that all procedural ones have one name. Fewer come back where the sources end.
    """
    turns = list(sources)
    found: list[Task] = []
    used: set[str] = set()
    while turns and len(found) < count:
        shown = int(rng.integers(3, 5))
        source = turns[len(found) % len(turns)]
        family, pairs = next(source, ("", []))
        if not family:
            turns.remove(source)
        if len(pairs) <= shown or family in used:
            continue
        task = Task(f"{family}-{len(found):03}", tuple(pairs[:shown]), tuple(pairs[shown : shown + tests]))
        # demonstrations whose outputs are all the same leave open what the test is about
        told = len({grid_key(pair.output) for pair in task.train if pair.output is not None}) > 1
        if told and Task(task.id, task.train, task.test[:1]).grid_tokens() <= tokens:
            found.append(task)
            used |= set() if again or family == PROCEDURAL else {family}
    return found


def procedural(rng: np.random.Generator, pairs: int = 5) -> Source:
    """So many pairs of one family after the other, without end."""
    families = Procedural(Guard.against([]), held_out=True)
    while True:
        yield PROCEDURAL, families.pairs(rng, pairs)


def stored(corpus: Path, cache: Path, rng: np.random.Generator, pairs: int = 5) -> Source:
    """So many random pairs of random families of the ARC training sets and the corpora of a folder, of none too often."""
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
