"""Examples for test-time training: small tasks with a known answer, made only from the demonstrations of one task.

An example is a `Task` of some demonstrations and one test pair with its output. Sources: leave-one-out and
leave-two-out with the cap of Akyurek et al. 2024 (arXiv 2411.07279) and its published data code; n-1 and n-2
from the test-time fine-tuning of ironbar's ARC24 solution; whole demonstration sets under random views as in the
solutions of the ARChitects and NVARC, which is n-1 with a shuffled order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from solver.arc.augment import augment
from solver.arc.seeding import generator
from solver.arc.task import Pair, Task
from solver.arc.view import ColourMode, Transform, View, random_view
from solver.config import DataSettings

T = TypeVar("T")

PATIENCE = 200  # after so many repeated examples in a row the supply counts as used up


def ttt_examples(task: Task, settings: DataSettings, seed: int, count: int | None = None, start: int = 0) -> list[Task]:
    """Examples `start` to `start + count` (default: up to `settings.max_sequences`) of the stream of this task and seed.

    A second fit passes the number of examples already used as `start`, and so sees new ones. If the settings allow fewer
    different examples, fewer are given, and a `start` past the last continues at the first again. There is always at least one.
    """
    count = settings.max_sequences if count is None else count
    examples = list(islice(example_stream(task, settings, seed), start, start + count))
    if not examples and count:
        supply = list(islice(example_stream(task, settings, seed), start))
        examples = supply[start % len(supply) :][:count]
    return examples


def example_stream(task: Task, settings: DataSettings, seed: int) -> Iterator[Task]:
    """All examples in a fixed order, no two equal; usually endless. Test outputs of `task` are never looked at.

    - "loo": every leave-one-out split under each transform and augmenter, as it is and with colours and order permuted,
      shuffled; then the same of every leave-two-out split; then random views of the leave-one-out splits.
    - "n-1", "n-2": random views of the splits that leave one (two) out to predict one of them.
    - "e2e": random views of each pair alone, without demonstrations.

    A split that would show no demonstration is used only if there is no other. Without `augment` every grid stays as it is, so
    that examples differ in their split and the order of demonstrations alone.
    """
    if not settings.augment:
        settings = settings.model_copy(update={"transforms": ("identity",), "colours": "keep", "augmenters": ()})
    rng = generator(seed, task.id, "ttt")
    one, two = _leave_out(task, 1), _leave_out(task, 2)
    alone = [Task(task.id, (), (pair,)) for pair in task.train]
    if settings.scheme == "e2e":
        examples = _random(alone, settings, rng)
    elif settings.scheme == "n-2":
        examples = _random(two or alone, settings, rng)
    elif settings.scheme == "n-1":
        examples = _random(one or alone, settings, rng)
    else:
        examples = _systematic(one or alone, two, settings, rng)
    return _distinct(examples)


@dataclass(frozen=True)
class _Recipe:
    """How to present a split: first the augmenter, then the transform, then drawn colours and order if `permuted`."""

    split: Task
    transform: Transform
    augmenter: str | None
    permuted: bool

    def make(self, settings: DataSettings, rng: np.random.Generator) -> Task | None:
        """The example, or None if it would exceed 30x30."""
        shown = self.split if self.augmenter is None else augment(self.split, self.augmenter, rng)
        if shown is None:
            return None
        if not self.permuted:
            return View(self.transform).apply(shown)
        kept = settings.original_colours > 0 and rng.random() < settings.original_colours
        colours: ColourMode = "keep" if kept else settings.colours
        return random_view(rng, len(shown.train), (self.transform,), colours, settings.shuffle).apply(shown)


def _leave_out(task: Task, leave: int) -> list[Task]:
    """Every split that predicts one demonstration from the others but `leave` - 1 (`leave`: 1 or 2), if any are left to show."""
    pairs = task.train
    if len(pairs) <= leave:
        return []
    splits = []
    for i, pair in enumerate(pairs):
        others = [j for j in range(len(pairs)) if j != i]
        for dropped in [None] if leave == 1 else others:
            splits.append(Task(task.id, tuple(pairs[j] for j in others if j != dropped), (Pair(pair.input, pair.output),)))
    return splits


def _systematic(one: list[Task], two: list[Task], settings: DataSettings, rng: np.random.Generator) -> Iterator[Task | None]:
    for splits in (one, two):
        recipes = [
            _Recipe(split, transform, name, permuted)
            for split in splits
            for transform, name in (*((t, None) for t in settings.transforms), *(("identity", n) for n in settings.augmenters))
            for permuted in (False, True)
        ]
        for i in rng.permutation(len(recipes)):
            yield recipes[i].make(settings, rng)
    yield from _random(one, settings, rng)


def _random(splits: list[Task], settings: DataSettings, rng: np.random.Generator) -> Iterator[Task | None]:
    choices = (None, *settings.augmenters)
    for split, transform in zip(_deck(splits, rng), _deck(settings.transforms, rng), strict=False):
        yield _Recipe(split, transform, choices[int(rng.integers(len(choices)))], permuted=True).make(settings, rng)


def _deck(items: Sequence[T], rng: np.random.Generator) -> Iterator[T]:
    """Endless draws that use every item once before any comes again."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]


def _distinct(examples: Iterator[Task | None]) -> Iterator[Task]:
    seen: set[bytes] = set()
    wasted = 0
    for example in examples:
        if example is not None and (key := _key(example)) not in seen:
            seen.add(key)
            wasted = 0
            yield example
        elif (wasted := wasted + 1) >= PATIENCE:
            return


def _key(task: Task) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for pair in (*task.train, *task.test):
        key = pair.key()
        digest.update(len(key).to_bytes(4, "little") + key)
    return digest.digest()
