"""What a summary says of where it was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from solver.run import summary


def installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the package seem to lie below `root`."""
    monkeypatch.setattr(summary, "__file__", str(root / "solver" / "run" / "summary.py"))
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
    assert summary.commit() == git(root, "rev-parse", "HEAD")
    (root / "file").write_text("2")
    assert summary.commit() == git(root, "rev-parse", "HEAD") + "+"


def test_a_copy_names_the_commit_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    monkeypatch.delenv("SOLVER_COMMIT", raising=False)
    assert summary.commit() == ""
    monkeypatch.setenv("SOLVER_COMMIT", "0c1d2e3f")
    assert summary.commit() == "0c1d2e3f"
