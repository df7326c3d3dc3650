"""How long the next forward pass may take, from those just past: the reach to ask the deadline with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RECENT = 16


class Pace:
    """Recent durations of each kind of pass, with their sizes (tokens or rows)."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[int, float]]] = {}

    def reach(self, kind: str, size: int) -> float:
        """Seconds that a pass of this kind and size may take; 0 while nothing was measured.

        The longest of the recent passes at least half as large, in proportion if this one is larger; failing those, the
        largest pass seen, in proportion.
        """
        recent = self._recent.get(kind)
        if not recent:
            return 0.0
        alike = [pass_ for pass_ in recent if 2 * pass_[0] >= size] or [max(recent)]
        return max(seconds * max(1.0, size / seen) for seen, seconds in alike)

    @contextmanager
    def measure(self, kind: str, size: int, clock: Callable[[], float]) -> Iterator[None]:
        """Time the block, unless it raises."""
        start = clock()
        yield
        self._recent.setdefault(kind, deque(maxlen=RECENT)).append((max(size, 1), clock() - start))
