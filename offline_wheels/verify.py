"""Verifies a bundle as the notebook uses it: a fresh environment, no network, the bundle's own install.py, `pip check`, imports.

What this machine cannot show is said, a line each: without a GPU that is what needs one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offline_wheels import install
from offline_wheels.build import INSTALLER
from offline_wheels.lock import read_lock
from offline_wheels.network import without_network
from offline_wheels.target import Target, WheelError
from offline_wheels.wheel import read_wheel, sha256_of

SECONDS = 3600  # for the installation and the imports; verification is not what is in a hurry


def verify(bundle: Path, target: Target, *, python: str = "", with_image: bool = True, say: Callable[[str], None] = print) -> int:
    """Prints what is right, wrong and not verified; exit code 1 if something is wrong.

    `with_image` first installs from the package index what the target's image has, so that imports find it.
    """
    return _Verification(bundle, target, say).run(python, with_image)


class _Verification:
    def __init__(self, bundle: Path, target: Target, say: Callable[[str], None]):
        self.bundle, self.target, self.say = bundle, target, say
        self.wrong = 0

    def run(self, python: str, with_image: bool) -> int:
        bundles, problems = install.find_bundles([self.bundle])
        if problems:
            raise WheelError(f"{problems[0]}; make it with: python -m offline_wheels build {self.target.name}")
        found = bundles[0]
        if self.files_are_right(found) and self.requirements_are_met(found):
            interpreter = find_python(self.target.python, python)
            if interpreter:
                with tempfile.TemporaryDirectory(prefix="wheels-") as scratch:
                    self.installs(found, interpreter, Path(scratch), with_image)
            else:
                self.not_verified(f"installation and imports: no Python {self.target.python} was found; give --python PATH")
        return 1 if self.wrong else 0

    def right(self, what: str) -> None:
        self.say(f"{self.target.name}: ok: {what}")

    def failed(self, what: str) -> None:
        self.wrong += 1
        self.say(f"{self.target.name}: FAILED: {what}")

    def not_verified(self, what: str) -> None:
        self.say(f"{self.target.name}: not verified here: {what}")

    def files_are_right(self, bundle: install.Bundle) -> bool:
        """Whether the files are those of the manifest, and the manifest is that of the lock."""
        packages = bundle.manifest["packages"]
        wheels = {name: package["wheel"] for name, package in packages.items() if package["wheel"]}
        before = self.wrong
        try:
            install.check_wheels(bundle, sorted(wheels), time.monotonic() + SECONDS)
        except (install.Refused, install.Failed) as error:
            self.failed(str(error))
        locked = read_lock(self.target)
        if bundle.manifest["lock_sha256"] != sha256_of(self.target.lock):
            self.failed("the bundle was built from another lock; build it again")
        for name in wheels.keys() - set(bundle.manifest["always"]):
            if name not in locked or locked[name].sha256 != wheels[name]["sha256"]:
                self.failed(f"{wheels[name]['file']} is not in the lock")
        for path in sorted((bundle.folder / "wheels").iterdir()):
            if path.name not in {wheel["file"] for wheel in wheels.values()}:
                self.failed(f"{path.name} is not in the manifest")
        if sha256_of(bundle.folder / "install.py") != sha256_of(INSTALLER):
            self.failed("install.py in the bundle is not the one of this checkout; build the bundle again")
        if self.wrong == before:
            self.right(f"{len(wheels)} wheels have the sizes and hashes of manifest and lock")
        return self.wrong == before

    def requirements_are_met(self, bundle: install.Bundle) -> bool:
        """Whether what the wheels say of themselves agrees: names, versions, and that they suit each other and the image."""
        packages = bundle.manifest["packages"]
        before = self.wrong
        chosen, unmet = install.plan(bundle.manifest, self.target.kept)
        for line in unmet.values():
            self.failed(line)
        versions = {**self.target.kept, **{name: packages[name]["version"] for name in chosen}}
        for name in chosen:
            wheel = read_wheel(bundle.wheel(name)[0])
            if (wheel.name, wheel.version) != (name, packages[name]["version"]):
                self.failed(f"{wheel.file} says that it is {wheel.name} {wheel.version}")
            for requirement in (each for group in packages[name]["requires"].values() for each in group):
                needed, _, specifier = install.parse_requirement(requirement)
                if needed in versions and not install.accepts(specifier, versions[needed]):
                    self.failed(f"{name} needs {requirement}, and {versions[needed]} is locked")
        if self.wrong == before:
            self.right("every requirement of every wheel is met by the bundle or the image")
        return self.wrong == before

    def installs(self, bundle: install.Bundle, interpreter: str, scratch: Path, with_image: bool) -> None:
        """Installs into a fresh environment without network, and checks what came of it."""
        python = str(scratch / "env" / "bin" / "python")
        _run([interpreter, "-m", "venv", str(scratch / "env")])
        if with_image and self.target.image:
            self.say(f"{self.target.name}: installs what the image has: {', '.join(sorted(self.target.image))}")
            _install_image(python, self.target)
        offline = without_network()
        if not offline:
            self.not_verified("that no network is needed: unshare is not permitted; pip's index is switched off instead")
        driver = install.driver_version()
        said_before = set(_pip_check(python, {}))
        folder = bundle.folder if with_image or not self.target.image else _without_imports(bundle, scratch)
        command = [*offline, python, str(folder / "install.py"), "--wheels", str(folder), "--prefix", str(scratch / "prefix")]
        command += ["--seconds", str(SECONDS), "--json", *([] if driver else ["--no-driver-check"])]
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            report = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            self.failed(f"install.py ended with {done.returncode}: {done.stderr.strip()[-300:]}")
            return
        if not report["ok"]:
            self.failed(f"install.py: {report['error']}")
            return
        self.right(f"install.py put {len(report['installed'])} packages into a fresh environment in {report['seconds']:.0f} s")
        self.pip_check(python, report, said_before, with_image)
        self.imports(report, with_image)
        if not driver:
            self.gpu_imports([*offline, python], report)

    def pip_check(self, python: str, report: dict[str, Any], said_before: set[str], with_image: bool) -> None:
        complaints = [line for line in _pip_check(python, {"PYTHONPATH": report["path"]}) if line not in said_before]
        lacking = [line for line in complaints if not with_image and _is_of_image(line, self.target)]
        for line in complaints:
            if line not in lacking:
                self.failed(f"pip check: {line}")
        if complaints == lacking:
            self.right("pip check has nothing to say" + (f", but for {len(lacking)} packages of the image" if lacking else ""))

    def imports(self, report: dict[str, Any], with_image: bool) -> None:
        if not with_image and self.target.image:
            self.not_verified(f"import {', '.join(self.target.imports)}: the image's packages were not installed")
        elif self.target.imports:
            self.right(f"import {', '.join(self.target.imports)}")
        for warning in report["warnings"]:
            if warning.startswith("import "):
                self.failed(warning)
            else:
                self.say(f"{self.target.name}: warning: {warning}")

    def gpu_imports(self, python: list[str], report: dict[str, Any]) -> None:
        """Tries what install.py leaves out where there is no driver: some of it can be imported without one."""
        env = {**os.environ, "PYTHONPATH": report["path"]}
        for entry in self.target.gpu_imports:
            done = subprocess.run(
                [*python, "-c", install.IMPORT_SCRIPT, entry], capture_output=True, text=True, env=env, timeout=SECONDS
            )
            if done.returncode:
                self.not_verified(f"{done.stderr.strip().splitlines()[-1]} (no NVIDIA driver)")
            else:
                self.right(f"import {entry}")
                self.not_verified(f"what {entry} does on a GPU (no NVIDIA driver)")


def find_python(version: str, given: str = "") -> str:
    """The interpreter of this version: the given one (WheelError if it is not), this one, or one on PATH; "" if there is none."""
    for candidate in [given] if given else [sys.executable, f"python{version}"]:
        command = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        try:  # pyenv starts an interpreter that is not its default when its version is named
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYENV_VERSION": version})
        except OSError:
            continue
        found, _, path = done.stdout.strip().partition(" ")
        if found == version:
            return path
    if given:
        raise WheelError(f"{given}: not a Python {version}")
    return ""


def _install_image(python: str, target: Target) -> None:
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--quiet", "--python", python] if uv else [python, "-m", "pip", "install", "--quiet"]
    _run([*pip, *(f"{name}=={version.partition('+')[0]}" for name, version in target.image.items())])


def _without_imports(bundle: install.Bundle, scratch: Path) -> Path:
    """The same bundle, but for the imports, for which packages of the image are lacking."""
    folder = scratch / "bundle"
    folder.mkdir()
    (folder / "wheels").symlink_to((bundle.folder / "wheels").resolve())
    shutil.copyfile(bundle.folder / "install.py", folder / "install.py")
    (folder / "manifest.json").write_text(json.dumps({**bundle.manifest, "imports": []}), encoding="utf-8")
    return folder


def _pip_check(python: str, env: dict[str, str]) -> list[str]:
    done = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, env={**os.environ, **env})
    return done.stdout.splitlines() if done.returncode else []


def _is_of_image(line: str, target: Target) -> bool:
    return any(f"requires {name}," in line for name in target.kept)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WheelError(f"{' '.join(command[:4])} ...: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
