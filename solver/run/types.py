"""The options of a run, why it stopped, and its exit codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from solver.config import Settings

Stop = Literal["finished", "deadline", "interrupted", "no worker", "bad input"]

EXIT_DONE = 0
EXIT_FAILED = 1  # no worker could be started or kept alive
EXIT_INPUT = 2  # the input or the budget cannot be used
EXIT_INTERRUPTED = 130  # SIGINT
EXIT_TERMINATED = 143  # SIGTERM


@dataclass(frozen=True)
class Ending:
    """Why the supervisor stopped; `detail` is the line for people."""

    stop: Stop
    detail: str


@dataclass(frozen=True)
class RunOptions:
    """One `solver run`. At most one of `budget` and `until` is needed; `until` wins."""

    challenges: str | None  # file, folder, "arc1:evaluation", ...; None: the shipped sample
    out: Path
    budget: float | None = None  # seconds of wall clock, counted from `started`
    until: float | None = None  # seconds since the epoch at which the process has to be gone
    settings: Settings = field(default_factory=Settings)  # presets and overrides already merged
    model: Path | None = None  # a base model folder; None: the embedded one
    adapter: Path | None = None  # a LoRA adapter of the model that every fit starts from; None: fits start from the model
    recipe: str | None = None  # name of the recipe preset, for the ledger
    machine: str | None = None  # name of the machine preset, for the ledger
    tasks: str | None = None  # "20" or "id,id": which tasks of the set
    solutions: Path | None = None
    scratch: Path | None = None  # where the run makes its folder for adapters; None: among temporary files
    keep_adapters: bool = False  # do not remove that folder at the end
    started: float | None = None  # monotonic seconds; None: when this process was created
