"""How many tasks a work item takes (its chunk size).

Three things ask for more than one task. Where trainer and engine take turns with a GPU, every item pays for two switches, so an
item is large enough that switching takes a few per cent of its time. An engine that decodes many sequences at nearly the cost of
one should get that many, and a trainer that advances many tasks by one step at nearly the cost of one should get those.

Three things limit the size. All tasks of an item share one deadline and are lost together in a crash, so an item may take only a
small share of the time left. Every worker should get several items. And the adapters of all tasks of an item are on the disk
until its inference is over. The first limit goes by the seconds of a task in earlier items, and these shrink as items grow while
tasks share steps. So an item may have twice the tasks of an earlier one, if it would fit the time left even at the old price.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from solver.messages import Turns

HANDOVER_SHARE = 0.04  # of an item's time that switching the device may take
TIME_SHARE = 0.1  # of the time left that an item may take
ROUNDS = 2  # items that every worker should still get, at least
ROOM_SHARE = 0.25  # of a worker's part of the disk, for the adapters of one item: those of earlier items may still be there
GROWTH_SHARE = 0.5  # of the time left that an item with twice the tasks may take, at the old seconds of a task
MAX_CHUNK = 64  # tasks
RECENT = 8  # tasks: the seconds of a task are the median over so many


@dataclass(frozen=True)
class Chunk:
    """How many tasks an item takes, and why, for people."""

    size: int
    reason: str


ALONE = Chunk(1, "more tasks would not save time")


def choose_chunk(
    turns: Turns, task_seconds: float, task_sequences: int, left: float, tasks: int, workers: int, tried: int = 0
) -> Chunk:
    """The chunk size when `tasks` tasks and `left` seconds are left for so many workers.

    A task takes `task_seconds` without the switching, and asks the engine for `task_sequences` sequences at once. `tried`: the
    tasks of an item in which a task took so long; 0: no matter.
    """
    share = HANDOVER_SHARE / (1 - HANDOVER_SHARE)  # of the tasks' own seconds
    by_handover = math.ceil(turns.handover / (share * task_seconds)) if turns.handover else 1
    by_sequences = math.ceil(turns.sequences / max(task_sequences, 1))
    wanted, why = by_sequences, f"the engine decodes {turns.sequences} sequences at once, a task has {task_sequences}"
    if by_handover >= by_sequences:
        wanted, why = by_handover, f"switching the device takes {turns.handover:.1f} s, a task {task_seconds:.1f} s"
    if turns.fits > wanted:
        wanted, why = turns.fits, f"one step of the trainer advances {turns.fits} tasks"
    if wanted <= 1:
        return ALONE
    in_time, twice = int(TIME_SHARE * left / task_seconds), min(2 * tried, turns.fits)
    if twice * task_seconds <= GROWTH_SHARE * left:
        in_time = max(in_time, twice)
    bounds = [
        (MAX_CHUNK, f"an item takes at most {MAX_CHUNK}"),
        (in_time, f"only {left:.0f} s are left"),
        (math.ceil(tasks / (ROUNDS * workers)), f"only {tasks} tasks are left for {workers} worker{'s' * (workers > 1)}"),
    ]
    if turns.adapter_bytes:
        room = int(ROOM_SHARE * turns.adapter_room / workers / turns.adapter_bytes)
        megabytes, gigabytes = turns.adapter_bytes / 1e6, turns.adapter_room / 1e9
        bounds.append((room, f"an adapter takes {megabytes:.1f} MB and the disk has {gigabytes:.1f} GB"))
    least, bound = min(bounds)
    if least < wanted:
        return Chunk(max(1, least), f"{why}, which calls for {wanted} tasks, but {bound}")
    return Chunk(wanted, why)


class Chunks:
    """Chooses the chunk size again and again during a run. It is one task until a task has been measured."""

    def __init__(self, fixed: int | None, task_sequences: int) -> None:
        """`fixed` is the setting `budget.chunk`, which is always obeyed; None: the size is chosen here."""
        self._fixed, self._task_sequences = fixed, task_sequences
        self._turns = Turns()
        self._tried = 0  # tasks of the latest item
        self._seconds: deque[float] = deque(maxlen=RECENT)

    def meet(self, turns: Turns) -> None:
        """Take in what a worker reports when it is ready."""
        self._turns = turns

    def observe(self, seconds: float, tasks: int) -> None:
        """Take in that a task took `seconds`, its part of the switching included, in an item of `tasks` tasks."""
        self._tried = tasks
        self._seconds.append(max(seconds - self._turns.handover / tasks, 0.1 * seconds, 1e-3))

    @property
    def in_question(self) -> bool:
        """Whether there is a choice: no setting fixes the size, and a worker has reported a reason for more than one task."""
        return self._fixed is None and self._turns != Turns()

    def choose(self, left: float, tasks: int, workers: int) -> Chunk:
        """The size of the next item."""
        if self._fixed is not None:
            return Chunk(self._fixed, "set by budget.chunk")
        if not self._seconds:
            return ALONE
        seconds = median(self._seconds)
        return choose_chunk(self._turns, seconds, self._task_sequences, left, tasks, max(workers, 1), self._tried)
