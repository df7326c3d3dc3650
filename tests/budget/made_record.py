"""A made-up record: tasks whose luck is drawn once, and solved as soon as their chance exceeds it."""

from __future__ import annotations

import numpy as np

from solver.budget.gains import PRIOR, Gains
from solver.budget.replay import Found, RecordedTask, Rung
from solver.budget.workload import TaskShape

RUNGS = (0, 15, 30, 60, 120, 240)


def prior_gains() -> Gains:
    """The gains by the means of the prior alone."""
    return Gains({name: mean for name, (mean, _) in PRIOR.items()})


def shape(tokens: float, pairs: int = 3, same_size: bool = True) -> TaskShape:
    each = tokens / (pairs + 0.5)
    return TaskShape((each,) * pairs, (tokens,), (each / 2,), same_size)


def made_task(number: int, rng: np.random.Generator, gains: Gains | None = None, token_seconds: float = 4e-4) -> RecordedTask:
    gains = gains or prior_gains()
    tokens = float(np.exp(rng.uniform(np.log(150), np.log(2500))))
    form = shape(tokens, int(rng.integers(2, 6)), bool(rng.random() < 0.6))
    luck, sure, wrong = rng.random(), rng.random(), rng.random()
    rungs = []
    for place, steps in enumerate(RUNGS):
        fitted = steps - RUNGS[max(place - 1, 0)]
        seconds = {"prepare": 0.02, "fit": fitted * 4 * tokens * token_seconds, "infer": tokens * 3e-3, "score": tokens * 5e-4}
        rungs.append(Rung(steps, fitted, seconds))

    def found(passes: tuple[tuple[int, int], ...]) -> Found:
        best = max(float(gains.chance(form, np.array(RUNGS[rung]), np.array(views), 1)) for rung, views in passes)
        if best > luck:
            return Found(1.0, 1.0 if best * (0.3 + 0.7 * sure) > luck else 0.5 + 0.4 * sure)
        return Found(0.0, 0.6 * wrong * min(1.0, best / luck) + 0.125)

    return RecordedTask(f"made{number:03}", int(tokens), form, tuple(rungs), 8, 1, found)


def made_record(count: int, seed: int = 0) -> list[RecordedTask]:
    rng = np.random.default_rng(seed)
    return [made_task(number, rng) for number in range(count)]
