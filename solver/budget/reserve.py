"""The reserve: the seconds that a run keeps for its end, to write the last results, kill workers that do not stop, and report."""

from __future__ import annotations

SHARE = 0.015  # of a short budget
LONG_BASE, LONG_SHARE = 24.0, 0.001  # of a long budget: seconds, plus a share of the budget
MIN_RESERVE = 2.0  # seconds
MAX_RESERVE = 60.0  # seconds

LAST_WRITES = 6  # writes of the submission that the end takes as long as: late results, the last write, its check, the summary
CLOSING = 1.0  # seconds that the end waits for killed workers
LATE = 1.0  # seconds that workers have at least to stop by themselves once the time for work is up


def writing_seconds(seconds: float) -> float:
    """Seconds from the moment at which no worker is waited for any more, if writing the submission takes `seconds`."""
    return CLOSING + LAST_WRITES * seconds


def reserve_for_writes(seconds: float) -> float:
    """The smallest reserve that is safe if writing the submission takes `seconds`."""
    return LATE + writing_seconds(seconds)


def reserve_seconds(wanted: float | None, budget: float) -> float:
    """The reserve in seconds: `wanted` if it is set, else 1.5 % of a short `budget` (seconds) and less of a long one."""
    return wanted if wanted is not None else max(min(SHARE * budget, LONG_BASE + LONG_SHARE * budget, MAX_RESERVE), MIN_RESERVE)
