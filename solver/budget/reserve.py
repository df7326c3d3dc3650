"""The reserve: the seconds that a run keeps for its end, to write the last results, kill workers that do not stop, and report."""

from __future__ import annotations

from solver.types import Deadline

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


class EndOfWork:
    """The moments before the end of a run: when work stops, and when workers that go on are killed."""

    work: Deadline  # passes are over by then
    last_call: Deadline  # no worker is waited for any more

    def __init__(self, reserve: float | None, grace: float, end: Deadline) -> None:
        """`reserve`: the setting (seconds); None: by the budget, and more once writing turns out to be slow.

        `grace`: seconds that a worker may go on after its deadline. At `end` the process has to be gone.
        """
        self._end, self._grace = end, grace
        self._adapts = reserve is None
        self._most = end.remaining() / 2
        self._slowest_write = 0.0
        self._keep(reserve_seconds(reserve, end.remaining()))

    def wrote(self, seconds: float) -> None:
        """Learn how long a write of the submission took: a disk that is slow now may be slow at the end."""
        if self._adapts and seconds > self._slowest_write:
            self._slowest_write = seconds
            self._keep(max(self._reserve, min(reserve_for_writes(seconds), self._most)), writing_seconds(seconds))

    def _keep(self, reserve: float, writing: float = 0.0) -> None:
        """Set the reserve in seconds. Half of it, or the seconds of `writing` if they are more, is for the last writes."""
        self._reserve = reserve
        self.work = self._end.earlier(reserve)
        last = min(max(reserve / 2, writing), reserve)
        self.last_call = self._end.earlier(max(last, reserve - self._grace))
