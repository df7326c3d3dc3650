"""How much work a pass over a task is, by phase: the numbers that its seconds are proportional to.

Counts are of the 16-token grid codec, whatever the model's own: a text codec writes a like multiple of every one of
them, and the rates of the cost model take that up. Only the sizes of grids are looked at, never what is in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solver.arc.task import Pair, Task
from solver.config import Settings

Numbers = NDArray[np.float64]

_MARKERS = 2  # tokens around a grid
_LONGEST = 30 * 31  # tokens of the largest answer

# What the seconds of a phase are proportional to, each with a rate of its own. "squared": per sequence, tokens squared.
FEATURES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("task", "token of a sequence", "token of a sequence passed over", "prompt token"),
    "fit": ("fit", "step", "token trained", "squared token trained"),
    "infer": ("task", "prompt token", "squared prompt token", "answer token", "drafted answer token"),
    "score": ("task", "prompt token", "scored answer token"),
    "select": ("task",),
}
PHASES = tuple(FEATURES)  # of a pass over a task, in order


@dataclass(frozen=True)
class Circumstances:
    """What bears on the work of a pass beside its plan."""

    wave: int = 0  # a later pass passes over the sequences of those before
    length: float = 1.0  # tokens of an answer, over those that were to be expected
    candidates: float | None = None  # different grids that are scored for a query; None: as many as may be


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


def amounts(
    shape: TaskShape,
    settings: Settings,
    steps: Numbers,
    views: Numbers,
    samples: float,
    circumstances: Circumstances = FIRST,
) -> dict[str, Numbers]:
    """Features by phase, (..., features of the phase), of passes with so many `steps` and `views` (arrays of one shape)."""
    train, infer, context = settings.train, settings.infer, settings.model.context
    shown = len(shape.demonstrations)
    share = {"e2e": 1 / shown, "n-2": max(1, shown - 1) / shown}.get(settings.data.scheme, 1.0)
    sequence = min(sum(shape.demonstrations) * share, context)
    prompts = [min(prompt, context) for prompt in shape.prompts]
    prompt, squared = sum(prompts), sum(length**2 for length in prompts)
    answer = sum(shape.answers) * circumstances.length
    candidates = infer.score_candidates if circumstances.candidates is None else circumstances.candidates
    steps, views = np.broadcast_arrays(np.asarray(steps, float), np.asarray(views, float))
    one = np.ones_like(steps)
    sequences = steps * train.batch_sequences
    made = np.minimum(sequences, settings.data.max_sequences) * sequence
    trained = sequences * sequence
    fitted = (steps > 0).astype(float)
    asked = views * prompt
    # the first view of a query is written token by token, the others read what it found, many tokens a pass
    written = np.minimum(views, 1.0) * answer
    drafted = np.maximum(views * samples - 1.0, 0.0) * answer
    scored = views * answer * candidates
    found = {
        "prepare": (one, made, made * max(circumstances.wave, 0), asked),
        "fit": (fitted, steps, trained, trained * sequence),
        "infer": (one, asked, views * squared, written, drafted),
        "score": (one, asked, scored),
        "select": (one,),
    }
    if not infer.score:
        del found["score"]
    return {phase: _joined(parts, steps.shape) for phase, parts in found.items()}


def _joined(parts: tuple[Numbers, ...], shape: tuple[int, ...]) -> Numbers:
    """As numpy.stack along a new last axis, in a fifth of the time for small arrays."""
    joined = np.empty((*shape, len(parts)))
    for place, part in enumerate(parts):
        joined[..., place] = part
    return joined
