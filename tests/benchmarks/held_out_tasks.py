"""Random tasks of held-out families, on which no model of this package was trained, for benchmarks; never evaluation tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from solver.arc.grid import grid_key
from solver.arc.task import Pair, Task
from solver.pretrain.command import evaluation_guard, load_store
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.procedural import Procedural

MAX_DRAWS_OF_FAMILY = 12  # of a stored family
PROCEDURAL = "procedural"
# names of the families of the ARC-AGI training sets (whose fresh pairs RE-ARC and ARC-GEN draw) and of ConceptARC: the most like
# evaluation tasks
LIKE_EVALUATION = r"[0-9a-f]{8}|[A-Z][A-Za-z0-9]*"

Source = Iterator[tuple[str, list[Pair]]]  # the names of families, each with some of its pairs


def draw_tasks(
    count: int, tokens: int, rng: np.random.Generator, sources: list[Source], tests: int = 1, again: bool = True
) -> list[Task]:
    """`count` tasks, drawn from the sources in turn; fewer if the sources end.

    A task has three or four demonstrations and up to `tests` tests, but at least one. With its first test alone it has at most
    `tokens` grid tokens. A stored family gives several tasks only if `again` is true.
    """
    turns = list(sources)
    tasks: list[Task] = []
    used: set[str] = set()
    while turns and len(tasks) < count:
        shown = int(rng.integers(3, 5))
        source = turns[len(tasks) % len(turns)]
        family, pairs = next(source, ("", []))
        if not family:
            turns.remove(source)
        if len(pairs) <= shown or family in used:
            continue
        task = Task(f"{family}-{len(tasks):03}", tuple(pairs[:shown]), tuple(pairs[shown : shown + tests]))
        # a task whose demonstrations all have the same output does not show its rule
        shows_rule = len({grid_key(pair.output) for pair in task.train if pair.output is not None}) > 1
        if shows_rule and Task(task.id, task.train, task.test[:1]).grid_tokens() <= tokens:
            tasks.append(task)
            used |= set() if again or family == PROCEDURAL else {family}
    return tasks


def procedural(rng: np.random.Generator, pairs: int = 5) -> Source:
    """Procedural families without end, each with `pairs` pairs; all have the same name."""
    families = Procedural(Guard.against([]), held_out=True)
    while True:
        yield PROCEDURAL, families.pairs(rng, pairs)


def stored(corpus: Path, cache: Path, rng: np.random.Generator, pairs: int = 5, families: str = ".*") -> Source:
    """Random families of the ARC-AGI training sets and the corpora of a folder, each with up to `pairs` random pairs.

    `families` is a regular expression that their whole names match. It ends when every family was drawn MAX_DRAWS_OF_FAMILY
    times.
    """
    store = load_store(corpus, cache, evaluation_guard(), print)
    store = store.select([held_out(name) and re.fullmatch(families, name) is not None for name in store.names])
    left = dict.fromkeys(range(len(store)), MAX_DRAWS_OF_FAMILY)
    while left:
        family = int(rng.choice(list(left)))
        left[family] -= 1
        if not left[family]:
            del left[family]
        drawn = rng.permutation(list(store.family(family)))[:pairs]
        yield store.names[family].replace("/", " "), [Pair(*store.pair(int(pair))) for pair in drawn]
