"""What it costs to give the device up and to take it again: by sleeping and waking, or by closing a core and starting one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["sleep", "wake", "close", "start"]


class HandoverCosts:
    """The last measured seconds of each part of a handover, and which way is cheaper.

    The seconds of a start are known before the first handover, so sleeping is tried first. (The first start of a process takes
    longer than later ones, because it imports vllm.) If sleeping and waking take longer than closing and starting, the core is
    closed from then on, and the seconds of closing and starting are measured, too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[Part, float] = {}

    def seconds(self, part: Part) -> float:
        """How long this part took the last time; 0 if it was never measured."""
        return self._last.get(part, 0.0)

    def sleeping_is_cheaper(self) -> bool:
        """Whether sleeping and waking together took no longer than closing and starting, by the last measurement of each part."""
        return self.seconds("sleep") + self.seconds("wake") <= self.seconds("close") + self.seconds("start")

    def cycle(self) -> float:
        """Seconds of giving the device up and taking it again, by the cheaper way that was measured as a whole; 0 if none was."""
        slept = self.seconds("sleep") + self.seconds("wake") if "wake" in self._last else 0.0
        started = self.seconds("close") + self.seconds("start")
        return min((seconds for seconds in (slept, started) if seconds), default=0.0)

    @contextmanager
    def measure(self, part: Part) -> Iterator[None]:
        """Measure how long the block takes. A block that raises is not counted."""
        began = self._clock()
        yield
        self._last[part] = self._clock() - began
