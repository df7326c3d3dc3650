"""Memory of a device and of this process: how much was used at most, whether it ran out, and whether the device still works."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from solver.errors import one_line

if TYPE_CHECKING:
    import torch

_WORDS = (  # in the messages of out-of-memory errors that are plain RuntimeErrors
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the host ran out of memory."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def out_of_memory_line(error: BaseException) -> str:
    """One line that says that memory ran out, with the first line of the error."""
    said = str(error).strip().splitlines()
    return f"out of memory: {said[0]}" if said else "out of memory"


def broken(device: torch.device) -> str:
    """Why this process cannot use a device any more, in one line; empty if it can. After some errors CUDA refuses everything."""
    if device.type != "cuda":
        return ""
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return one_line(error)
    return ""


def peak_memory(device: torch.device | str) -> int:
    """Peak memory of this process in bytes: on the host, plus on `device` if that is a GPU."""
    on_device = 0
    if str(device).startswith("cuda"):
        import torch

        on_device = torch.cuda.max_memory_reserved(device)
    return on_device + _host_peak()


def _host_peak() -> int:
    """Peak memory on the host in bytes, from /proc if there is one: the count of getrusage includes memory of the parent."""
    try:
        if peak := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")):
            return int(peak[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
