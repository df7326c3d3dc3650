"""What a process says of the machine and the installation it runs on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from solver import host


def installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the package seem to lie below `root`."""
    monkeypatch.setattr(host, "__file__", str(root / "solver" / "host.py"))
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    return subprocess.run(["git", "-C", root, *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_names_its_commit_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = installed(tmp_path, monkeypatch)
    git(root, "init", "--quiet")
    (root / "file").write_text("1")
    git(root, "add", "file")
    git(root, "commit", "--quiet", "-m", "first")
    monkeypatch.setenv("SOLVER_COMMIT", "other")
    assert host.commit() == git(root, "rev-parse", "HEAD")
    (root / "file").write_text("2")
    assert host.commit() == git(root, "rev-parse", "HEAD") + "+"


def test_a_copy_names_the_commit_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    monkeypatch.delenv("SOLVER_COMMIT", raising=False)
    assert host.commit() == ""
    monkeypatch.setenv("SOLVER_COMMIT", "0c1d2e3f")
    assert host.commit() == "0c1d2e3f"


def test_free_memory_is_what_a_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 99 kB\nMemAvailable:      50 kB\n")
    assert host.free_memory(tmp_path) == 50 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("30000\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("10000\n")
    assert host.free_memory(tmp_path) == 20000
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert host.free_memory(tmp_path) == 50 * 1024
    assert host.free_memory() > 0
