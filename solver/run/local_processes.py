"""The processes of a run on this machine: the workers with the network, and those that search for programs."""

from __future__ import annotations

import os
from pathlib import Path

from solver.budget.program_share import ProcessCount, ProgramTime, program_processes
from solver.host import free_memory
from solver.messages import WorkerConfig
from solver.run.executors.base import Executor
from solver.run.executors.local import PROGRAM_COMMAND, LocalExecutor
from solver.run.placement import Placement, place, visible_gpus, weight_bytes
from solver.run.program_search import ProgramResources
from solver.run.types import RunOptions
from solver.types import ProgramConfig

WORKER_LOG, PROGRAM_LOG = "worker.log", "programs.log"  # what each kind of processes writes
PROGRAM_ADDRESS_SPACE = 4_000_000_000  # bytes: their libraries reserve some of them without using them
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def local_notes(options: RunOptions) -> tuple[str, ...]:
    """What people should know of these processes. Raises InputError if more devices are asked for than there are."""
    placement = _placement(options)
    note = _processes(options, placement).note
    return (*placement.notes, *([note] if note else ()))


def local_executor(options: RunOptions, scratch: Path) -> Executor:
    """The worker processes."""
    placement = _placement(options)
    config = WorkerConfig(placement.settings, options.model, scratch, options.adapter)
    return LocalExecutor(config, options.out / WORKER_LOG, len(placement.environments), placement.environments)


def local_programs(options: RunOptions) -> ProgramResources | None:
    """The processes that search for programs; None if there are none."""
    processes = _processes(options, _placement(options))
    if not processes.count:
        return None
    config, environments = ProgramConfig(PROGRAM_ADDRESS_SPACE), [ONE_THREAD] * processes.count
    executor = LocalExecutor(config, options.out / PROGRAM_LOG, processes.count, environments, PROGRAM_COMMAND)
    return ProgramResources(executor, ProgramTime(options.settings.programs.seconds, processes.count, processes.beside))


def _placement(options: RunOptions) -> Placement:
    assert options.model is not None
    return place(options.settings, visible_gpus(), _cores(), free_memory(), weight_bytes(options.model))


def _processes(options: RunOptions, placement: Placement) -> ProcessCount:
    """The processes that search for programs beside these workers."""
    wanted, workers = options.settings.programs, len(placement.environments)
    if not wanted.enabled:
        return ProcessCount(0, beside=False)
    return program_processes(wanted.processes, _cores(), workers, placement.on_gpu, placement.memory_left)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
