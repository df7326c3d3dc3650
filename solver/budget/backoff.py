"""Backing off: a failed pass is tried again with a smaller batch, fewer views or a shorter context, as it may have lacked memory.

Every new try halves one more of the three, in this order and then from the beginning. A smaller batch costs only speed, fewer
views cost votes, and a shorter context costs demonstrations of the longest tasks.
"""

from __future__ import annotations

from dataclasses import replace

from solver.config import Settings
from solver.types import WorkItem

MIN_BATCH = 64  # tokens
MIN_CONTEXT = 256  # tokens


def smaller_settings(settings: Settings, halvings: int) -> Settings:
    """The settings of a worker after so many halvings. The optimizer steps stay the same; only micro-batches get smaller."""
    batch, _, context = shares(halvings)
    train, infer, model = settings.train, settings.infer, settings.model
    return settings.model_copy(
        update={
            "train": train.model_copy(update={"batch_tokens": _halve(train.batch_tokens, batch, MIN_BATCH)}),
            "infer": infer.model_copy(update={"batch_tokens": _halve(infer.batch_tokens, batch, MIN_BATCH)}),
            "model": model.model_copy(update={"context": _halve(model.context, context, MIN_CONTEXT)}),
        }
    )


def smaller_item(item: WorkItem) -> WorkItem:
    """The item with the views that its halvings leave."""
    _, views, _ = shares(item.halvings)
    if not views:
        return item
    works = (replace(work, plan=replace(work.plan, views=_halve(work.plan.views, views, 1))) for work in item.tasks)
    return replace(item, tasks=tuple(works))


def shares(halvings: int) -> tuple[int, int, int]:
    """How often batch, views and context are each halved if there are `halvings` in all."""
    return (halvings + 2) // 3, (halvings + 1) // 3, halvings // 3


def describe(halvings: int) -> str:
    """What so many halvings leave of batch, views and context, in words for the ledger."""
    names = [f"{name} / {2**times}" for name, times in zip(("batch", "views", "context"), shares(halvings), strict=True) if times]
    return ", ".join(names) or "nothing halved"


def _halve(value: int, times: int, least: int) -> int:
    return max(min(value, least), value >> times)
