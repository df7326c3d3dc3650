"""How long the next forward pass may take, judged by recent ones. Engines compare that with the time until the deadline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from solver.types import Deadline

RECENT = 16


class OutOfTime(Exception):
    """The deadline leaves too little time for the next pass."""


class Pace:
    """The sizes (tokens or rows) and durations of the last RECENT passes of each kind."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[int, float]]] = {}

    def reach(self, kind: str, size: int) -> float:
        """Seconds that a pass of this kind and size may take; 0 if none of this kind was measured.

        That is the longest of the recent passes that were at least half as large, or else the largest of all. The duration of a
        pass that was smaller than `size` is scaled up in proportion.
        """
        recent = self._recent.get(kind)
        if not recent:
            return 0.0
        alike = [pass_ for pass_ in recent if 2 * pass_[0] >= size] or [max(recent)]
        return max(seconds * max(1.0, size / seen) for seen, seconds in alike)

    def check(self, kind: str, size: int, deadline: Deadline) -> None:
        """Raise OutOfTime if the deadline leaves too little time for a pass of this kind and size."""
        if deadline.expired(self.reach(kind, size)):
            raise OutOfTime

    @contextmanager
    def measure(self, kind: str, size: int, clock: Callable[[], float]) -> Iterator[None]:
        """Measure how long the block takes. A block that raises is not counted."""
        start = clock()
        yield
        self._recent.setdefault(kind, deque(maxlen=RECENT)).append((max(size, 1), clock() - start))
