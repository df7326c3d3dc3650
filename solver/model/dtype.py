"""Chooses the device, and the dtype that it multiplies fastest, by measuring: CPUs without bf16 units are ~50x slower in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from solver.config import ModelSettings
from solver.errors import InputError

_SIDE = 256  # rows and columns of the measured matrices: 34 MFLOP, about a millisecond in fp32 on one core
_GAIN = 1.2  # bf16 is taken if it is so many times as fast as fp32, because it rounds more


def pick_device(name: str) -> torch.device:
    """The device of the setting `name`. "auto": the first CUDA device, else the CPU. Raises InputError if there is none."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"setting model.device: {name!r} is no device; write cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"setting model.device: {name!r} is not supported; use cpu or cuda")
    if device.type == "cuda" and torch.cuda.device_count() and not torch.cuda.is_available():  # the driver counts the devices
        raise InputError(
            f"setting model.device: {name!r} asked for, but torch cannot use the CUDA devices here; solver doctor says why"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"setting model.device: {name!r} asked for, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def pick_dtype(settings: ModelSettings, device: torch.device) -> torch.dtype:
    """The dtype of the settings. "auto": that which the device multiplies fastest."""
    by_name = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return by_name[settings.dtype] if settings.dtype != "auto" else fastest_dtype(device)


@cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """CUDA: bf16 if the device has units for it, else fp16. CPU: bf16 if it is faster, else fp32; measured once a process."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # seconds of this process on its cores: a wall clock would also count those in which other programs had them
    single, half = (matmul_seconds(dtype, device, clock=time.process_time) for dtype in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if single >= _GAIN * half else torch.float32


def matmul_seconds(
    dtype: torch.dtype, device: torch.device, side: int = _SIDE, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds in which the device multiplies two matrices of `side` rows and columns: the best of three tries."""
    a = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for trial in range(4):
        start = clock()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if trial:  # the first one is a warm-up
            best = min(best, clock() - start)
    return best
