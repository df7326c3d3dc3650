"""A generator's samples of a task that a tiny model learns in seconds: end with a digit of the upper half."""

from __future__ import annotations

import numpy as np

from solver.codec import grid_codec
from solver.verify.samples import Problem, Sample, SampleSet

CODEC = grid_codec()


def digit_samples(generator: str, problems: int, each: int, seed: int = 0) -> SampleSet:
    """Each question is a digit, each solution two digits. The answer says in which half the last one is, and "high" is right."""
    rng = np.random.default_rng(seed)
    asked, samples = [], []
    for number in range(problems):
        digit = int(rng.integers(10))
        problem = Problem(f"p{number}", (*CODEC.begin, CODEC.input_marker[0], digit, CODEC.output_marker[0]), "high")
        asked.append(problem)
        for _ in range(each):
            ids = (int(rng.integers(10)), int(rng.integers(10)), CODEC.end)
            right = ids[1] >= 5
            text, answer = f"{ids[0]}{ids[1]}", "high" if right else "low"
            samples.append(Sample(problem.id, text, ids, -3.0 * float(rng.random()), answer, right))
    return SampleSet(generator, tuple(asked), tuple(samples))
