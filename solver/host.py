"""Facts about the machine and the installation: memory, CPU, package versions, commit. Needs no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("solver", "torch", "transformers", "peft", "tokenizers", "bitsandbytes", "numpy", "ray", "unsloth", "vllm")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of host memory that new processes can use: what the system has free, or what a container's limit leaves if less."""
    system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        system = int(available.group(1)) * 1024 if available else system
    except OSError:
        pass
    groups = (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    for limit, used in groups:
        try:
            return min(system, max(0, int((root / limit).read_text()) - int((root / used).read_text())))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return system


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """The installed versions of Python and of the packages that a run uses, by name. Imports none of them."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def hardware(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The machine: the CPU and the cores that this process may use, memory in bytes, and the `facts` of a worker."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": _cpu(), "cores": cores(), "memory": memory, "system": platform.platform(), **facts}


def commit() -> str:
    """The commit of the checkout that the package runs from, with a "+" if files were changed.

    Outside of a checkout: the environment variable `SOLVER_COMMIT`, which copies of a checkout may set, or empty.
    """
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return os.environ.get("SOLVER_COMMIT", "")
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=2, check=True).stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
