"""How many seconds a run keeps for its end: the last write, the kill of workers that do not stop, and the report."""

from __future__ import annotations

SHARE = 0.015  # of the budget, where it is short
STEADY, SLOWLY = 24.0, 0.001  # seconds, and the share of the budget on top of them, where it is long
LEAST = 2.0  # seconds
MOST = 60.0  # seconds: a run that is late loses everything, a minute of twelve hours costs little

LAST_WRITES = 6  # as long as one of the submission: results that come late, the last one, its check, the summary
CLOSING = 1.0  # seconds that the end waits for killed workers
LATE = 1.0  # seconds at least in which workers that meet the end of work may stop by themselves


def writing_seconds(seconds: float) -> float:
    """What the end takes once no worker is waited for, where writing the submission took so many seconds."""
    return CLOSING + LAST_WRITES * seconds


def reserve_for_writes(seconds: float) -> float:
    """The least reserve where writing the submission took so many seconds."""
    return LATE + writing_seconds(seconds)


def reserve_seconds(wanted: float | None, budget: float) -> float:
    """What the settings ask for; by default 1.5 % of a short `budget` (seconds) and less of a long one, within limits."""
    return wanted if wanted is not None else max(min(SHARE * budget, STEADY + SLOWLY * budget, MOST), LEAST)
