"""Training and inference take turns with a device that does not hold both. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from solver.model.offloaded_weights import Rests


class DeviceTurns:
    """Switches the device between training and inference, and remembers which of them has it."""

    def __init__(self, fits: Rests, inference: Rests, clock: Callable[[], float] = time.monotonic) -> None:
        self._fits, self._inference, self._clock = fits, inference, clock
        self._turn = ""
        self.turns = 0
        self.seconds = 0.0  # spent on switching; an engine that wakes only at its first use is not counted

    def to_fits(self) -> None:
        """Give the device to training; call before every fit."""
        self._give("fits", self._inference, self._fits)

    def to_inference(self) -> None:
        """Give the device to the engine; call before every request."""
        self._give("inference", self._fits, self._inference)

    def _give(self, turn: str, resting: Rests, waking: Rests) -> None:
        if self._turn == turn:
            return
        began = self._clock()
        resting.rest()
        waking.wake()
        self._turn = turn
        self.turns += 1
        self.seconds += self._clock() - began
