"""Drift: how much slower or faster the machine works just now than the learnt rates say.

Rates are learnt over dozens of passes, so they follow a change slowly. But neighbours, heat and power limits slow down all phases
at once, and the next pass most likely runs on a machine as fast as the last one did. So one factor follows the whole passes
quickly. Each phase has a further factor that follows slowly, because its cost also changes with the tasks: as they grow longer,
for instance, more or fewer of the drafted tokens are right.
"""

from __future__ import annotations

import math

SHARE = 0.3  # of the newest pass in the average, over whole passes; on real runs anything from 0.15 to 0.5 did about as well
PHASE_SHARE = 0.1  # the same for one phase alone, whose seconds scatter more; 0.05 to 0.15 did about as well
MAX_LOG = 0.7  # of log(used / predicted) that one pass can add: a machine that paused for a while is not slow


class Drift:
    """An exponential moving average of log(used / predicted)."""

    def __init__(self, share: float = SHARE) -> None:
        """`share` is the weight of the newest pass in the average."""
        self._share = share
        self._log = 0.0

    @property
    def factor(self) -> float:
        """The factor by which predictions have to be multiplied."""
        return math.exp(self._log)

    def add(self, predicted: float, used: float) -> None:
        """Take in the seconds a pass used, and the seconds that the learnt rates give. Ignored unless both are positive."""
        if predicted > 0 and used > 0:
            newest = max(-MAX_LOG, min(MAX_LOG, math.log(used / predicted)))
            self._log += self._share * (newest - self._log)
