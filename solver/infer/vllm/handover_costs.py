"""What giving the device up has cost: by sleeping and waking, or by ending the core and starting another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["sleep", "wake", "close", "start"]


class HandoverCosts:
    """The seconds each part took last.

    Sleeping is tried first: a start is known from the beginning, though the first one of a process is longer by its imports.
    If sleeping costs more than that, ending and starting is tried, and then measured like the other.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[Part, float] = {}

    def seconds(self, part: Part) -> float:
        """That it took last; 0 if it was never done."""
        return self._last.get(part, 0.0)

    def sleeping_is_cheaper(self) -> bool:
        """By what was measured last of either way."""
        return self.seconds("sleep") + self.seconds("wake") <= self.seconds("close") + self.seconds("start")

    def cycle(self) -> float:
        """Seconds of giving up and taking again, by the cheaper way that was measured in full; 0: none was."""
        slept = self.seconds("sleep") + self.seconds("wake") if "wake" in self._last else 0.0
        started = self.seconds("close") + self.seconds("start")
        return min((seconds for seconds in (slept, started) if seconds), default=0.0)

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Time the block, unless it raises."""
        began = self._clock()
        yield
        self._last[part] = self._clock() - began
