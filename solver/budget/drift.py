"""How much slower or faster a machine is just now than it usually is: neighbours, heat and power come and go in minutes.

Rates of work are learnt over dozens of passes, so that one of them tells little; but what slows one phase slows all, and the next
pass most likely finds the machine as the last one left it.
"""

from __future__ import annotations

import math

SHARE = 0.3  # of the newest pass in the average: on real runs 0.15 to 0.5 did about as well
MOST = 0.7  # of the logarithm of one pass: a pause of the machine says nothing about its speed


class Drift:
    """An exponential moving average of log(used / predicted) over whole passes."""

    def __init__(self) -> None:
        self._log = 0.0

    @property
    def factor(self) -> float:
        """What predictions are to be multiplied by."""
        return math.exp(self._log)

    def add(self, predicted: float, used: float) -> None:
        """Take in the seconds of a pass beside what the learnt rates say its work takes; nothing, if either is not positive."""
        if predicted > 0 and used > 0:
            newest = max(-MOST, min(MOST, math.log(used / predicted)))
            self._log += SHARE * (newest - self._log)
