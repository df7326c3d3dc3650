"""Clocks of a run: when this process was created (the budget counts from there), and whether the wall clock was set meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED = time.monotonic()
STEP = 2.0  # seconds; smaller changes are the usual corrections of the clock


def process_start() -> float:
    """When this process was created, in monotonic seconds; if the system does not tell, when this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # starttime, field 22 counted with pid and name; clock ticks since boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED
    return min(_IMPORTED, time.monotonic() - max(age, 0.0))


def end_of_budget(budget: float | None, until: float | None, started: float) -> float:
    """When the process must be gone, in monotonic seconds. The wall clock is read only here: setting it later has no effect."""
    if until is not None:
        return time.monotonic() + (until - time.time())
    return started + budget if budget is not None else float("inf")


class WallClock:
    """Notices that the wall clock was set, and reports it once."""

    def __init__(self) -> None:
        self._ahead = self._read()

    def __call__(self) -> str | None:
        """A line that says by how much the wall clock was set since the last call; None if it was not."""
        moved = self._read() - self._ahead
        if abs(moved) < STEP:
            return None
        self._ahead += moved
        if moved < 0:
            return f"the wall clock was set back by {-moved:.0f} s; the run ends as planned, by its own clock"
        return (
            f"the wall clock was set forward by {moved:.0f} s, and the run ends as planned, by its own clock;"
            f" or the machine slept for {moved:.0f} s, and the run ends later by as much"
        )

    @staticmethod
    def _read() -> float:
        return time.time() - time.monotonic()
