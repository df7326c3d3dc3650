"""What the phases after a fit have cost so far, and how much time to keep for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

MARGIN = 1.25  # predictions are exceeded as often as not


class PhaseCost:
    """Seconds per prompt token of a phase, from the last few items."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=4)

    def measured(self, seconds: float, tokens: int) -> None:
        """Add one measurement; `tokens` are those of prompts that were answered, not of those the deadline cut."""
        if tokens:
            self._rates.append(seconds / tokens)

    @property
    def rate(self) -> float | None:
        """The slowest of them, to be careful; None before the first."""
        return max(self._rates, default=None)


def keep_for(phases: Sequence[PhaseCost], tokens: int, left: float, prior: float, most: float) -> float:
    """Seconds of the `left` to keep for phases over so many prompt tokens: what they cost, or a share before that is known."""
    if left <= 0:
        return 0.0
    rates = [phase.rate for phase in phases]
    known = [rate for rate in rates if rate is not None]
    return min(MARGIN * sum(known) * tokens, most * left) if len(known) == len(rates) else prior * left
