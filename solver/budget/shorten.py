"""Shortening: how many tokens a sequence or prompt may have if a pass has no time for all demonstrations of its task at once.

A pass whose time ends within its first optimizer step, or before an answer, brings nothing. With fewer demonstrations in a
sequence (each sequence draws others) the same time suffices for steps and answers.
"""

from __future__ import annotations

from dataclasses import replace

from solver.budget.costs import CostModel
from solver.budget.workload import TaskShape
from solver.types import TaskPlan

MIN_STEPS = 8  # optimizer steps that a shortened pass is to have time for
MIN_TOKENS = 512
MIN_PAIRS = 2  # demonstrations of the task's largest size that always have room
CAUTION = 2.0  # factor on predictions before anything was measured


def token_limit(costs: CostModel, shape: TaskShape, plan: TaskPlan, seconds: float, context: int, wave: int = 0) -> int | None:
    """The most tokens of a sequence or prompt, for a pass of `seconds` over a task; None: only the `context` limits them.

    There is a limit only if a single optimizer step and the answers are predicted to take longer than `seconds`. It begins at
    half of the context, or of the task if that is shorter, and is halved until `MIN_STEPS` steps fit.
    """

    def fits(shape: TaskShape, steps: int) -> bool:
        predicted = costs.seconds(shape, replace(plan, steps=min(steps, plan.steps)), wave)
        return predicted * (1.0 if costs.measured else CAUTION) <= seconds

    if fits(shape, 1):
        return None
    least = max(MIN_TOKENS, MIN_PAIRS * max(shape.demonstrations) + max(shape.prompts) - sum(shape.demonstrations))
    limit: int | None = None
    tokens = min(context, int(max(shape.prompts))) // 2
    while tokens >= least:
        limit = tokens
        if fits(shortened(shape, tokens), MIN_STEPS):
            break
        tokens //= 2
    return limit


def shortened(shape: TaskShape, limit: int | None) -> TaskShape:
    """The shape of a task if only the last demonstrations that fit into `limit` tokens are shown; None: all are."""
    if limit is None:
        return shape
    room = limit - (max(shape.prompts) - sum(shape.demonstrations))
    kept: list[float] = []
    for tokens in reversed(shape.demonstrations):
        if kept and tokens > room:
            break
        kept.insert(0, tokens)
        room -= tokens
    dropped = sum(shape.demonstrations) - sum(kept)
    return replace(shape, demonstrations=tuple(kept), prompts=tuple(prompt - dropped for prompt in shape.prompts))
