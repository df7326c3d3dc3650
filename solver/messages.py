"""The messages between supervisor and workers, besides work items and their outcomes. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from solver.config import Settings
from solver.types import Fit, ProgramOutcome, ProgramReady, TaskOutcome


@dataclass(frozen=True)
class WorkerConfig:
    """The first message to a worker."""

    settings: Settings
    model: Path | None  # None: the embedded one
    scratch: Path  # the folder for adapters
    adapter: Path | None = None  # the LoRA weights that every fit starts from; None: fits start from the base
    log: Path | None = None  # the file for what libraries print; None: the worker's output goes where it has to already
    vllm_lost: str = ""  # why vLLM broke in an earlier worker of this run (`VllmLost`): then "auto" does not choose it


@dataclass(frozen=True)
class Turns:
    """What the number of tasks in a work item depends on. The defaults ask for one task an item."""

    handover: float = 0.0  # seconds of switching the device to training and back to inference; 0: it holds both
    sequences: int = 1  # that the engine decodes at once at about the cost of one
    fits: int = 1  # tasks that one step of the trainer advances at about the cost of one
    adapter_bytes: int = 0
    adapter_room: int = 0  # bytes for adapters of all workers


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker works with. Where it has nothing to say, a text is empty and everything else None."""

    trainer: str
    engine: str
    trainer_because: str = ""  # why this one, in words
    engine_because: str = ""
    dtype: str = ""
    device: str = ""  # the name of a GPU, or "cpu"
    threads: int | None = None
    parameters: int | None = None  # of the base model
    turns: Turns | None = None  # None: nothing asks for items of several tasks
    memory: str = ""  # how trainer and engine divide the memory of the device, in words

    @property
    def kind(self) -> str:
        """The kind of its device: costs are kept for each kind."""
        return self.device if self.device != "cpu" else f"cpu, {self.threads} threads"

    def to_json(self) -> dict[str, str | int | float]:
        """Everything that the worker says, flat."""
        turns: dict[str, str | int | float] = {}
        if self.turns is not None:
            turns = {
                "engine_sequences": self.turns.sequences,
                "fits_in_a_step": self.turns.fits,
                "adapter_bytes": self.turns.adapter_bytes,
                "adapter_room": self.turns.adapter_room,
                "handover_seconds": round(self.turns.handover, 2),
            }
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "turns"}
        return {name: value for name, value in {**own, **turns}.items() if value not in ("", None)}


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model and waits for work."""

    parts: dict[str, float]  # seconds of its start, by part (budget.costs.START)
    facts: WorkerFacts

    @property
    def seconds(self) -> float:
        """Of the whole start."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Changed:
    """The worker has replaced its engine."""

    facts: WorkerFacts


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
class ClusterChanged:
    """From an executor on a cluster: nodes have joined or left, or there is no place for a worker."""

    detail: str  # a line for people


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


OfPrograms = ProgramReady | ProgramOutcome  # the messages of processes that search for programs
Message = (
    Ready
    | Changed
    | VllmLost
    | Heartbeat
    | ClusterChanged
    | SharedFit
    | TaskOutcome
    | ItemDone
    | ItemFailed
    | StartFailed
    | Warned
    | OfPrograms
)
