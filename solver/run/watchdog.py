"""The watchdog: it ends a process that hangs at a set time, whatever the main thread is waiting for."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

LOOK = 0.1  # seconds between two checks
LAST_WORDS = 0.2  # seconds for the actions before the exit


class Watchdog:
    """A daemon thread that ends the process at `at`, or `patience` seconds after `signalled` first gives an exit code.

    A context manager: it watches inside the block only. Nothing that can block is ever done on its own thread.
    """

    def __init__(
        self,
        at: float,
        code: int,
        signalled: Callable[[], int | None],
        patience: float,
        *,
        exit_: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`at` is on `clock`; `code` is the exit code of an end at `at`."""
        self._at = at
        self._code = code
        self._signalled = signalled
        self._patience = patience
        self._exit = exit_
        self._clock = clock
        self._last: list[Callable[[], object]] = []
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def before_exit(self, action: Callable[[], object]) -> None:
        """Have `action` started just before the exit, on a thread of its own, for at most `LAST_WORDS` seconds."""
        self._last.append(action)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()

    def _watch(self) -> None:
        at, code = self._at, self._code
        seen = False
        while not self._left.wait(LOOK):
            stopped = None if seen else self._signalled()
            if stopped is not None:
                seen = True
                if self._clock() + self._patience < at:
                    at, code = self._clock() + self._patience, stopped
            if self._clock() >= at:
                self._end(code)
                return

    def _end(self, code: int) -> None:
        threads = [threading.Thread(target=_quietly, args=(action,), daemon=True) for action in self._last]
        for thread in threads:
            thread.start()
        until = time.monotonic() + LAST_WORDS
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not self._left.is_set():
            self._exit(code)


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        action()
