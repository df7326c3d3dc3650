"""The identity of a run: what must not change when it is resumed. These are its inputs and the settings that change answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solver.arc.datasets import TaskSet
from solver.config import Settings
from solver.model.adapter_folder import adapter_identity
from solver.model.folder import folder_identity
from solver.run.run_facts import Identity

# Settings that may change on resume: the budget, the machine, what only they decide, selection, which is always done anew, and
# program search, which adds candidates.
_FREE_ROOMS = ("seed", "input", "select", "budget", "workers", "programs")
_FREE = {
    "model.dtype",
    "model.device",
    "model.threads",
    "train.trainer",
    "train.stack",
    "train.batch_tokens",
    "train.checkpointing",
    "train.compile",
    "infer.engine",
    "infer.batch_tokens",
}

# Settings that ledgers of earlier versions lack. They are left out at these defaults, so that such runs can be resumed.
_ADDED = {"data.augment": True, "data.original_colours": 0.0}


def identity_of(tasks: TaskSet, settings: Settings, model: Path, recipe: str | None, adapter: Path | None = None) -> Identity:
    """The identity of a run. Raises InputError if the model's files, or those of its adapter, cannot be read."""
    started = {} if adapter is None else {"adapter": adapter_identity(adapter)}
    return Identity(
        tasks=tasks.fingerprint,
        model=folder_identity(model),
        seed=settings.seed,
        recipe=recipe or "default",
        settings=answer_settings(settings) | started,
    )


def answer_settings(settings: Settings) -> dict[str, Any]:
    """The settings that change answers, by dotted name, as JSON values."""
    tree = settings.model_dump(mode="json")
    return {
        name: value
        for room, values in tree.items()
        if room not in _FREE_ROOMS
        for name, value in ((f"{room}.{key}", value) for key, value in values.items())
        if name not in _FREE and not (name in _ADDED and value == _ADDED[name])
    }
