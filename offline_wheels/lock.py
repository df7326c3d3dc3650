"""Locks: the exact wheels of a target, chosen by `uv pip compile`, each with the hash of the one file that fits the target.

A lock is a requirements file: pip reads it as it is. uv lists every file of a release, for all platforms; here one line is kept
for each package, and no address, so that a lock works with every index that holds the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from offline_wheels.install import normal
from offline_wheels.target import PROJECT, Target, WheelError
from offline_wheels.wheel import best_wheel, tags_of

LINE = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})  # (?P<file>\S+\.whl)$")


@dataclass(frozen=True)
class Locked:
    """One wheel of a lock."""

    name: str  # in normal form
    version: str
    sha256: str
    file: str

    @property
    def line(self) -> str:
        """Its line in the lock."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}  # {self.file}"


def inputs_digest(target: Target, project: Path = PROJECT) -> str:
    """A digest of all that a lock is made from, apart from the index: it changes when the lock has to be made anew."""
    inputs = {
        "requirements": sorted(target.requirements),
        "extras": sorted(target.extras),
        "kept": target.kept,
        "python": target.python,
        "glibc": target.glibc,
        "machine": target.machine,
        "not_after": str(target.not_after),
        "not_after_except": sorted(target.not_after_except),
        "project": sorted(_project_requirements(target.extras, project)),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def read_lock(target: Target) -> dict[str, Locked]:
    """The locked wheels by name. WheelError if there is no lock, it cannot be read, or was made from other inputs."""
    try:
        lines = target.lock.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise WheelError(f"{target.name}: has no lock; make it with: python -m offline_wheels lock {target.name}") from error
    locked = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.match(line)
        if not match:
            raise WheelError(f"{target.lock.name}:{number}: not a line of a lock: {line[:80]}")
        locked[match["name"]] = Locked(**match.groupdict())
    return locked


def is_in_step(target: Target, project: Path = PROJECT) -> bool:
    """Whether the lock was made from the target and the pyproject.toml of today."""
    return f"# inputs: {inputs_digest(target, project)}" in target.lock.read_text(encoding="utf-8").splitlines()


def make_lock(target: Target, torch_index: str = "", project: Path = PROJECT) -> dict[str, Locked]:
    """Resolves a target against the package index of this machine and writes its lock. WheelError if that is impossible.

    `torch_index` is the address of an index with CUDA or CPU builds of torch, in which "{build}" stands for the target's build.
    """
    uv = uv_command()
    with tempfile.TemporaryDirectory() as scratch:
        requirements, constraints, output = (
            Path(scratch) / name for name in ("requirements.in", "constraints.in", "pylock.toml")
        )
        requirements.write_text("".join(f"{line}\n" for line in target.requirements))
        constraints.write_text("".join(f"{name}=={Version(version).public}\n" for name, version in target.kept.items()))
        command = [*uv, "pip", "compile", "--quiet", "--format", "pylock.toml", "--output-file", str(output)]
        command += [
            "--python-version",
            target.python,
            "--python-platform",
            f"{target.machine}-manylinux_{target.glibc.replace('.', '_')}",
        ]
        command += [
            "--only-binary",
            ":all:",
            "--no-sources",
            "--constraints",
            str(constraints),
            *index_options(torch_index, target),
        ]
        command += [f"--extra={extra}" for extra in target.extras]
        if target.not_after:
            command += ["--exclude-newer", str(target.not_after)]
            command += [f"--exclude-newer-package={name}=2999-01-01" for name in target.not_after_except]
        done = subprocess.run([*command, str(project / "pyproject.toml"), str(requirements)], capture_output=True, text=True)
        if done.returncode:
            said = " ".join(done.stderr.split())
            raise WheelError(f"{target.name}: uv finds no set of versions: {said}")
        resolved = tomllib.loads(output.read_text(encoding="utf-8"))["packages"]
    locked = [_chosen(package, target) for package in resolved]
    version = subprocess.run([*uv, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    head = [
        f"# Made by `python -m offline_wheels lock {target.name}` with uv {version}; do not edit.",
        f"# Python {target.python}, glibc {target.glibc}, {target.machine}.",
        f"# inputs: {inputs_digest(target, project)}",
    ]
    target.lock.parent.mkdir(exist_ok=True)
    target.lock.write_text("\n".join([*head, *(each.line for each in sorted(locked, key=lambda each: each.name))]) + "\n")
    return {each.name: each for each in locked}


def _chosen(package: dict[str, Any], target: Target) -> Locked:
    by_file = {(wheel.get("name") or Path(wheel.get("url") or wheel["path"]).name): wheel for wheel in package.get("wheels", [])}
    by_file = {file.replace("%2B", "+"): wheel for file, wheel in by_file.items()}
    file = best_wheel(list(by_file), tags_of(target))
    if file is None:
        raise WheelError(f"{target.name}: {package['name']} {package['version']} has no wheel for Python {target.python}")
    digest = by_file[file].get("hashes", {}).get("sha256")
    if not digest:
        raise WheelError(f"{target.name}: the index gives no sha256 for {file}")
    return Locked(normal(package["name"]), package["version"], digest, file)


def _project_requirements(extras: tuple[str, ...], project: Path) -> set[str]:
    """What pyproject.toml asks for, by itself and by these extras and those that they name."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = set(settings["dependencies"])
    queue, seen = list(extras), set()
    while queue:
        extra = queue.pop()
        for text in settings["optional-dependencies"][extra] if extra not in seen else []:
            requirement = Requirement(text)
            found.add(text)
            queue += requirement.extras if normal(requirement.name) == normal(settings["name"]) else []
        seen.add(extra)
    return found


def uv_command() -> list[str]:
    """How uv is started. WheelError if it is not installed."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise WheelError("uv is not installed; install it with: pip install -e '.[tools]'")
    return [found]


def index_options(torch_index: str, target: Target) -> list[str]:
    """Options of uv for the indexes to ask: the one that pip is configured with, unless uv has its own, and that of torch."""
    options = []
    if not any(name in os.environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX")):
        index = os.environ.get("PIP_INDEX_URL") or _pip_setting("global.index-url")
        options += ["--default-index", index] if index else []
    if torch_index:
        options += ["--index", torch_index.replace("{build}", target.torch_build), "--index-strategy", "unsafe-best-match"]
    return options


def _pip_setting(name: str) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "config", "get", name], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
