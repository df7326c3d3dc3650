"""Balances labelled samples, so that a verifier learns which solution of a problem is right, not only how hard the problem is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from solver.errors import InputError
from solver.verify.samples import Sample, SampleSet


def balanced(samples: SampleSet, seed: int) -> SampleSet:
    """As many right as wrong samples of every problem, and as many samples of it as before: some are repeated, some left out.

    Problems whose samples all have one label are left out, because nothing is learnt from them about which solution is right.
    Which sample is repeated or left out is drawn from `seed`. Raises InputError if no problem has both.
    """
    rng = Random(seed)
    problems, chosen = [], list[Sample]()
    for problem, mine in zip(samples.problems, samples.by_problem().values(), strict=True):
        right, wrong = ([one for one in mine if one.correct is label] for label in (True, False))
        if right and wrong:
            problems.append(problem)
            half = len(mine) // 2
            chosen += [*_drawn(right, len(mine) - half, rng), *_drawn(wrong, half, rng)]
    if not chosen:
        raise InputError("no problem has both right and wrong samples: give more samples, or train without balance")
    return replace(samples, problems=tuple(problems), samples=tuple(chosen))


def _drawn(samples: Sequence[Sample], count: int, rng: Random) -> list[Sample]:
    """`count` samples: each as often as the others, or once more."""
    order = rng.sample(samples, len(samples))
    return [order[n % len(order)] for n in range(count)]
