"""The tasks of an experiment: honest ones, on which no model of this package was trained.

- Tasks of the ARC-AGI training sets that are held out of every corpus by the hash of their id, as they are.
- Tasks of procedural families whose rule is held out.
- With a folder of corpora, fresh pairs of its held-out families.
- Or a named set or a file, to report.

A longer list of tasks begins with the shorter ones, so that rows of a small form count in a larger one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from solver.arc.datasets import load_tasks, sample_tasks
from solver.arc.grid import grid_key
from solver.arc.task import Pair, Task
from solver.errors import InputError
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.procedural import Procedural
from solver.pretrain.store import PairStore

MAX_DRAWS_OF_FAMILY = 12  # of a stored family
MAX_MISSES = 400  # families
PROCEDURAL = "procedural"
# names of the families of the ARC-AGI training sets (whose fresh pairs RE-ARC and ARC-GEN draw) and of ConceptARC: the most like
# evaluation tasks
LIKE_EVALUATION = r"[0-9a-f]{8}|[A-Z][A-Za-z0-9]*"
TRAINING_SETS = ("arc1:training", "arc2:training")
EVALUATION_SETS = ("arc1:evaluation", "arc2:evaluation")

Source = Iterator[tuple[str, list[Pair]]]  # the names of families, each with some of its pairs


def held_out_tasks(
    count: int, tokens: int, seed: int, corpus: Path | None = None, cache: Path = Path("runs/pretrain"), tests: int = 2
) -> list[Task]:
    """`count` held-out tasks of at most `tokens` grid tokens with one test input; the first ones are the same for every count.

    Every third is a task of the ARC-AGI training sets while there are any; the others are procedural and, with a `corpus`, of its
    families in turn. Drawn tasks have three or four demonstrations and up to `tests` test inputs. Raises InputError.
    """
    sources = [procedural(np.random.default_rng([seed, 1]), 4 + tests)]
    rng = np.random.default_rng(seed)
    if corpus is not None:
        sources.append(stored(corpus, cache, np.random.default_rng([seed, 2]), 4 + tests))
    drawn = drawn_tasks(tokens, rng, sources, tests)
    known = iter(training_tasks(tokens))
    tasks: list[Task] = []
    while len(tasks) < count:
        turn = known if len(tasks) % 3 == 2 else drawn
        task = next(turn, None) or next(drawn, None) or next(known, None)
        if task is None:
            break
        tasks.append(task)
    if not tasks:
        raise InputError(f"no held-out task has at most {tokens} grid tokens")
    return tasks


def training_tasks(tokens: int) -> list[Task]:
    """The held-out tasks of the ARC-AGI training sets of at most so many grid tokens, as they are, by the sha256 of their ids.

    Tasks that are also in an evaluation set are left out.
    """
    evaluation = {task.id for name in EVALUATION_SETS for task in load_tasks(name)}
    found = {
        task.id: task
        for name in TRAINING_SETS
        for task in load_tasks(name, need_answers=True)
        if held_out(task.id) and task.id not in evaluation and _tokens(task) <= tokens
    }
    return [found[id_] for id_ in sorted(found, key=lambda id_: hashlib.sha256(id_.encode()).digest())]


def draw_tasks(
    count: int, tokens: int, rng: np.random.Generator, sources: Sequence[Source], tests: int = 1, again: bool = True
) -> list[Task]:
    """The first `count` of `drawn_tasks`; fewer if the sources end."""
    return list(islice(drawn_tasks(tokens, rng, sources, tests, again), count))


def drawn_tasks(
    tokens: int, rng: np.random.Generator, sources: Sequence[Source], tests: int = 1, again: bool = True
) -> Iterator[Task]:
    """Tasks, drawn from the sources in turn until the sources end, or give MAX_MISSES families in a row without a task.

    A task has three or four demonstrations and up to `tests` tests, but at least one. With its first test alone it has at most
    `tokens` grid tokens. A stored family gives several tasks only if `again` is true.
    """
    turns = list(sources)
    given = misses = 0
    used: set[str] = set()
    while turns and misses < MAX_MISSES:
        misses += 1
        shown = int(rng.integers(3, 5))
        source = turns[given % len(turns)]
        family, pairs = next(source, ("", []))
        if not family:
            turns.remove(source)
        if len(pairs) <= shown or family in used:
            continue
        task = Task(f"{family}-{given:03}", tuple(pairs[:shown]), tuple(pairs[shown : shown + tests]))
        # a task whose demonstrations all have the same output does not show its rule
        shows_rule = len({grid_key(pair.output) for pair in task.train if pair.output is not None}) > 1
        if shows_rule and _tokens(task) <= tokens:
            given, misses = given + 1, 0
            used |= set() if again or family == PROCEDURAL else {family}
            yield task


def procedural(rng: np.random.Generator, pairs: int = 5) -> Source:
    """Procedural families of held-out rules without end, each with `pairs` pairs; all have the same name."""
    families = Procedural(Guard.against([]), held_out=True)
    while True:
        yield PROCEDURAL, families.pairs(rng, pairs)


def stored(
    corpus: Path,
    cache: Path,
    rng: np.random.Generator,
    pairs: int = 5,
    families: str = ".*",
    report: Callable[[str], None] = lambda _: None,
) -> Source:
    """Random held-out families of the ARC-AGI training sets and the corpora of a folder, each with up to `pairs` random pairs.

    `families` is a regular expression that their whole names match. It ends when every family was drawn MAX_DRAWS_OF_FAMILY
    times. Raises InputError for an unusable corpus.
    """
    from solver.pretrain.command import evaluation_guard, load_store

    store = load_store(corpus, cache, evaluation_guard(), report)
    chosen = store.select([held_out(name) and re.fullmatch(families, name) is not None for name in store.names])
    return _families(chosen, rng, pairs)


def _families(store: PairStore, rng: np.random.Generator, pairs: int) -> Source:
    left = dict.fromkeys(range(len(store)), MAX_DRAWS_OF_FAMILY)
    while left:
        family = int(rng.choice(list(left)))
        left[family] -= 1
        if not left[family]:
            del left[family]
        drawn = rng.permutation(list(store.family(family)))[:pairs]
        yield store.names[family].replace("/", " "), [Pair(*store.pair(int(pair))) for pair in drawn]


def named_tasks(source: str, count: int | None) -> list[Task]:
    """The tasks of a set or a file that have all their answers, by the sha256 of their ids: the first `count`, or all.

    Raises InputError if nothing can be scored.
    """
    every = load_tasks(source, need_answers=True)
    known = every.subset(task.id for task in every if all(pair.output is not None for pair in task.test))
    if not len(known):
        raise InputError(f"{source}: holds no task with all its answers, so nothing can be scored")
    chosen = known if count is None else sample_tasks(known, count)
    return sorted(chosen, key=lambda task: hashlib.sha256(task.id.encode()).digest())


def content_digest(tasks: Sequence[Task]) -> str:
    """A digest of ids, grids and answers, in order."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(_digest(task))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _digest(task: Task) -> bytes:
    return hashlib.sha256(json.dumps([task.id, task.to_json()], sort_keys=True).encode()).digest()


def count_facts(tasks: Sequence[Task]) -> str:
    """One line: why test inputs and tasks are counted apart."""
    several = sum(len(task.test) > 1 for task in tasks)
    inputs = sum(len(task.test) for task in tasks)
    if not several:
        return f"{_counted(len(tasks), 'task has', 'tasks have')} one test input each, so both counts are the same."
    more = f"of which {_counted(several, 'has', 'have')}" if several < len(tasks) else "each of which has"
    return (
        f"{inputs} test inputs belong to {_counted(len(tasks), 'task', 'tasks')}, {more} more than one. A test input "
        "counts as solved if one of two attempts is right, a task if all its test inputs are solved. So the two shares differ, "
        "and a result has to say which one it is."
    )


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _tokens(task: Task) -> int:
    """Grid tokens with the first test input alone."""
    return Task(task.id, task.train, task.test[:1]).grid_tokens()
