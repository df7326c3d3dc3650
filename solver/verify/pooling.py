"""From the values of a solution's tokens to the score of the solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]  # (tokens,) floats, one token at least


def last(values: Values) -> float:
    """The value after the last token, which is the end token of a finished solution."""
    return float(values[-1])


def mean(values: Values) -> float:
    """The mean over all tokens."""
    return float(np.mean(values, dtype=np.float64))


def least(values: Values) -> float:
    """The smallest value of all tokens: a solution is as good as its worst step."""
    return float(np.min(values))


def product(values: Values) -> float:
    """The logarithm of the product of all values, each of which is first brought between 1e-6 and 1.

    The logarithm ranks as the product does, which for long solutions is too small a number.
    """
    return float(np.log(np.clip(np.asarray(values, dtype=np.float64), 1e-6, 1.0)).sum())


POOLINGS: Mapping[str, Callable[[Values], float]] = {"last": last, "mean": mean, "min": least, "product": product}


def pool(name: str, values: Values) -> float:
    """The score of a solution by the pooling of that name; minus infinity for a solution without tokens. Raises KeyError."""
    return POOLINGS[name](values) if len(values) else float("-inf")
