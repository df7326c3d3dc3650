"""How fits and inference take turns with a device that does not hold both. Needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from solver.model.offloaded_weights import Rests


class DeviceTurns:
    """Gives the device to one side and takes it from the other; knows who had it last."""

    def __init__(self, fits: Rests, inference: Rests, clock: Callable[[], float] = time.monotonic) -> None:
        self._fits, self._inference, self._clock = fits, inference, clock
        self._turn = ""
        self.turns = 0
        self.seconds = 0.0  # spent on it, without waking that is put off until the first use

    def to_fits(self) -> None:
        """The next thing is a fit."""
        self._give("fits", self._inference, self._fits)

    def to_inference(self) -> None:
        """The next thing is a request to the engine."""
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
