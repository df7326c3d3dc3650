"""A target: the kind of machine that a bundle of wheels is for. Each is a file in targets/; unknown keys are errors."""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from offline_wheels.install import normal

ROOM = Path(__file__).parent
PROJECT = ROOM.parent  # the folder with pyproject.toml, whose wheel every bundle holds
TARGETS = ROOM / "targets"
LOCKS = ROOM / "locks"


class WheelError(Exception):
    """A target, a lock or a bundle cannot be used or made; the message is one line."""


class Target(BaseModel):
    """What is known of a kind of machine, and what this package needs there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    description: str
    rank: int  # install.py tries the bundles of a folder in this order, the lowest first
    python: str = Field(pattern=r"^3\.\d+$")
    machine: Literal["x86_64"] = "x86_64"
    glibc: str = Field(pattern=r"^2\.\d+$")  # the oldest that the machines have: wheels for newer ones are not taken
    min_driver: int = 0  # oldest NVIDIA driver; 0: needs none
    torch_build: Literal["cpu", "cu128", "cu130"]  # which wheels of torch, where an index has several
    requirements: tuple[str, ...] = ()  # beside what pyproject.toml asks for
    extras: tuple[str, ...] = ()  # of pyproject.toml
    image: dict[str, str] = {}  # what the machine has: name to version. The lock takes these versions
    replaced: tuple[str, ...] = ()  # names in `image` for which the lock takes another version
    not_after: date | None = None  # no release after this day is locked
    not_after_except: tuple[str, ...] = ()  # but for these packages
    imports: tuple[str, ...] = ()  # "module" or "module:attribute"; install.py refuses the bundle if one fails
    gpu_imports: tuple[str, ...] = ()  # tried where there is a GPU; one that fails is a warning

    @field_validator("requirements")
    @classmethod
    def _requirements_can_be_read(cls, requirements: tuple[str, ...]) -> tuple[str, ...]:
        for requirement in requirements:
            try:
                Requirement(requirement)
            except InvalidRequirement as error:
                raise ValueError(f"{requirement!r} is not a requirement") from error
        return requirements

    @field_validator("image")
    @classmethod
    def _versions_can_be_read(cls, image: dict[str, str]) -> dict[str, str]:
        for name, version in image.items():
            try:
                Version(version)
            except InvalidVersion as error:
                raise ValueError(f"{version!r} is not a version of {name}") from error
        return {normal(name): version for name, version in image.items()}

    @model_validator(mode="after")
    def _replaced_are_of_the_image(self) -> Target:
        for name in self.replaced:
            if normal(name) not in self.image:
                raise ValueError(f"replaced: {name} is not in image")
        return self

    @property
    def kept(self) -> dict[str, str]:
        """What the machine has and keeps: name to version."""
        return {name: version for name, version in self.image.items() if name not in map(normal, self.replaced)}

    @property
    def lock(self) -> Path:
        """The file with the locked versions."""
        return LOCKS / f"{self.name}.txt"

    @property
    def platforms(self) -> list[str]:
        """Platform tags that the machine takes, the newest C library first."""
        newest = int(self.glibc.partition(".")[2])
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, 4, -1)]
        legacy = {"manylinux_2_17": "manylinux2014", "manylinux_2_12": "manylinux2010", "manylinux_2_5": "manylinux1"}
        for new, old in legacy.items():
            tag = f"{new}_{self.machine}"
            if tag in tags:
                tags.insert(tags.index(tag) + 1, f"{old}_{self.machine}")
        return [*tags, f"linux_{self.machine}"]


def load_target(name: str, folder: Path = TARGETS) -> Target:
    """The target of that name. WheelError if there is none or its file has mistakes."""
    path = folder / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WheelError(f"{name}: no such target; there are {', '.join(target_names(folder))}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WheelError(f"{path}: {error}") from error
    try:
        return Target(name=name, **values)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in first["loc"])
        raise WheelError(f"{path}: {where + ': ' if where else ''}{first['msg']}") from error


def target_names(folder: Path = TARGETS) -> list[str]:
    """Names of the targets that there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))
