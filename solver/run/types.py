"""What a run is asked to do, what it reports meanwhile, and what it leaves: the data classes between cli and run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from solver.config import Settings
from solver.report.results import TaskResult

EXIT_DONE = 0
EXIT_FAILED = 1  # no worker could be started or kept alive
EXIT_INPUT = 2  # the input or the budget cannot be used
EXIT_INTERRUPTED = 130  # SIGINT
EXIT_TERMINATED = 143  # SIGTERM


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


@dataclass(frozen=True)
class Progress:
    """How far a run is. Rates are tokens a second of the phase that makes them, 0 before the first result."""

    tasks: int
    done: int  # tasks with at least one finished pass
    failed: int
    wave: int  # of the latest work, from 0
    steps: int  # optimizer steps so far
    trained_rate: float  # tokens/s
    sampled_rate: float  # tokens/s
    agreement: float  # mean over the queries that have candidates, 0..1
    seconds_left: float  # until work stops
    activity: str  # what the workers do now, in words


class Observer(Protocol):
    """Is told of a run's progress; a terminal table or plain lines."""

    def progress(self, progress: Progress) -> None:
        """Called after every change and about once a second."""
        ...

    def note(self, line: str) -> None:
        """One line for people: a task done, a worker lost, a file that cannot be written."""
        ...

    def end(self, summary: Summary | None) -> None:
        """The last call: shows what the run leaves, None if it was refused, and gives the terminal back."""
        ...


class SilentObserver:
    """Ignores everything."""

    def progress(self, progress: Progress) -> None:
        """Ignore."""

    def note(self, line: str) -> None:
        """Ignore."""

    def end(self, summary: Summary | None) -> None:
        """Ignore."""


@dataclass(frozen=True)
class Summary:
    """What `summary.json` holds. Seconds, tokens, bytes; `scores` is empty unless solutions are known."""

    exit_code: int
    reason: str  # why the run stopped, in words
    tasks: int
    queries: int
    done: int
    failed: int
    waves: int
    seconds: float  # wall clock since `started`
    budget: float
    trainer: str
    engine: str
    dtype: str
    device: str
    steps: int
    trained_tokens: int
    prompt_tokens: int
    sampled_tokens: int
    trained_rate: float
    sampled_rate: float
    peak_memory_worker: int
    peak_memory_supervisor: int
    phases: dict[str, dict[str, float]]  # phase -> {"planned": seconds, "used": seconds, "error": share}
    agreement: float
    events: dict[str, int]  # kind -> count
    scores: dict[str, Any]
    model: str
    recipe: str
    machine: str
    settings: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    commit: str
    results: tuple[TaskResult, ...] = ()  # one per task, in file order

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)
