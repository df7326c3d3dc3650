"""The learning rate inside one fit: warm-up, constant, linear cool-down. The cool-down begins earlier if time runs short."""

from __future__ import annotations

TINY = 20_000_000  # weights; models below this have rates of their own
# peak rates by size: (the model has fewer weights than this, rate), for LoRA of rank 32 and alpha 16. embedded-base: on held-out
# tasks answers are more probable after fits at 2e-3 and 1.5e-3 than at 5e-3, and as many tasks or more are solved
# (docs/measurements.md). embedded-mid: 1e-3 was only compared with 5e-3.
_SMALL_RATES = ((10_000_000, 2e-3), (TINY, 1e-3))
_LR = 1e-4  # for larger models; Akyurek et al. 2024 (arXiv 2411.07279): 5e-5 to 1e-4 by model, for LoRA on 1B-8B


def peak_lr(wanted: float | None, parameters: int) -> float:
    """The peak learning rate: the setting `wanted`, or the default for a model of this number of weights."""
    if wanted is not None:
        return wanted
    return next((small for limit, small in _SMALL_RATES if parameters < limit), _LR)


def rate(share: float, warmup: float, cooldown: float) -> float:
    """The factor (0 to 1) on the peak rate when `share` of the fit is done: it rises over `warmup`, and falls over `cooldown`.

    All three are shares of the fit, 0 to 1.
    """
    rising = share / warmup if warmup else 1.0
    falling = (1 - share) / cooldown if cooldown else 1.0
    return max(0.0, min(1.0, rising, falling))


def share_done(step: int, steps: int, elapsed: float, left: float) -> float:
    """The share of a fit that is done before step number `step` (from 0): by steps or by seconds, whichever is larger.

    Because the seconds `left` count as well, a fit that the deadline will cut has cooled down by then.
    """
    by_steps = (step + 1) / (steps + 1)
    total = elapsed + max(left, 0.0)
    by_time = elapsed / total if total > 0 else 0.0
    return max(by_steps, by_time)
