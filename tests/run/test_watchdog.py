"""The watchdog by itself, on a clock of the test; a whole run that hangs is in test_runs.py."""

from __future__ import annotations

import threading

import pytest

from solver.run.watchdog import Watchdog

LONG = 20.0  # real seconds that a test would wait for a thread that never comes


@pytest.mark.parametrize(("code", "end", "expected"), [(None, 50.0, 1), (143, 50.0, 143), (143, 2.0, 1)])
def test_it_ends_the_process_at_the_budget_or_soon_after_a_signal(code: int | None, end: float, expected: int) -> None:
    now = [0.0]
    asked, exited = threading.Event(), threading.Event()
    codes: list[int] = []
    last: list[str] = []

    def signalled() -> int | None:
        asked.set()
        return code

    def leave(number: int) -> None:
        codes.append(number)
        exited.set()

    watchdog = Watchdog(end, 1, signalled, 4.5, exit_=leave, clock=lambda: now[0])
    watchdog.before_exit(lambda: last.append("killed"))
    watchdog.before_exit(lambda: 1 / 0)
    watchdog.before_exit(lambda: threading.Event().wait(LONG))  # stuck: must not hold up the exit
    with watchdog:
        assert asked.wait(LONG)
        now[0] = min(end, 4.4) - 0.1
        assert not exited.wait(0.3)
        now[0] = 4.6 if code is not None else end
        assert exited.wait(LONG)
    assert codes == [expected]
    assert last == ["killed"]


def test_it_is_gone_with_its_block() -> None:
    now = [0.0]
    codes: list[int] = []
    with Watchdog(1.0, 1, lambda: None, 4.5, exit_=codes.append, clock=lambda: now[0]) as watchdog:
        pass
    now[0] = 2.0
    watchdog._thread.join(LONG)
    assert not watchdog._thread.is_alive()
    assert codes == []
