"""Builds the bundle of a target: a folder with wheels/, manifest.json, install.py and the lock.

    BUNDLE/manifest.json   the target, and each package with its version, requirements, file, sha256, size, licence
    BUNDLE/install.py      a copy of the installer, which needs nothing beside it
    BUNDLE/lock.txt        a copy of the lock
    BUNDLE/wheels/*.whl    the wheels of the lock that the target's image lacks, and this package's own

The folder in which bundles lie holds install.py, too. Two builds of one lock and one source tree give the same manifest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from offline_wheels import install
from offline_wheels.lock import Locked, is_in_step, read_lock
from offline_wheels.target import PROJECT, Target, WheelError
from offline_wheels.wheel import Wheel, build_own_wheel, read_wheel, sha256_of

INSTALLER = Path(install.__file__)


@dataclass
class Built:
    """A finished bundle."""

    folder: Path
    manifest: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)  # name to version: what is locked and the image has or brings

    @property
    def size(self) -> int:
        """Bytes of all wheels."""
        return sum(package["wheel"]["size"] for package in self.manifest["packages"].values() if package["wheel"])

    @property
    def unpacked(self) -> int:
        """Bytes that they take when they are installed."""
        return sum(package["wheel"]["unpacked"] for package in self.manifest["packages"].values() if package["wheel"])


def build(
    target: Target,
    out: Path,
    *,
    torch_index: str = "",
    full: bool = False,
    project: Path = PROJECT,
    say: Callable[[str], None] = print,
) -> Built:
    """Downloads and builds the wheels of a target into out/NAME, which is replaced as a whole when the new one is complete.

    What the image has in the locked version is left out, with all that nothing else needs; `full` leaves nothing out.
    Wheels of an earlier build that are still locked are not downloaded again. WheelError if something cannot be had.
    """
    locked = read_lock(target)
    if not is_in_step(target, project):
        raise WheelError(f"{target.name}: its lock is not of this target and pyproject.toml; run python -m offline_wheels lock")
    final, staging = out / target.name, out / f".{target.name}.partial"
    wheels = staging / "wheels"
    shutil.rmtree(staging, ignore_errors=True)
    wheels.mkdir(parents=True)
    _reuse(final / "wheels", wheels, locked.values())
    own = read_wheel(build_own_wheel(wheels, project))
    image = {} if full else {name: version for name, version in target.kept.items() if _same(version, locked, name)}
    found = _collect(target, own, locked, image, wheels, torch_index, say)
    needed = {wheel.file for wheel in found.values()}
    for path in wheels.iterdir():
        if path.name not in needed:
            path.unlink()
    manifest = make_manifest(target, own, found, locked)
    (staging / "manifest.json").write_text(
        json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    shutil.copyfile(INSTALLER, staging / "install.py")
    shutil.copyfile(target.lock, staging / "lock.txt")
    shutil.rmtree(final, ignore_errors=True)
    staging.rename(final)
    shutil.copyfile(INSTALLER, out / "install.py")  # one that is found beside all bundles
    return Built(final, manifest, {name: each.version for name, each in locked.items() if name not in found})


def _same(version: str, locked: dict[str, Locked], name: str) -> bool:
    return name in locked and install.accepts(f"=={locked[name].version.partition('+')[0]}", version)


def _reuse(old: Path, new: Path, locked: Iterable[Locked]) -> None:
    for each in locked:
        path = old / each.file
        if path.is_file() and sha256_of(path) == each.sha256:
            os.link(path, new / each.file)


def _collect(
    target: Target,
    own: Wheel,
    locked: dict[str, Locked],
    image: dict[str, str],
    folder: Path,
    torch_index: str,
    say: Callable[[str], None],
) -> dict[str, Wheel]:
    """Downloads round by round what is required by the wheels that are there: so nothing is fetched that only the image needs."""
    found = {own.name: own}
    while True:
        manifest = make_manifest(target, own, found, locked)
        chosen, unmet = install.plan(manifest, image)
        if not unmet:
            return {name: found[name] for name in chosen}
        for name, reason in unmet.items():
            if name not in locked:
                raise WheelError(f"{target.name}: {reason}, nor does the lock")
        wanted = [locked[name] for name in sorted(unmet) if not (folder / locked[name].file).is_file()]
        if wanted:
            say(f"{target.name}: downloads {len(wanted)} wheels")
            download(wanted, target, folder, torch_index)
        for name in sorted(unmet):
            wheel = read_wheel(folder / locked[name].file)
            if (wheel.name, wheel.sha256) != (name, locked[name].sha256):
                raise WheelError(f"{target.name}: {wheel.file} is not the wheel of the lock")
            found[name] = wheel


def download(wanted: list[Locked], target: Target, folder: Path, torch_index: str = "") -> None:
    """Downloads these wheels and no others, by pip and the index that it is configured with. WheelError if one cannot be had."""
    requirements = folder.parent / "requirements.txt"
    requirements.write_text("".join(f"{each.line}\n" for each in wanted), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", target.python]
    command += [part for platform in target.platforms for part in ("--platform", platform)]
    command += ["--extra-index-url", torch_index.replace("{build}", target.torch_build)] if torch_index else []
    done = subprocess.run([*command, "--dest", str(folder), "-r", str(requirements)], capture_output=True, text=True)
    requirements.unlink()
    lost = [each.file for each in wanted if not (folder / each.file).is_file()]
    if done.returncode or lost:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or [f"without {', '.join(lost)}"]
        raise WheelError(f"{target.name}: pip cannot download the wheels of the lock ({said[0]})")


def make_manifest(target: Target, own: Wheel, found: dict[str, Wheel], locked: dict[str, Locked]) -> dict[str, Any]:
    """What install.py reads. Locked packages whose wheel is not among the found ones are in it without a wheel."""
    roots = [f"{own.name}[{','.join(target.extras)}]" if target.extras else own.name]
    roots += [_without_marker(Requirement(text)) for text in target.requirements]
    requires = _reached_requirements(roots, found, target)
    packages: dict[str, Any] = {name: {"version": each.version, "requires": {}, "wheel": None} for name, each in locked.items()}
    for name, wheel in found.items():
        packages[name] = {
            "version": wheel.version,
            "licence": wheel.licence,
            "requires": requires.get(name, {}),
            "wheel": {"file": wheel.file, "sha256": wheel.sha256, "size": wheel.size, "unpacked": wheel.unpacked},
        }
    return {
        "format": install.FORMAT,
        "target": target.name,
        "description": target.description,
        "rank": target.rank,
        "python": target.python,
        "machine": target.machine,
        "glibc": oldest_glibc(wheel.file for wheel in found.values()),
        "min_driver": target.min_driver,
        "imports": list(target.imports),
        "gpu_imports": list(target.gpu_imports),
        "lock_sha256": sha256_of(target.lock),
        "image": dict(target.image),
        "always": [own.name],  # a version says nothing about a source tree
        "requirements": roots,
        "packages": packages,
    }


def _reached_requirements(roots: list[str], found: dict[str, Wheel], target: Target) -> dict[str, dict[str, list[str]]]:
    """What each found package requires on the target, by "" and by those of its extras that something asks for."""
    reached: dict[str, dict[str, list[str]]] = {}
    queue = list(roots)
    while queue:
        name, extras, _ = install.parse_requirement(queue.pop())
        for group in ["", *extras] if name in found else []:
            groups = reached.setdefault(name, {})
            if group not in groups:
                groups[group] = _requirements(found[name], group, target)
                queue += groups[group]
    return reached


def _requirements(wheel: Wheel, group: str, target: Target) -> list[str]:
    environment = {
        "implementation_name": "cpython",
        "implementation_version": f"{target.python}.0",
        "os_name": "posix",
        "platform_machine": target.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{target.python}.0",
        "python_version": target.python,
        "sys_platform": "linux",
    }
    found = []
    for requirement in wheel.requires:
        of_base = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
        of_group = requirement.marker is None or requirement.marker.evaluate({**environment, "extra": group})
        if of_base if group == "" else of_group and not of_base:
            if requirement.url:
                raise WheelError(f"{wheel.file}: requires {requirement.name} from an address of its own, which no lock holds")
            found.append(_without_marker(requirement))
    return found


def _without_marker(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def oldest_glibc(files: Iterable[str]) -> str:
    """The oldest glibc on which all these wheels can be installed, by their tags; "2.5" if none has any of its own."""
    oldest = 5
    for file in files:
        minors = []
        for tag in parse_wheel_filename(file)[3]:
            match = re.match(r"manylinux_2_(\d+)_|(manylinux2014|manylinux2010|manylinux1)_", tag.platform)
            if match:
                minors.append(int(match[1] or {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}[match[2]]))
        oldest = max(oldest, min(minors, default=0))
    return f"2.{oldest}"


def summary(built: Built) -> list[str]:
    """What was built, for people: sizes, what was left out and the largest wheels."""
    wheels = [package["wheel"] for package in built.manifest["packages"].values() if package["wheel"]]
    largest = sorted(wheels, key=lambda wheel: -wheel["size"])[:5]
    lines = [
        f"{built.folder}: {len(wheels)} wheels, {_mib(built.size)}, installed {_mib(built.unpacked)}",
        "largest: " + ", ".join(f"{wheel['file'].split('-')[0]} {_mib(wheel['size'])}" for wheel in largest),
    ]
    if built.left_out:
        lines.append(f"left to the image: {', '.join(f'{name} {version}' for name, version in sorted(built.left_out.items()))}")
    return lines


def _mib(size: int) -> str:
    return f"{size / install.MIB:.1f} MiB"
