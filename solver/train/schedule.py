"""The learning rate inside one fit: warm-up, constant, linear cool-down, and a clock that can bring the cool-down forward."""

from __future__ import annotations


def rate(share: float, warmup: float, cooldown: float) -> float:
    """The factor on the peak learning rate at `share` (0..1) of a fit: rises over `warmup`, falls to 0 over `cooldown`."""
    rising = share / warmup if warmup else 1.0
    falling = (1 - share) / cooldown if cooldown else 1.0
    return max(0.0, min(1.0, rising, falling))


def share_done(step: int, steps: int, elapsed: float, left: float) -> float:
    """How far a fit is before its step `step` (from 0): by steps or by seconds, whichever says more.

    Going by the seconds `left` as well makes a fit that the deadline will cut cool down before the cut.
    """
    by_steps = (step + 1) / (steps + 1)
    total = elapsed + max(left, 0.0)
    by_time = elapsed / total if total > 0 else 0.0
    return max(by_steps, by_time)
