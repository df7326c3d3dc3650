"""Regression of seconds on amounts of work: positive rates and their uncertainty, from few measurements with heavy tails.

Seconds are modelled as `exp(c + e) * sum_j rate_j * exp(d_j) * amount_j`: a prior rate for each kind of work, a factor `c`
for all of them together (a machine is slower than expected), a factor `d_j` for each, and an error `e` that follows
Student's t with 4 degrees of freedom (so that a pause of the machine hardly changes its rates). The factors have normal
priors, so one measurement changes all rates, and many separate them. The most probable factors are found by Gauss-Newton
on reweighted squares (Lange, Little and Taylor 1989, Robust Statistical Modeling Using the t Distribution); their
uncertainty is Laplace's approximation. Rates stay positive, so predictions rise with the amounts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

FREEDOM = 4.0  # degrees of freedom of the errors
KEPT = 96  # measurements, the newest
HALF_LIFE = 48.0  # measurements after which one counts half, as machines warm up and get neighbours
SHORTEST = 1e-4  # seconds: shorter times measure the clock and the scheduler, and count as this
_NOISE, _NOISE_WEIGHT = 0.1, 4.0  # the relative error assumed before any measurement, and how many measurements that counts as
_ROUNDS = 12
_T95 = 2.132  # 95 % of Student's t with 4 degrees of freedom lie below


@dataclass(frozen=True)
class Spread:
    """How wrong prior rates may be: standard deviations of natural logarithms."""

    common: float  # of the factor for all rates
    own: float  # of the factor of each rate


# Any stored profile may be wrong by a factor of ten: the machine may be busy, or the code may have changed. So the first pass
# decides how fast the machine is. A profile of the same machine and model tells the rates relative to each other.
WRONG_BY_TEN = 2.3
WEAK = Spread(common=WRONG_BY_TEN, own=1.2)  # for another machine or model
STRONG = Spread(common=WRONG_BY_TEN, own=0.2)
SURE = Spread(common=0.4, own=0.2)  # for rates that were measured in this run, or that come from such


class Regression:
    """The rates of one phase. Deterministic: the same measurements in the same order give the same predictions."""

    def __init__(self, rates: Sequence[float], spread: Spread) -> None:
        """`rates` are seconds per unit of each feature, >= 0 (0: the feature costs nothing) and at least one of them positive."""
        self._prior = np.asarray(rates, dtype=float)
        if not (self._prior.any() and np.isfinite(self._prior).all() and (self._prior >= 0).all()):
            raise ValueError(f"prior rates {list(rates)}: not all finite and >= 0, or none positive")
        self._precision = np.array([spread.common**-2, *[spread.own**-2] * len(self._prior)])
        self._seen: deque[tuple[tuple[float, ...], float]] = deque(maxlen=KEPT)
        self.count = 0
        self._due = 0
        self._factors = np.zeros(len(self._prior) + 1)
        self._rates: tuple[float, ...] = tuple(self._prior.tolist())
        self._covariance: list[list[float]] = np.diag(1 / self._precision).tolist()
        self._noise = _NOISE

    @property
    def rates(self) -> tuple[float, ...]:
        """The current estimate: seconds per unit of each feature."""
        self._refit()
        return self._rates

    def add(self, amounts: Sequence[float], seconds: float) -> None:
        """Take in a measurement. It is ignored if it has no work, or a value that is not finite."""
        amounts = tuple(map(float, amounts))
        if not (math.isfinite(seconds) and all(map(math.isfinite, amounts))) or sum(map(mul, self._rates, amounts)) <= 0:
            return
        self._seen.append((amounts, math.log(max(seconds, SHORTEST))))
        self.count += 1

    def median(self, amounts: Sequence[float]) -> float:
        """Seconds that are exceeded as often as not, for one amount of each feature."""
        return float(sum(map(mul, amounts, self.rates)))

    def medians(self, amounts: Sequence[float | Numbers]) -> Numbers:
        """The same for arrays of amounts that broadcast."""
        return np.asarray(sum(map(mul, amounts, self.rates)))

    def upper(self, amounts: Sequence[float]) -> float:
        """Seconds that are exceeded one time in twenty, for one amount of each feature."""
        parts = list(map(mul, amounts, self.rates))
        if (median := sum(parts)) <= 0:
            return 0.0
        slopes = [1.0, *(part / median for part in parts)]
        variance = sum(slope * sum(map(mul, row, slopes)) for slope, row in zip(slopes, self._covariance, strict=True))
        return float(median * math.exp(_T95 * math.sqrt(variance + self._noise**2)))

    def _refit(self) -> None:
        """Fit again if it is due: after every measurement at first, later whenever there are a sixth more."""
        if self.count < self._due or not self.count:
            return
        amounts = np.array([amounts for amounts, _ in self._seen])
        logs = np.array([log for _, log in self._seen])
        age = np.arange(len(logs))[::-1]
        recency = 0.5 ** (age / HALF_LIFE)
        self._settle(amounts, logs, recency)
        self._due = self.count + 1 + self.count // 6

    def _settle(self, amounts: Numbers, logs: Numbers, recency: Numbers) -> None:
        factors = self._start(amounts, logs)
        noise, seen = self._noise, float(recency.sum())
        slopes = np.ones((len(logs), len(factors)))  # of the logarithm of the seconds by the factors
        held = np.diag(self._precision)
        for _ in range(_ROUNDS):
            parts = amounts * (self._prior * np.exp(factors[0] + factors[1:]))
            total = parts.sum(axis=1)
            slopes[:, 1:] = parts / total[:, None]
            errors = logs - np.log(total)
            weights = recency * (FREEDOM + 1) / (FREEDOM + (errors / noise) ** 2)
            weighted = weights * errors
            noise = math.sqrt((_NOISE_WEIGHT * _NOISE**2 + float(weighted @ errors)) / (_NOISE_WEIGHT + seen))
            curvature = (slopes.T * weights) @ slopes / noise**2 + held
            gradient = weighted @ slopes / noise**2 - self._precision * factors
            step = np.linalg.solve(curvature, gradient)
            largest = float(np.abs(step).max())
            factors = factors + step * min(1.0, 1.0 / largest if largest else 1.0)
            if largest < 1e-3:
                break
        covariance = np.linalg.inv(curvature)
        self._factors, self._covariance = factors, covariance.tolist()
        self._rates = tuple((self._prior * np.exp(factors[0] + factors[1:])).tolist())
        # the factors explain a part of the errors they are fitted to, so the errors that are left are too small
        taken = len(self._precision) - float(np.diag(covariance) @ self._precision)
        self._noise = noise * math.sqrt((_NOISE_WEIGHT + seen) / (_NOISE_WEIGHT + max(seen - taken, 0.0)))

    def _start(self, amounts: Numbers, logs: Numbers) -> Numbers:
        """The factors that the rounds begin with: those of the last fit, or at first a median factor, which no outlier moves."""
        if self._due:
            return self._factors
        factors = np.zeros(len(self._prior) + 1)
        factors[0] = np.median(logs - np.log(amounts @ self._prior))
        return factors
