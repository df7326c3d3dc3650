"""The work of a pass over a task, by phase: the amounts that its seconds are proportional to.

Tokens are those of the 16-token grid codec for every model. A text codec writes about the same multiple of each amount, which the
rates of the cost model include. Only the sizes of grids matter, never their cells.
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

# The features of each phase; every feature has a rate of its own. "squared": per sequence, tokens squared.
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
    """What changes the work of a pass besides its plan."""

    wave: Amount = 0  # a later pass first skips the sequences of the passes before it
    length: float = 1.0  # tokens of an answer, relative to those expected
    candidates: float | None = None  # distinct grids that are scored for a query; None: as many as the settings allow
    scored: float | None = None  # tokens of all scored answers, over all views; None: unknown, so estimated


FIRST = Circumstances()


@dataclass(frozen=True)
class TaskShape:
    """The sizes of a task that its cost and its gains depend on, in tokens, before any context limits them."""

    demonstrations: tuple[float, ...]  # tokens of each pair
    prompts: tuple[float, ...]  # tokens of the whole prompt of each test input, under one view
    answers: tuple[float, ...]  # tokens of each answer, estimated from the demonstrations
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
    """Expected tokens of the answer: by the one size that all outputs have, else by the growth from input to output."""
    sizes = {pair.output.shape for pair in task.train if pair.output is not None}
    if len(sizes) == 1 and any(pair.input.shape not in sizes for pair in task.train):
        return _tokens(next(iter(sizes)))
    return min(_tokens(asked.input.shape) * math.exp(growth), _LONGEST)


class Sizes(NamedTuple):
    """The sizes that the work of every pass over a task depends on, in tokens after the context's limit; `pairs` are counts."""

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
    """The sizes of several tasks as columns (tasks, 1), which broadcast with arrays of plans to a row for each task."""
    return Sizes(*np.array(sizes, float).T[:, :, None])


def amounts(
    sizes: Sizes, settings: Settings, steps: Amount, views: Amount, samples: Amount, circumstances: Circumstances = FIRST
) -> dict[str, tuple[Amount, ...]]:
    """The features of a pass by phase, or of several passes: the arguments are numbers, or arrays that broadcast."""
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
    features: dict[str, tuple[Amount, ...]] = {
        "prepare": (1.0, pairs, pairs * most(circumstances.wave, 0), made * sizes.sequence, views * sizes.shown),
        "fit": (least(steps, 1.0), steps, trained, trained * sizes.sequence),
        "infer": (1.0, asked, views * sizes.squared, passes, views * samples * answer),
        "score": (1.0, asked, scored),
        "select": (1.0,),
    }
    if not infer.score:
        del features["score"]
    return features
