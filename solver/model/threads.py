"""How many threads to compute with while other programs use the same processors.

OpenMP's threads wait for one another after every operation. With one thread a core and another program on one of the
cores, each operation waits until the descheduled thread comes back: two threads on two cores of which one was busy made
a fit tens of times slower, one thread hardly slower at all. So the load of the others is watched, and threads that
would have no core of their own are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PERIOD_SECONDS = 0.5  # seconds between two looks
TOLERATED_CORES = 0.35  # cores that others may use before a thread is given up: less than that costs less than the thread


@dataclass(frozen=True)
class CpuSeconds:
    """Processor seconds since some fixed moment, on the processors that this process may use."""

    all: float  # of every program, and of other guests of the same host
    own: float


def suitable_threads(most: int, cores: int, others: float) -> int:
    """Threads to use, 1 to `most`, on `cores` of which other programs keep `others` (in cores) busy."""
    return max(1, min(most, int(cores - others + TOLERATED_CORES)))


class ThreadGovernor:
    """Sets the number of threads from time to time; `adjust` has to be called by the thread that computes."""

    def __init__(
        self,
        most: int,
        cores: int,
        read: Callable[[], CpuSeconds],
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._most, self._cores, self._read, self._clock, self._use = most, cores, read, clock, use
        self._threads = most
        self._at, self._usage = clock(), read()

    def adjust(self) -> None:
        """Look at what the others did since the last look, and use as many threads as suit; cheap if it was a moment ago."""
        now = self._clock()
        if now - self._at < PERIOD_SECONDS:
            return
        usage = self._read()
        others = (usage.all - self._usage.all - (usage.own - self._usage.own)) / (now - self._at)
        self._at, self._usage = now, usage
        threads = suitable_threads(self._most, self._cores, others)
        if threads != self._threads:
            self._use(threads)
            self._threads = threads


def linux_usage(stat: Path = Path("/proc/stat")) -> CpuSeconds:
    """From the kernel's counters. Raises OSError where there are none."""
    tick = os.sysconf("SC_CLK_TCK")
    names = {f"cpu{n}" for n in os.sched_getaffinity(0)}
    busy = 0
    for line in stat.read_text(encoding="ascii").splitlines():
        name, *counters = line.split()
        if name in names:  # user, nice, system, idle, iowait, irq, softirq, steal
            busy += sum(map(int, counters[:8])) - int(counters[3]) - int(counters[4])
    return CpuSeconds(busy / tick, time.process_time())


_governor: ThreadGovernor | None = None  # one a process, as the number of threads is


def govern() -> None:
    """From now on `adjust` keeps to the cores that other programs leave free, where the system tells."""
    global _governor
    most = torch.get_num_threads()
    if most == 1:
        return
    try:
        _governor = ThreadGovernor(most, len(os.sched_getaffinity(0)), linux_usage)
    except (OSError, AttributeError):
        _governor = None


def adjust() -> None:
    """To be called between passes of a model; does nothing unless `govern` was called."""
    if _governor is not None:
        _governor.adjust()
