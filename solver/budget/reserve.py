"""How many seconds a run keeps for its end: the last write, the kill of workers that do not stop, and the report."""

from __future__ import annotations

SHARE = 0.025  # of the budget
LEAST = 2.0  # seconds
MOST = 24.0  # seconds: a worker killed when half of it is left may take ten to vanish


LAST_WRITES = 6  # as long as one of the submission: results that come late, the last one, its check, the summary
CLOSING = 1.0  # seconds that the end waits for killed workers


def reserve_for_writes(seconds: float) -> float:
    """The reserve of which half is enough for the last writes, where writing the submission took so many seconds."""
    return 2 * (CLOSING + LAST_WRITES * seconds)


def reserve_seconds(wanted: float | None, budget: float) -> float:
    """What the settings ask for; by default a share of the `budget` (seconds), within limits."""
    return wanted if wanted is not None else min(max(SHARE * budget, LEAST), MOST)
