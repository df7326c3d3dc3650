"""How many tokens sequences and prompts may have where a task has more demonstrations than the time of a pass allows.

A pass whose time ends within its first optimizer step, or before an answer, has cost everything and brought nothing. With fewer
demonstrations at once, another draw of them in each sequence, the same time makes steps and answers.
"""

from __future__ import annotations

from dataclasses import replace

from solver.budget.costs import CostModel
from solver.budget.workload import TaskShape
from solver.types import TaskPlan

LEAST_STEPS = 8  # optimizer steps that a shortened pass is to have time for
LEAST_TOKENS = 512
LEAST_PAIRS = 2  # demonstrations that fit, the largest ones
CAUTION = 2.0  # times what is predicted from no measurement


def token_limit(costs: CostModel, shape: TaskShape, plan: TaskPlan, seconds: float, context: int, wave: int = 0) -> int | None:
    """Tokens of a sequence or a prompt at most, for a pass of `seconds` over a task; None: as many as the `context` takes.

    There is a limit only if the answers after a single optimizer step are predicted to take longer than that: half of the
    context, or of the task if it is shorter, halved until a few steps fit.
    """

    def fits(shape: TaskShape, steps: int) -> bool:
        predicted = costs.seconds(shape, replace(plan, steps=min(steps, plan.steps)), wave)
        return predicted * (1.0 if costs.measured else CAUTION) <= seconds

    if fits(shape, 1):
        return None
    least = max(LEAST_TOKENS, LEAST_PAIRS * max(shape.demonstrations) + max(shape.prompts) - sum(shape.demonstrations))
    limit: int | None = None
    tokens = min(context, int(max(shape.prompts))) // 2
    while tokens >= least:
        limit = tokens
        if fits(shortened(shape, tokens), LEAST_STEPS):
            break
        tokens //= 2
    return limit


def shortened(shape: TaskShape, limit: int | None) -> TaskShape:
    """The shape of a task of which a sequence or a prompt shows as many demonstrations as fit `limit` tokens; None: all."""
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
