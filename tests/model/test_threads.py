"""The number of threads follows what other programs leave."""

from __future__ import annotations

import sys
import time

import pytest

from solver.model.threads import PERIOD_SECONDS, TOLERATED_CORES, CpuSeconds, ThreadGovernor, linux_usage, suitable_threads


class Machine:
    """Cores whose load the test sets; time moves by `run`."""

    def __init__(self, cores: int, most: int) -> None:
        self.now, self.others, self.own, self.used = 0.0, 0.0, 0.0, most
        self.governor = ThreadGovernor(
            most, cores, lambda: CpuSeconds(self.others + self.own, self.own), lambda: self.now, self._use
        )

    def _use(self, threads: int) -> None:
        self.used = threads

    def run(self, seconds: float, others: float) -> int:
        """Work with the threads in use while others keep `others` cores busy; the threads in use afterwards."""
        self.now += seconds
        self.others += others * seconds
        self.own += self.used * seconds
        self.governor.adjust()
        return self.used


@pytest.mark.parametrize(
    ("most", "cores", "others", "threads"),
    [
        (2, 2, 0.0, 2),
        (2, 2, TOLERATED_CORES, 2),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),
        (8, 8, 3.1, 5),
        (4, 8, 3.1, 4),
        (2, 2, -0.01, 2),
    ],
)
def test_leaves_out_the_threads_that_have_no_core(most: int, cores: int, others: float, threads: int) -> None:
    assert suitable_threads(most, cores, others) == threads


def test_gives_up_a_thread_and_takes_it_back() -> None:
    machine = Machine(cores=2, most=2)
    assert machine.run(PERIOD_SECONDS, others=0.0) == 2
    assert machine.run(PERIOD_SECONDS, others=1.0) == 1
    assert machine.run(PERIOD_SECONDS, others=1.0) == 1
    assert machine.run(PERIOD_SECONDS, others=0.0) == 2


def test_looks_once_a_period() -> None:
    machine = Machine(cores=2, most=2)
    assert machine.run(PERIOD_SECONDS / 3, others=1.0) == 2
    assert machine.run(PERIOD_SECONDS / 3, others=1.0) == 2
    assert machine.run(PERIOD_SECONDS, others=1.0) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the load of others is not known")
def test_the_kernel_counts_our_own_work_among_all() -> None:
    before = linux_usage()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = linux_usage()
    assert after.own - before.own >= 0.3
    assert after.all - before.all >= 0.3 - 0.05  # it counts in ticks of a hundredth of a second
