"""Small real wheels, and bundles of them as `python -m offline_wheels build` makes them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from offline_wheels import install
from offline_wheels.lock import uv_command
from offline_wheels.target import WheelError

INSTALLER = Path(install.__file__)
BASE = "/usr/bin:/bin"  # a PATH without uv, so that pip installs


def _with_uv() -> str:
    try:
        return f"{Path(uv_command()[0]).parent}:{BASE}"
    except WheelError:
        return BASE


WITH_UV = _with_uv()  # a PATH with it, if it is installed: it takes a tenth of the time


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: tuple[str, ...] = (),
    source: str = "",
    tag: str = "py3-none-any",
    header: str = "License-Expression: MIT",
    payload: int = 0,
) -> Path:
    """A wheel with one module, named as the distribution with underscores, and `payload` bytes beside it."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        f"{module}.py": source or f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{header}\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if payload:
        files[f"{module}.data.bin"] = "x" * payload
    record = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(record) + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_in_zip, text in files.items():
            archive.writestr(zipfile.ZipInfo(name_in_zip), text)
    return path


def make_image(folder: Path, *wheels: Path) -> Path:
    """A folder for PYTHONPATH with these wheels unpacked: packages that a machine has."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def make_bundle(folder: Path, wheels: dict[Path, tuple[str, ...]], **changes: Any) -> Path:
    """A bundle for this machine: wheels with what each requires; `changes` to the manifest."""
    (folder / "wheels").mkdir(parents=True)
    packages: dict[str, Any] = {}
    for path, requires in wheels.items():
        name, version = path.name.split("-")[:2]
        data = path.read_bytes()
        (folder / "wheels" / path.name).write_bytes(data)
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        packages[install.normal(name)] = {
            "version": version,
            "licence": "MIT",
            "requires": {"": list(requires)},
            "wheel": {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "unpacked": unpacked},
        }
    manifest = {
        "format": install.FORMAT,
        "target": folder.name,
        "rank": 1,
        "python": ".".join(str(part) for part in sys.version_info[:2]),
        "machine": os.uname().machine,
        "glibc": "2.17",
        "min_driver": 0,
        "imports": [],
        "gpu_imports": [],
        "image": {},
        "always": [],
        "requirements": [next(iter(packages))] if packages else [],
        "packages": packages,
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "install.py").write_bytes(INSTALLER.read_bytes())
    return folder


def run_installer(
    *bundles: Path,
    prefix: Path,
    seconds: float = 60,
    path: str | None = None,
    image: Path | None = None,
    options: tuple[str, ...] = (),
    **kwargs: Any,
) -> tuple[int, dict[str, Any]]:
    """Runs install.py as a notebook does: exit code and the last line on stdout. `path` replaces PATH."""
    env = {**os.environ, "PATH": path or WITH_UV, **({"PYTHONPATH": str(image)} if image else {})}
    command = [sys.executable, str(INSTALLER), "--prefix", str(prefix), "--seconds", str(seconds), "--json", *options]
    for bundle in bundles:
        command += ["--wheels", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, **kwargs)
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def program(folder: Path, name: str, script: str) -> Path:
    """An executable shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
