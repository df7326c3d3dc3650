"""The machine and the installation this process runs on: memory, processors, versions of packages, the commit. Needs no torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("solver", "torch", "transformers", "peft", "tokenizers", "bitsandbytes", "numpy", "unsloth", "vllm")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of host memory that new processes can have: what the system says, or less by a container's limit."""
    system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
        system = int(found.group(1)) * 1024 if found else system
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, as installed; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(facts: Mapping[str, str]) -> dict[str, Any]:
    """The machine: processors this process may use, memory in bytes, and what the worker said of its device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": _cpu(), "cores": cores, "memory": memory, "system": platform.platform(), **facts}


def commit() -> str:
    """The commit of the checkout the package runs from, "+" appended if it was changed.

    Outside of one what the environment variable `SOLVER_COMMIT` says, for copies of a checkout; else empty.
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
