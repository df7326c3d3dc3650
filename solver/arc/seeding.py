"""Random generators that are seeded by names, so that the same run makes the same draws on every machine."""

import hashlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """An independent stream for each seed and names, e.g. `generator(0, task.id, "views")`."""
    text = "\0".join((str(seed), *names))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "little"))
