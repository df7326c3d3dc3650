"""The clocks of a run: when its process began, when it has to be gone, and a wall clock that somebody sets."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from solver.run.clock import WallClock, end_of_budget, process_start

AGE = """
import json, time
time.sleep(1.0)  # before anything of ours is imported
from solver.run.clock import process_start
print(json.dumps(time.monotonic() - process_start()))
"""


def test_the_budget_counts_from_the_creation_of_the_process() -> None:
    began = time.monotonic()
    age = json.loads(subprocess.run([sys.executable, "-c", AGE], capture_output=True, text=True, check=True).stdout)
    assert 0.98 <= age <= time.monotonic() - began + 0.02  # the kernel counts in hundredths


def test_where_the_system_does_not_say_it_is_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.run.clock.Path.read_text", lambda _: "nothing of use")
    assert process_start() <= time.monotonic()


def test_the_end_by_a_budget_or_by_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_of_budget(60.0, None, 1000.0) == 1060.0
    monkeypatch.setattr(time, "monotonic", lambda: 500.0)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert end_of_budget(60.0, 2e9 + 30, 1000.0) == 530.0  # the moment wins
    assert end_of_budget(None, 2e9 - 30, 1000.0) == 470.0


def test_a_wall_clock_that_is_set_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, steady = [2e9], [100.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])
    monkeypatch.setattr(time, "monotonic", lambda: steady[0])
    clock = WallClock()
    wall[0], steady[0] = wall[0] + 3600, steady[0] + 3600
    assert clock() is None
    wall[0] -= 7200
    assert "back by 7200 s" in str(clock())
    assert clock() is None
    wall[0] += 60
    assert "forward by 60 s" in str(clock())
    wall[0] += 1  # as a time server may do
    assert clock() is None
