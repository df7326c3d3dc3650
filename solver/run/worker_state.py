"""What the supervisor knows of one worker: its state and item, its last sign of life, and when it counts as lost."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from solver.budget.forecast import ItemForecast
from solver.types import WorkItem


@dataclass(eq=False)
class WorkerState:
    """What the supervisor knows of one worker. Times are seconds on the clock of the run."""

    state: Literal["starting", "idle", "busy", "away", "given up"]  # away: nobody works under its number now
    heard: float  # when it last gave a sign of life
    dying: bool = False  # killed, and not yet reported lost
    item: WorkItem | None = None
    forecast: ItemForecast = field(default_factory=ItemForecast)  # of its item
    due: float = math.inf  # when its item should be over
    reported: frozenset[str] = frozenset()  # tasks of the item with a final outcome; SHARED: the shared fit is settled
    failed_starts: int = 0
    error: str = ""  # of its last failed start
    refused: bool = False  # whether it cannot start because of the input: no other worker will
    activity: str = "starting"
    kind: str = ""  # of its device; empty before it was ready

    @property
    def counts(self) -> bool:
        """Whether it works, or may soon."""
        return self.state not in ("away", "given up")

    @property
    def watched(self) -> bool:
        """Whether it has to give signs of life."""
        return self.counts and not self.dying

    def leave(self, reason: str) -> WorkItem | None:
        """Note that nobody works under its number any more. Gives the item that it had in hand."""
        item, self.item, self.dying = self.item, None, False
        self.state, self.error, self.activity, self.failed_starts = "away", reason, "", 0
        return item

    def begin(self, item: WorkItem, forecast: ItemForecast, due: float, now: float) -> None:
        """Note that the worker was handed an item at `now`."""
        self.state, self.item, self.forecast, self.due, self.heard = "busy", item, forecast, due, now
        self.reported = frozenset()

    def pardon(self, now: float) -> None:
        """Measure its silence and lateness from `now` on, because the supervisor has not listened for a while."""
        self.heard = now
        self.due = max(self.due, now)

    @property
    def limits(self) -> tuple[float | None, float]:
        """When its item has to be over (None: it has none), and for how many seconds it may be silent."""
        return (self.due, self.forecast.silence) if self.item is not None else (None, math.inf)

    @property
    def reported_all(self) -> bool:
        """Whether every task of the item has its outcome."""
        return self.item is not None and all(work.task.id in self.reported for work in self.item.tasks)


@dataclass(frozen=True)
class WorkerTimeouts:
    """When a worker counts as lost."""

    heartbeat: float  # seconds of silence, at most; short work allows less
    grace: float  # seconds past the deadline of its item

    def verdict(self, now: float, heard: float, deadline_at: float | None, silence: float = float("inf")) -> str | None:
        """Why a worker has to be killed at `now`, in words; None if it may go on.

        It was last heard at `heard`, its work has to be over at `deadline_at`, and that work allows `silence` seconds without a
        sign.
        """
        if now - heard > min(self.heartbeat, silence):
            return f"silent for {now - heard:.0f} s"
        if deadline_at is not None and now > deadline_at + self.grace:
            return f"{now - deadline_at:.0f} s past the deadline of its work"
        return None

    def next_look(self, heard: float, deadline_at: float | None, silence: float = float("inf")) -> float:
        """The earliest time at which `verdict` may demand the kill."""
        silent = heard + min(self.heartbeat, silence)
        return silent if deadline_at is None else min(silent, deadline_at + self.grace)
