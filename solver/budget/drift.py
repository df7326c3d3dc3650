"""How much slower or faster work is just now than learnt rates say, on a machine whose neighbours, heat and power come and go.

Rates of work are learnt over dozens of passes, so that one of them tells little; but what slows one phase slows all, and the next
pass most likely finds the machine as the last one left it. A phase by itself changes more slowly, with what tasks are like: as
they grow longer, drafts are right more often or less.
"""

from __future__ import annotations

import math

SHARE = 0.3  # of the newest pass in the average, for whole passes: on real runs 0.15 to 0.5 did about as well
PHASE_SHARE = 0.1  # the same for one phase alone, whose seconds scatter more: 0.05 to 0.15 did about as well
MOST = 0.7  # of the logarithm of one pass: a pause of the machine says nothing about its speed


class Drift:
    """An exponential moving average of log(used / predicted)."""

    def __init__(self, share: float = SHARE) -> None:
        """`share` of the newest pass in the average."""
        self._share = share
        self._log = 0.0

    @property
    def factor(self) -> float:
        """What predictions are to be multiplied by."""
        return math.exp(self._log)

    def add(self, predicted: float, used: float) -> None:
        """Take in the seconds of a pass beside what the learnt rates say its work takes; nothing, if either is not positive."""
        if predicted > 0 and used > 0:
            newest = max(-MOST, min(MOST, math.log(used / predicted)))
            self._log += self._share * (newest - self._log)
