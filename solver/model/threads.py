"""Adapts the number of threads to the cores that other programs leave free.

OpenMP's threads wait for each other after every operation. If each core has one thread and another program uses one of the
cores, every operation waits until the descheduled thread runs again. On two cores with one of them busy, a fit with two threads
was tens of times slower, and with one thread hardly slower at all. So this module measures the load of other programs, and uses
only as many threads as have a core of their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PERIOD_SECONDS = 0.5  # between two measurements
TOLERATED_CORES = 0.35  # that others may use before a thread is given up: up to this, losing the thread costs more


@dataclass(frozen=True)
class CpuSeconds:
    """CPU seconds since a fixed moment, on the cores that this process may use."""

    all: float  # of all programs, and of other virtual machines on the host
    own: float  # of this process


def suitable_threads(limit: int, cores: int, others: float) -> int:
    """The number of threads to use, 1 to `limit`, on `cores` cores of which other programs use `others`."""
    return max(1, min(limit, int(cores - others + TOLERATED_CORES)))


class ThreadGovernor:
    """Sets the number of threads, 1 to `limit`. The thread that computes has to call `adjust` again and again."""

    def __init__(
        self,
        limit: int,
        cores: int,
        read: Callable[[], CpuSeconds],
        clock: Callable[[], float] = time.monotonic,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self._limit, self._cores, self._read, self._clock, self._use = limit, cores, read, clock, use
        self._threads = limit
        self._at, self._usage = clock(), read()

    def adjust(self) -> None:
        """Measure the load of other programs since the last call, and set the number of threads.

        Does nothing if the last measurement is less than `PERIOD_SECONDS` old.
        """
        now = self._clock()
        if now - self._at < PERIOD_SECONDS:
            return
        usage = self._read()
        others = (usage.all - self._usage.all - (usage.own - self._usage.own)) / (now - self._at)
        self._at, self._usage = now, usage
        threads = suitable_threads(self._limit, self._cores, others)
        if threads != self._threads:
            self._use(threads)
            self._threads = threads


def linux_usage(stat: Path = Path("/proc/stat")) -> CpuSeconds:
    """CPU seconds from the counters of the Linux kernel. Raises OSError on other systems."""
    tick = os.sysconf("SC_CLK_TCK")
    names = {f"cpu{n}" for n in os.sched_getaffinity(0)}
    busy = 0
    for line in stat.read_text(encoding="ascii").splitlines():
        name, *counters = line.split()
        if name in names:  # user, nice, system, idle, iowait, irq, softirq, steal
            busy += sum(map(int, counters[:8])) - int(counters[3]) - int(counters[4])
    return CpuSeconds(busy / tick, time.process_time())


_governor: ThreadGovernor | None = None  # a global, because the number of threads is a state of the process


def govern() -> None:
    """Make `adjust` set the number of threads from now on, if this process has several and the system counts CPU seconds."""
    global _governor
    limit = torch.get_num_threads()
    if limit == 1:
        return
    try:
        _governor = ThreadGovernor(limit, len(os.sched_getaffinity(0)), linux_usage)
    except (OSError, AttributeError):
        _governor = None


def adjust() -> None:
    """Set the number of threads, between two passes of a model. Does nothing if `govern` was not called."""
    if _governor is not None:
        _governor.adjust()
