"""Wheel files: what they are called, what they say of themselves, and this package's own one."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from offline_wheels.install import normal, telling_line
from offline_wheels.target import PROJECT, Target, WheelError

EPOCH = 315532800  # 1980-01-01, the first time that a zip file can hold
LONGEST_LICENCE = 80  # characters; some packages put the whole text into the field


@dataclass(frozen=True)
class Wheel:
    """What a wheel file says of itself."""

    file: str
    name: str  # in normal form
    version: str
    sha256: str
    size: int  # bytes
    unpacked: int  # bytes
    licence: str
    requires: tuple[Requirement, ...]


def read_wheel(path: Path) -> Wheel:
    """Name, version, hash, sizes, licence and requirements of a wheel. WheelError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            metadata = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")]
            if len(metadata) != 1:
                raise WheelError(f"{path.name}: holds {len(metadata)} METADATA files, and a wheel has one")
            header = HeaderParser().parsestr(archive.read(metadata[0]).decode("utf-8"))
        requires = tuple(Requirement(text) for text in header.get_all("Requires-Dist") or [])
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError, InvalidRequirement) as error:
        raise WheelError(f"{path.name}: cannot be read as a wheel ({error})") from error
    return Wheel(
        file=path.name,
        name=normal(header["Name"]),
        version=header["Version"],
        sha256=sha256_of(path),
        size=path.stat().st_size,
        unpacked=unpacked,
        licence=_licence(header),
        requires=requires,
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _licence(header: Message) -> str:
    """The licence as far as the metadata names it: an SPDX expression, a short text, or classifiers."""
    if header["License-Expression"]:
        return str(header["License-Expression"]).strip()
    classifiers = [text.rpartition(" :: ")[2] for text in header.get_all("Classifier") or [] if text.startswith("License ::")]
    text = str(header["License"] or "").strip()
    if text and "\n" not in text and len(text) <= LONGEST_LICENCE and text.lower() not in ("unknown", "license"):
        return text
    if classifiers:
        return "; ".join(classifiers)
    files = header.get_all("License-File") or []
    return f"see {', '.join(files)}" if files else "not named"


def tags_of(target: Target) -> list[Tag]:
    """The wheel tags that a target's Python takes, the best first."""
    version = tuple(int(part) for part in target.python.split("."))
    interpreter = f"cp{version[0]}{version[1]}"
    platforms = target.platforms
    return [
        *cpython_tags(python_version=version, abis=[interpreter], platforms=platforms),
        *compatible_tags(python_version=version, interpreter=interpreter, platforms=platforms),
    ]


def best_wheel(files: list[str], tags: list[Tag]) -> str | None:
    """The file that an installer takes: the one with the best tag, of equal ones that with the highest build number."""
    order = {tag: place for place, tag in enumerate(tags)}
    ranked = []
    for file in files:
        try:
            _, _, build, of_file = parse_wheel_filename(file)
        except InvalidWheelFilename:
            continue
        places = [order[tag] for tag in of_file if tag in order]
        if places:
            ranked.append((-min(places), build, file))
    return max(ranked)[2] if ranked else None


def build_own_wheel(folder: Path, project: Path = PROJECT) -> Path:
    """Builds the wheel of a project into a folder: the same files give the same bytes, whatever the clock, umask and zlib are.

    Needs setuptools in this environment, and no network.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "project"
        copy.mkdir()
        for name in _files_of(project):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project / name, copy / name)
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-index"]
        command += ["--no-build-isolation", "--config-settings=--build-option=--compression=stored", "--wheel-dir", scratch]
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH), "PIP_CONSTRAINT": ""}
        done = subprocess.run([*command, str(copy)], capture_output=True, text=True, env=env)
        built = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(built) != 1:
            reason = telling_line(done.stderr or done.stdout) or f"exit code {done.returncode}"
            raise WheelError(f"{project}: its wheel cannot be built ({reason}); this environment needs setuptools 77 or newer")
        folder.mkdir(parents=True, exist_ok=True)
        repack(built[0], folder / built[0].name)
    return folder / built[0].name


def _files_of(project: Path) -> list[Path]:
    """The files that the wheel is made of: pyproject.toml, what it names, and the packages, without caches."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    files = [Path("pyproject.toml"), Path(settings["project"].get("readme", "README.md")), Path("LICENSE")]
    package = project / settings["project"]["name"].replace("-", "_")
    files += [path.relative_to(project) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(file for file in files if (project / file).is_file())


def repack(source: Path, target: Path) -> None:
    """Writes a zip file anew: entries sorted, of one date and mode, not compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            new.writestr(info, old.read(name))
