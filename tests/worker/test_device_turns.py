"""Taking turns: who rests, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from solver.worker.device_turns import DeviceTurns


class Side:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.resting = name, log, False

    def rest(self) -> None:
        self.resting = True
        self.log.append(f"{self.name} rests")

    def wake(self) -> None:
        self.resting = False
        self.log.append(f"{self.name} wakes")


def test_one_rests_before_the_other_wakes() -> None:
    log: list[str] = []
    device_turns = DeviceTurns(Side("fits", log), Side("inference", log))
    device_turns.to_fits()
    device_turns.to_fits()
    device_turns.to_inference()
    assert log == ["inference rests", "fits wakes", "fits rests", "inference wakes"]
    assert device_turns.turns == 2


@given(st.lists(st.booleans()))
def test_never_both(turns: list[bool]) -> None:
    log: list[str] = []
    fits, inference = Side("fits", log), Side("inference", log)
    device_turns = DeviceTurns(fits, inference)
    for to_fits in turns:
        (device_turns.to_fits if to_fits else device_turns.to_inference)()
        assert (fits.resting, inference.resting) == (not to_fits, to_fits)
    assert len(log) == 2 * device_turns.turns
