"""Where workers run: `workers.per_device` processes on each device, or fewer if host memory does not suffice for all.

Each worker sees only its own GPU: its environment sets CUDA_VISIBLE_DEVICES before its first import. Needs no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from solver.config import Settings
from solver.errors import InputError

# Estimates of the host memory of a worker, used if `workers.memory` is not set.
IMPORTED = 1_500_000_000  # bytes: torch and the libraries, with the host's side of a CUDA context
ON_CPU = 4.0  # times the bytes of the weights' files: weights, gradients, two moments
ON_GPU = 1.2  # times the same: the files are read through host memory on their way to the device


@dataclass(frozen=True)
class Placement:
    """The workers of a run: the variables added to the environment of each, the settings of all, and notes for people."""

    environments: tuple[Mapping[str, str], ...]
    settings: Settings
    notes: tuple[str, ...] = ()
    on_gpu: bool = False
    memory_left: float = 0.0  # bytes of the host that the workers leave


def place(settings: Settings, gpus: tuple[str, ...], cores: int, memory: int, weights: int) -> Placement:
    """One worker or more for each device in use, fewer if `memory` (bytes of the host) does not suffice for all.

    `gpus` are names for CUDA_VISIBLE_DEVICES, `weights` the bytes of the model's files. A run without a network has no workers.
    Raises InputError if more GPUs are asked for than there are.
    """
    if not settings.network:
        return Placement((), settings, memory_left=float(memory))
    chosen = gpus_in_use(settings, gpus)
    per_device = settings.workers.per_device
    wanted = per_device * max(1, len(chosen))
    need = settings.workers.memory or IMPORTED + weights * (ON_GPU if chosen else ON_CPU)
    count = min(wanted, max(1, int(memory // need)))
    notes = []
    if memory < need * wanted:
        fitting = f"{count} of {wanted} workers are started" if count < wanted else "the only worker may run out of memory"
        notes.append(f"host memory: {memory / 1e9:.1f} GB are free, a worker needs {need / 1e9:.1f} GB: {fitting}")
    if chosen:
        # in turn over the devices, so that every device gets a worker before one gets two
        environments = tuple({"CUDA_VISIBLE_DEVICES": chosen[number % len(chosen)]} for number in range(count))
        model = settings.model.model_copy(update={"device": "cuda:0"})
        settings = settings.model_copy(update={"model": model})
        return Placement(environments, settings, tuple(notes), on_gpu=True, memory_left=memory - need * count)
    threads = settings.model.threads
    if count > 1 and not threads:
        threads = max(1, cores // count)
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"threads": threads})})
    environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    return Placement((environment,) * count, settings, tuple(notes), memory_left=memory - need * count)


def gpus_in_use(settings: Settings, gpus: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the GPUs that the settings ask for. Raises InputError if there are fewer."""
    device, devices = settings.model.device, settings.workers.devices
    if device == "cpu":
        return ()
    first = int(found.group(1)) if (found := re.fullmatch(r"cuda:(\d+)", device)) else 0
    if devices is not None and first + devices > len(gpus):
        there = "no GPU" if not gpus else f"{len(gpus)} GPU{'s' * (len(gpus) > 1)} ({', '.join(gpus)})"
        raise InputError(f"workers.devices = {devices} and model.device = {device}, but this machine shows {there}")
    if devices is None:
        devices = 1 if found else len(gpus)
    return gpus[first : first + devices]  # empty: the worker says whether the model can run on the processor


def visible_gpus(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> tuple[str, ...]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; found without CUDA, from what the driver shows."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        # CUDA ignores everything from the first invalid name on
        usable = next((place for place, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
        return tuple(names[:usable])
    gpus = list((root / "proc/driver/nvidia/gpus").glob("*")) or list((root / "dev").glob("nvidia[0-9]*"))
    return tuple(map(str, range(len(gpus))))


def weight_bytes(folder: Path) -> int:
    """Bytes of a model folder's safetensors."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
