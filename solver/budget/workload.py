"""How much work a pass over a task is, by phase: the numbers that its seconds are proportional to.

Counts are of the 16-token grid codec, whatever the model's own: a text codec writes a like multiple of every one of
them, and the rates of the cost model take that up. Only the sizes of grids are looked at, never what is in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solver.arc.task import Pair, Task
from solver.config import Settings

Numbers = NDArray[np.float64]
Amount = float | Numbers  # of one pass, or of several

_MARKERS = 2  # tokens around a grid
_LONGEST = 30 * 31  # tokens of the largest answer

# What the seconds of a phase are proportional to, each with a rate of its own. "squared": per sequence, tokens squared.
FEATURES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("task", "pair of a sequence", "pair of a sequence passed over", "token of a sequence", "pair of a prompt"),
    "fit": ("fit", "step", "token trained", "squared token trained"),
    "infer": ("task", "prompt token", "squared prompt token", "decoding pass", "answer token"),
    "score": ("task", "prompt token", "scored answer token"),
    "select": ("task",),
}
PHASES = tuple(FEATURES)  # of a pass over a task, in order


@dataclass(frozen=True)
class Circumstances:
    """What bears on the work of a pass beside its plan."""

    wave: Amount = 0  # a later pass passes over the sequences of those before
    length: float = 1.0  # tokens of an answer, over those that were to be expected
    candidates: float | None = None  # different grids that are scored for a query; None: as many as may be
    scored: float | None = None  # tokens of all answers scored, under all views; None: to be expected


FIRST = Circumstances()


@dataclass(frozen=True)
class TaskShape:
    """A task as its cost and its chances see it, in tokens, before any context cuts it short."""

    demonstrations: tuple[float, ...]  # tokens of each pair
    prompts: tuple[float, ...]  # tokens of the whole prompt of each test input, under one view
    answers: tuple[float, ...]  # tokens of each answer, as far as the demonstrations tell
    same_size: bool = True  # every output is as large as its input
    growth: float = 0.0  # mean natural logarithm of output over input cells

    @property
    def tokens(self) -> float:
        """Of all demonstrations and test inputs."""
        return sum(self.prompts) - (len(self.prompts) - 1) * sum(self.demonstrations)


def shape_of(task: Task) -> TaskShape:
    """The shape of a task; test outputs are not looked at."""
    pairs = tuple(_tokens(pair.input.shape) + _answer(pair) + 2 * _MARKERS for pair in task.train)
    growths = [math.log(pair.output.size / pair.input.size) for pair in task.train if pair.output is not None]
    growth = sum(growths) / len(growths) if growths else 0.0
    return TaskShape(
        demonstrations=pairs,
        prompts=tuple(sum(pairs) + _tokens(pair.input.shape) + _MARKERS for pair in task.test),
        answers=tuple(_expected_answer(task, pair, growth) for pair in task.test),
        same_size=all(pair.output is None or pair.output.shape == pair.input.shape for pair in task.train),
        growth=growth,
    )


def _tokens(shape: tuple[int, ...]) -> float:
    """Cells and row ends, the mean over a grid and its transpose."""
    rows, columns = shape
    return rows * columns + (rows + columns) / 2


def _answer(pair: Pair) -> float:
    return 0.0 if pair.output is None else _tokens(pair.output.shape)


def _expected_answer(task: Task, asked: Pair, growth: float) -> float:
    """Tokens of the answer to be expected: the one size all outputs have, or what the inputs grow or shrink by."""
    sizes = {pair.output.shape for pair in task.train if pair.output is not None}
    if len(sizes) == 1 and any(pair.input.shape not in sizes for pair in task.train):
        return _tokens(next(iter(sizes)))
    return min(_tokens(asked.input.shape) * math.exp(growth), _LONGEST)


class Sizes(NamedTuple):
    """What the work of any pass over a task depends on; all but pairs are tokens as the model sees them."""

    sequence: Amount  # of a training sequence
    pairs: Amount  # in a training sequence
    shown: Amount  # pairs in the prompts of all test inputs, under one view
    prompts: Amount  # of the prompts of all test inputs, under one view
    squared: Amount  # the same, squared one by one
    answers: Amount  # of all answers
    longest: Amount  # of the longest answer


def sizes_of(shape: TaskShape, settings: Settings) -> Sizes:
    """The sizes of a task under these settings."""
    shown, context = len(shape.demonstrations), settings.model.context
    share = {"e2e": 1 / shown, "n-2": max(1, shown - 1) / shown}.get(settings.data.scheme, 1.0)
    prompts = [min(prompt, context) for prompt in shape.prompts]
    return Sizes(
        sequence=min(sum(shape.demonstrations) * share, context),
        pairs=shown * share,
        shown=float(len(prompts) * (shown + 1)),
        prompts=float(sum(prompts)),
        squared=float(sum(length**2 for length in prompts)),
        answers=sum(shape.answers),
        longest=max(shape.answers),
    )


def in_column(sizes: Sequence[Sizes]) -> Sizes:
    """The sizes of several tasks, each (tasks, 1): with arrays of plans they give a row for each task."""
    return Sizes(*np.array(sizes, float).T[:, :, None])


def amounts(
    sizes: Sizes, settings: Settings, steps: Amount, views: Amount, samples: Amount, circumstances: Circumstances = FIRST
) -> dict[str, tuple[Amount, ...]]:
    """Features by phase of a pass with so many `steps` and `views`, or of several: numbers and arrays that broadcast."""
    train, infer = settings.train, settings.infer
    several = isinstance(steps, np.ndarray) or isinstance(sizes.answers, np.ndarray)
    least, most = (np.minimum, np.maximum) if several else (min, max)  # for single numbers these take a tenth of the time
    answer = sizes.answers * circumstances.length
    candidates = infer.score_candidates if circumstances.candidates is None else circumstances.candidates
    sequences = steps * train.batch_sequences
    made = least(sequences, settings.data.max_sequences)
    pairs = made * sizes.pairs
    trained = sequences * sizes.sequence
    asked = views * sizes.prompts
    scored = views * answer * candidates if circumstances.scored is None else circumstances.scored
    # all views of all queries are answered side by side, a token of each in a pass
    passes = least(views, 1.0) * sizes.longest * circumstances.length
    found: dict[str, tuple[Amount, ...]] = {
        "prepare": (1.0, pairs, pairs * most(circumstances.wave, 0), made * sizes.sequence, views * sizes.shown),
        "fit": (least(steps, 1.0), steps, trained, trained * sizes.sequence),
        "infer": (1.0, asked, views * sizes.squared, passes, views * samples * answer),
        "score": (1.0, asked, scored),
        "select": (1.0,),
    }
    if not infer.score:
        del found["score"]
    return found
