"""What a pass that failed, perhaps for lack of memory, gives up when it is tried again: batch, then views, then context.

The n-th try halves one more of the three, in this order and then round again. Smaller batches cost speed alone, fewer views
some votes, a shorter context demonstrations of the longest tasks.
"""

from __future__ import annotations

from dataclasses import replace

from solver.config import Settings
from solver.types import WorkItem

LEAST_BATCH = 64  # tokens
LEAST_CONTEXT = 256  # tokens


def smaller_settings(settings: Settings, halvings: int) -> Settings:
    """The settings of a worker after so many halvings: the same optimizer steps, in smaller batches."""
    batch, _, context = shares(halvings)
    train, infer, model = settings.train, settings.infer, settings.model
    return settings.model_copy(
        update={
            "train": train.model_copy(update={"batch_tokens": _halve(train.batch_tokens, batch, LEAST_BATCH)}),
            "infer": infer.model_copy(update={"batch_tokens": _halve(infer.batch_tokens, batch, LEAST_BATCH)}),
            "model": model.model_copy(update={"context": _halve(model.context, context, LEAST_CONTEXT)}),
        }
    )


def smaller_item(item: WorkItem) -> WorkItem:
    """The item with as many views as its halvings leave."""
    _, views, _ = shares(item.halvings)
    if not views:
        return item
    works = (replace(work, plan=replace(work.plan, views=_halve(work.plan.views, views, 1))) for work in item.tasks)
    return replace(item, tasks=tuple(works))


def shares(halvings: int) -> tuple[int, int, int]:
    """How often batch, views and context are halved, of `halvings` in all."""
    return (halvings + 2) // 3, (halvings + 1) // 3, halvings // 3


def describe(halvings: int) -> str:
    """The same in words, for the ledger."""
    names = [f"{name} / {2**times}" for name, times in zip(("batch", "views", "context"), shares(halvings), strict=True) if times]
    return ", ".join(names) or "as planned"


def _halve(value: int, times: int, least: int) -> int:
    return max(min(value, least), value >> times)
