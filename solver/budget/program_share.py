"""How many processes search for programs, and for how long each task is searched.

Where the network works on a GPU, program search has the cores that its workers leave idle, to the end of the run. Where it
works on the processor, both compete for the cores: program search gets a part of them and a share of the time, because its first
second on a task finds most of what it can find (docs/programs.md, "Numbers"). Without a network it has all cores and all of the
time.
"""

from __future__ import annotations

from dataclasses import dataclass

SECONDS, SECONDS_BESIDE = 10.0, 2.0  # for a task at most, on idle cores and beside workers on the same cores
SHARE_BESIDE = 0.4  # of the time, for each process beside workers on the same cores
CORES_BESIDE = 0.5  # of the cores, for processes beside workers on the same cores
MIN_SECONDS = 0.5  # for a task: half of it finds less (docs/programs.md, "Numbers")
PROCESS_MEMORY = 1_200_000_000  # bytes of the host that a process may need


@dataclass(frozen=True)
class ProcessCount:
    """How many processes search for programs, whether they share their cores with workers, and a note for people."""

    count: int
    beside: bool
    note: str = ""


def program_processes(wanted: int | None, cores: int, workers: int, on_gpu: bool, memory: float) -> ProcessCount:
    """The processes for `wanted` ones (None: as many as make sense) beside `workers` workers.

    `memory` is in bytes, of the host, as the workers leave it. Where it does not suffice for one process, there is none.
    """
    beside = workers > 0 and not on_gpu
    if wanted is None:
        wanted = cores if not workers else int(cores * CORES_BESIDE) if beside else cores - workers - 1
        wanted = max(1, wanted)
    count = min(wanted, int(max(memory, 0.0) // PROCESS_MEMORY))
    note = ""
    if count < wanted:
        free, need = f"{max(memory, 0.0) / 1e9:.1f} GB of host memory are free", f"a process needs {PROCESS_MEMORY / 1e9:.1f} GB"
        note = f"program search: {free}, {need}: {count} of {wanted} processes are started"
    return ProcessCount(count, beside, note)


class ProgramTime:
    """Divides the process seconds of program search among the tasks that wait for it."""

    def __init__(self, most: float | None, processes: int, beside: bool) -> None:
        """`most` seconds for a task (None: the usual); with `beside`, the processes have only a share of the time."""
        self._most = most or (SECONDS_BESIDE if beside else SECONDS)
        self._processes = processes
        self._share = SHARE_BESIDE if beside else 1.0
        self._whole: float | None = None  # process seconds in all; None: not known before the first question
        self.used = 0.0  # process seconds of the searches that have ended

    def seconds(self, left: float, waiting: int, committed: float) -> float | None:
        """How long the next of `waiting` tasks is searched; None if there is no time for it.

        `left` are the seconds until the end of work, `committed` the process seconds that searches in progress may still take.
        """
        if self._whole is None:
            self._whole = self._share * self._processes * left
        pot = min(self._whole - self.used, self._processes * left) - committed
        if pot < MIN_SECONDS or left < MIN_SECONDS:
            return None
        return min(self._most, max(MIN_SECONDS, pot / max(waiting, 1)), left)
