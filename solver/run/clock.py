"""When this process began, on the monotonic clock: the budget counts from there, not from the first line of ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED = time.monotonic()


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
