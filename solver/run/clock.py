"""When this process began, on the monotonic clock: the budget counts from there, not from the first line of ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED = time.monotonic()
STEP = 2.0  # seconds; less is nobody's doing


def process_start() -> float:
    """Monotonic seconds at which this process was created; where the system does not say, when this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # starttime, field 22 counted with pid and name; clock ticks since boot
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED
    return min(_IMPORTED, time.monotonic() - max(age, 0.0))


def end_of_budget(budget: float | None, until: float | None, started: float) -> float:
    """Monotonic seconds at which the process has to be gone. The wall clock is read once, so stepping it does no harm."""
    if until is not None:
        return time.monotonic() + (until - time.time())
    return started + budget if budget is not None else float("inf")


class WallClock:
    """Notices when the wall clock is set, and tells it once."""

    def __init__(self) -> None:
        self._ahead = self._read()

    def __call__(self) -> str | None:
        """By how much the wall clock went off since the last call, in words; None: it did not."""
        moved = self._read() - self._ahead
        if abs(moved) < STEP:
            return None
        self._ahead += moved
        if moved < 0:
            return f"the wall clock was set back by {-moved:.0f} s; the end of the run stays where it was"
        return (
            f"the wall clock was set forward by {moved:.0f} s, and the end of the run stays where it was;"
            " or the machine slept as long, and the end is later by that"
        )

    @staticmethod
    def _read() -> float:
        return time.time() - time.monotonic()
