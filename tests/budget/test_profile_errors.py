"""Runs that begin with a profile that is wrong by ten, on a simulated clock: they are worth nearly as much as others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from regret import Case, regrets, worth

MAX_REGRET = 0.05  # a few per cent of the expected solved tasks


@pytest.mark.parametrize(
    "case",
    [
        Case("h200", 60, 60.0),
        Case("h200", 60, 60.0, by_path=True, measured=False),
        Case("cpu", 40, 120.0),
        Case("cpu", 40, 120.0, by_path=True),
    ],
    ids=["GPU", "GPU, estimate, by path", "CPU", "CPU, by path"],
)
def test_a_profile_that_is_wrong_by_ten_does_not_decide_a_run(case: Case) -> None:
    scene = case.scene()
    truth = worth(scene, 1)
    assert truth > 0.5
    for what, factor, regret in regrets(scene, 1, truth):
        assert regret < MAX_REGRET, f"{what} taken to cost {factor:g} times as much"


@pytest.mark.parametrize("case", [Case("h200", 100, 60.0), Case("cpu", 60, 120.0)], ids=["GPU", "CPU"])
def test_an_estimate_is_worth_as_much_as_a_measured_profile(case: Case) -> None:
    """Although first passes have no fit under the gains of the models that ship, so that only measuring tells what one costs."""
    measured, estimate = (worth(replace(case, measured=known).scene(), 1) for known in (True, False))
    assert estimate > (1 - MAX_REGRET) * measured
