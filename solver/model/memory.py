"""A device in trouble: the most memory this process has held, how to know that it ran out, and whether the device still works."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_WORDS = (  # of errors that come as a plain RuntimeError
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the host could not allocate."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def out_of_memory_line(error: BaseException) -> str:
    """One line that says so, with what the allocator said, if anything."""
    said = str(error).strip().splitlines()
    return f"out of memory: {said[0]}" if said else "out of memory"


def broken(device: torch.device) -> str:
    """Why a device does no more work for this process, in one line: after some errors CUDA refuses everything. Empty: it does."""
    if device.type != "cuda":
        return ""
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return ""


def peak_memory(device: torch.device | str) -> int:
    """Bytes: the most that this process has held on the host, and on `device` if that is a GPU."""
    on_device = 0
    if str(device).startswith("cuda"):
        import torch

        on_device = torch.cuda.max_memory_reserved(device)
    return on_device + _host_peak()


def _host_peak() -> int:
    """Bytes. Where there is /proc by its count: that of getrusage begins with what the parent held as it started this process."""
    try:
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8")):
            return int(found[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
