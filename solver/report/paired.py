"""Compares two ways of answering on the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """How a first way compares with a second one on `total` problems."""

    total: int
    better: int  # problems that only the first way solves
    worse: int  # problems that only the second way solves

    @staticmethod
    def of(first: Sequence[bool], second: Sequence[bool]) -> Paired:
        """From what each way solved, problem by problem."""
        pairs = list(zip(first, second, strict=True))
        return Paired(len(pairs), sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))

    @property
    def difference(self) -> float:
        """The share solved by the first way less that of the second, -1 to 1; 0 without problems."""
        return (self.better - self.worse) / self.total if self.total else 0.0

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, by the normal approximation for paired shares."""
        if not self.total:
            return -1.0, 1.0
        variance = (self.better + self.worse) / self.total - self.difference**2
        reach = 1.96 * math.sqrt(max(0.0, variance) / self.total)
        return max(-1.0, self.difference - reach), min(1.0, self.difference + reach)

    def p(self) -> float:
        """The two-sided p of the exact sign test (McNemar's test in its exact form): could the difference be chance?"""
        discordant, fewer = self.better + self.worse, min(self.better, self.worse)
        tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
        return min(1.0, 2 * tail / 2**discordant)

    def text(self) -> str:
        """One phrase: the difference in points with its interval, the discordant problems, p and n."""
        low, high = self.interval()
        points = f"{100 * self.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        return f"{points}, {self.better} better, {self.worse} worse, p = {self.p():.2g}, n = {self.total}"


@dataclass(frozen=True)
class PairedShares:
    """How a first way compares with a second one on problems whose results are shares, 0 to 1: the means over several seeds, say.

    Every problem counts once, however many seeds it was tried with.
    """

    apart: tuple[float, ...]  # by problem: the share of the first way less that of the second

    @staticmethod
    def of(first: Sequence[float], second: Sequence[float]) -> PairedShares:
        """From the shares of each way, problem by problem."""
        return PairedShares(tuple(a - b for a, b in zip(first, second, strict=True)))

    @property
    def signs(self) -> Paired:
        """The problems on which the first way is better or worse."""
        return Paired(len(self.apart), sum(one > 0 for one in self.apart), sum(one < 0 for one in self.apart))

    @property
    def difference(self) -> float:
        """The mean difference, -1 to 1; 0 without problems."""
        return sum(self.apart) / len(self.apart) if self.apart else 0.0

    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference over problems, also for few of them (Agresti and Min 2005).

        Half a problem is added to each of the four outcomes of two ways that solve a problem or do not.
        """
        if not self.apart:
            return -1.0, 1.0
        total = len(self.apart) + 2
        middle = sum(self.apart) / total
        variance = (sum(one * one for one in self.apart) + 1) / total - middle**2
        reach = 1.96 * math.sqrt(variance / total)
        return max(-1.0, middle - reach), min(1.0, middle + reach)

    def p(self) -> float:
        """The two-sided p of the exact sign test over problems."""
        return self.signs.p()
