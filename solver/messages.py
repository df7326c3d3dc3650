"""The messages between supervisor and workers, besides work items and their outcomes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from solver.config import Settings
from solver.types import Fit, TaskOutcome


@dataclass(frozen=True)
class WorkerConfig:
    """The first message to a worker."""

    settings: Settings
    model: Path | None  # None: the embedded one
    scratch: Path  # the folder for adapters
    adapter: Path | None = None  # the LoRA weights that every fit starts from; None: fits start from the base
    vllm_lost: str = ""  # why vLLM broke in an earlier worker of this run (`VllmLost`): then "auto" does not choose it


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model and waits for work."""

    parts: dict[str, float]  # seconds of its start, by part (budget.costs.START)
    facts: dict[str, str]  # "trainer", "engine", "dtype", "device", ..., in words

    @property
    def seconds(self) -> float:
        """Of the whole start."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Changed:
    """The worker has replaced its engine."""

    facts: dict[str, str]  # as in `Ready`


@dataclass(frozen=True)
class VllmLost:
    """vLLM broke in this worker and could not be started again. Workers that are started later get to know it."""

    reason: str


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life, about once a second."""

    activity: str  # what the worker is doing, in words; empty while idle
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
    """The item ended with an error that the worker survived. Tasks without an outcome so far get none."""

    error: str


@dataclass(frozen=True)
class StartFailed:
    """The worker could not start and ends. With `bad_input` trying again is pointless, and `error` is the line for the user."""

    error: str
    bad_input: bool = False


@dataclass(frozen=True)
class Warned:
    """Something went wrong, but the item goes on: for example, memory ran out and a smaller batch helped."""

    kind: str
    detail: str


Message = Ready | Changed | VllmLost | Heartbeat | SharedFit | TaskOutcome | ItemDone | ItemFailed | StartFailed | Warned
