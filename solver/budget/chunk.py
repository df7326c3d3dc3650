"""How many tasks a work item takes: more where a worker's device changes hands, or its engine is half idle with one task.

A chunk pays once for giving the device from fits to inference and back, so it is as large as makes that a few percent of its
time; and an engine that decodes many sequences for the price of one is given as many. Against it speak the time (a chunk ends
as a whole: its deadline, its crash), the other workers, and the adapters, which all exist until the chunk has been inferred.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

HANDOVER_SHARE = 0.04  # of a chunk's time that changing hands may take
TIME_SHARE = 0.1  # of the time left that a chunk may take: results come at its end
ROUNDS = 2  # chunks that every worker is to get at least, of the tasks that are left
ROOM_SHARE = 0.25  # of what adapters may fill, for the one chunk of a worker: earlier ones may still be there
MOST = 64  # tasks
RECENT = 8  # tasks whose time is remembered


@dataclass(frozen=True)
class Turns:
    """What a worker says of its device when it is ready; nothing speaks for chunks unless it says so."""

    handover: float = 0.0  # seconds of giving the device to the fits and to inference again; 0: both stay
    sequences: int = 1  # that the engine decodes at once for about the price of one
    adapter_bytes: int = 0
    adapter_room: int = 0  # bytes for adapters of all workers

    @classmethod
    def read(cls, facts: Mapping[str, str]) -> Turns:
        """From the words of a worker; what is missing or no number counts as not said."""

        def number(name: str) -> float:
            try:
                return max(0.0, float(facts.get(name, "0")))
            except ValueError:
                return 0.0

        handover, sequences = number("handover_seconds"), number("engine_sequences")
        return cls(handover, max(1, int(sequences)), int(number("adapter_bytes")), int(number("adapter_room")))


@dataclass(frozen=True)
class Chunk:
    """A number of tasks, and why, in words."""

    size: int
    reason: str


ALONE = Chunk(1, "nothing speaks for more")


def choose_chunk(turns: Turns, task_seconds: float, task_sequences: int, left: float, tasks: int, workers: int) -> Chunk:
    """The size for `left` seconds, so many tasks left and workers.

    `task_seconds` is what a task takes without handing over, `task_sequences` what it asks the engine for at once.
    """
    share = HANDOVER_SHARE / (1 - HANDOVER_SHARE)  # of the tasks' own seconds
    by_handover = math.ceil(turns.handover / (share * task_seconds)) if turns.handover else 1
    by_sequences = math.ceil(turns.sequences / max(task_sequences, 1))
    wanted, why = by_sequences, f"the engine decodes {turns.sequences} sequences at once, a task has {task_sequences}"
    if by_handover >= by_sequences:
        wanted, why = by_handover, f"changing hands takes {turns.handover:.1f} s, a task {task_seconds:.1f} s"
    if wanted <= 1:
        return ALONE
    bounds = [
        (MOST, f"at most {MOST}"),
        (int(TIME_SHARE * left / task_seconds), f"{left:.0f} s are left"),
        (math.ceil(tasks / (ROUNDS * workers)), f"{tasks} tasks are left for {workers} worker{'s' * (workers > 1)}"),
    ]
    if turns.adapter_bytes:
        room = int(ROOM_SHARE * turns.adapter_room / workers / turns.adapter_bytes)
        bounds.append((room, f"an adapter takes {turns.adapter_bytes / 1e6:.1f} MB of {turns.adapter_room / 1e9:.1f} GB"))
    least, bound = min(bounds)
    if least < wanted:
        return Chunk(max(1, least), f"{wanted} by rights: {why}; but {bound}")
    return Chunk(wanted, why)


class Chunks:
    """Chooses as workers get ready, tasks finish and the time goes by. One task at a time until something is known."""

    def __init__(self, fixed: int | None, task_sequences: int) -> None:
        """`fixed` is the setting, which nothing overrules; none: chosen here."""
        self._fixed, self._task_sequences = fixed, task_sequences
        self._turns = Turns()
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def meet(self, facts: Mapping[str, str]) -> None:
        """What a worker says of itself."""
        self._turns = Turns.read(facts)

    def observe(self, seconds: float, tasks: int) -> None:
        """What a task took, in an item of so many, its part of handing over included."""
        self._seconds.append(max(seconds - self._turns.handover / tasks, 0.1 * seconds, 1e-3))

    @property
    def in_question(self) -> bool:
        """Whether it could be another than one, or than the setting."""
        return self._fixed is None and self._turns != Turns()

    def choose(self, left: float, tasks: int, workers: int) -> Chunk:
        """For the next item."""
        if self._fixed is not None:
            return Chunk(self._fixed, "set by budget.chunk")
        if not self._seconds:
            return ALONE
        return choose_chunk(self._turns, median(self._seconds), self._task_sequences, left, tasks, max(workers, 1))
