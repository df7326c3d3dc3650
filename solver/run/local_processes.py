"""The processes of a run on this machine: the workers with the network, and those that search for programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from solver.budget.program_share import ProcessCount, ProgramTime, program_processes
from solver.host import cores, free_memory
from solver.messages import WorkerConfig
from solver.run.executors.base import Executor
from solver.run.executors.local import PROGRAM_COMMAND, EarlyWorkers, LocalExecutor
from solver.run.placement import Placement, place, visible_gpus, weight_bytes
from solver.run.program_search import ProgramResources
from solver.run.types import RunOptions
from solver.types import ProgramConfig

WORKER_LOG, PROGRAM_LOG = "worker.log", "programs.log"  # what each kind of processes writes
PROGRAM_ADDRESS_SPACE = 4_000_000_000  # bytes: their libraries reserve some of them without using them
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def local_placement(options: RunOptions) -> Placement:
    """Where the workers run on this machine. Raises InputError if more devices are asked for than there are.

    For a run on a cluster: where they would run here, for this machine may be one of its nodes.
    """
    assert options.model is not None
    if options.settings.workers.executor == "ray":
        free = {"model": {"device": "auto"}, "workers": {"devices": None}}
        settings = options.settings.model_copy(
            update={room: getattr(options.settings, room).model_copy(update=keys) for room, keys in free.items()}
        )
        return replace(place(settings, visible_gpus(), cores(), free_memory(), weight_bytes(options.model)), notes=())
    return place(options.settings, visible_gpus(), cores(), free_memory(), weight_bytes(options.model))


def local_executor(options: RunOptions, scratch: Path, early: EarlyWorkers | None = None) -> Executor:
    """The worker processes; first those that were started early."""
    placement = local_placement(options)
    config = WorkerConfig(placement.settings, options.model, scratch, options.adapter)
    return LocalExecutor(config, options.out / WORKER_LOG, len(placement.environments), placement.environments, early=early)


def program_processes_beside(placement: Placement, options: RunOptions) -> ProcessCount:
    """The processes that search for programs beside these workers."""
    wanted, workers = options.settings.programs, len(placement.environments)
    if not wanted.enabled:
        return ProcessCount(0, beside=False)
    return program_processes(wanted.processes, cores(), workers, placement.on_gpu, placement.memory_left)


def local_programs(options: RunOptions) -> ProgramResources | None:
    """The processes that search for programs; None if there are none."""
    processes = program_processes_beside(local_placement(options), options)
    if not processes.count:
        return None
    config, environments = ProgramConfig(PROGRAM_ADDRESS_SPACE), [ONE_THREAD] * processes.count
    executor = LocalExecutor(config, options.out / PROGRAM_LOG, processes.count, environments, PROGRAM_COMMAND)
    return ProgramResources(executor, ProgramTime(options.settings.programs.seconds, processes.count, processes.beside))
