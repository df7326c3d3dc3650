"""The learning rate inside one fit: warm-up, constant, linear cool-down, and a clock that can bring the cool-down forward."""

from __future__ import annotations

TINY = 20_000_000  # weights; smaller models launch little work a step, and are fitted at other rates
# (weights below which, rate), for LoRA of rank 32 and alpha 16. embedded-base: on held-out tasks 2e-3 and 1.5e-3 leave answers
# more probable than 5e-3 and solve as many or more (docs/measurements.md). embedded-mid: 1e-3 was compared with 5e-3 alone.
_SMALL_RATES = ((10_000_000, 2e-3), (TINY, 1e-3))
_LR = 1e-4  # Akyurek et al. 2024 (arXiv 2411.07279): 5e-5 to 1e-4 by model, for LoRA on 1B-8B


def peak_lr(wanted: float | None, parameters: int) -> float:
    """The peak learning rate: the one asked for, else one that suits a model of so many weights."""
    if wanted is not None:
        return wanted
    return next((small for limit, small in _SMALL_RATES if parameters < limit), _LR)


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
