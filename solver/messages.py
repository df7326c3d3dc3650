"""What supervisor and workers say to each other, besides work items and their outcomes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from solver.config import Settings
from solver.types import Fit, TaskOutcome


@dataclass(frozen=True)
class WorkerConfig:
    """The first message a worker gets."""

    settings: Settings
    model: Path | None  # None: the embedded one
    scratch: Path  # adapters
    adapter: Path | None = None  # the LoRA weights that every fit starts from; None: fits start from the base


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model and waits for work."""

    parts: dict[str, float]  # seconds of each part of its start: those of budget.costs.START
    facts: dict[str, str]  # "trainer", "engine", "dtype", "device", ..., in words

    @property
    def seconds(self) -> float:
        """Of the whole start."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Changed:
    """The worker goes on with another engine than it began with."""

    facts: dict[str, str]  # as in `Ready`


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life, about once a second."""

    activity: str  # what is going on, in words; empty while idle
    peak_memory: int  # bytes


@dataclass(frozen=True)
class SharedFit:
    """The outcome of a work item of kind "shared"."""

    fit: Fit
    events: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ItemDone:
    """Every task of the item has been reported; the worker waits for work."""


@dataclass(frozen=True)
class ItemFailed:
    """The item ended with an error that the worker survived; tasks not yet reported will not be."""

    error: str


@dataclass(frozen=True)
class StartFailed:
    """The worker cannot start; it ends. `bad_input`: `error` is the line for the user, and trying again is pointless."""

    error: str
    bad_input: bool = False


@dataclass(frozen=True)
class Warned:
    """Something went wrong that the item goes on in spite of, such as memory that ran out and was made do with."""

    kind: str
    detail: str


Message = Ready | Changed | Heartbeat | SharedFit | TaskOutcome | ItemDone | ItemFailed | StartFailed | Warned
