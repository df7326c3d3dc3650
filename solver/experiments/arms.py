"""Experiments as data: tables of arms, each of which changes exactly one setting of the arm that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from solver.config import Settings, load_settings
from solver.errors import InputError

Effect = Literal["higher", "lower", "same"]  # what the source reports for an arm, compared with `Arm.against`

# Every task gets the same pass, whatever the clock says, and the network is measured alone.
COMMON = ("budget.policy=fixed", "programs.enabled=false")


@dataclass(frozen=True)
class Arm:
    """One line of a table."""

    name: str
    change: str = ""  # the one setting that differs from the arm `against`, as key=value; empty: none does
    against: str = ""  # the name of the arm that it changes and is compared with; empty: it is compared with none
    oracle: bool = False  # counts a test input as solved if any candidate is right, instead of one of two attempts
    source: str = ""  # what the source reports for it, in words
    effect: Effect | None = None  # the direction of that, compared with `against`; None: the source does not say


@dataclass(frozen=True)
class Lowest:
    """A statement of the source: of these arms, `arm` solves the fewest tasks."""

    among: tuple[str, ...]
    arm: str
    kind: str  # what they are, in words


@dataclass(frozen=True)
class ArmTable:
    """Arms over the same tasks. `base` are settings of all arms, on top of the recipe."""

    name: str  # in file names
    title: str
    recipe: str
    arms: tuple[Arm, ...]
    base: tuple[str, ...] = ()
    losses: bool = False  # whether the loss of the true answers is measured, too
    note: str = ""  # about the source and its numbers
    lowest: Lowest | None = None

    def __post_init__(self) -> None:
        known: set[str] = set()
        for arm in self.arms:
            if arm.name in known or (arm.against and arm.against not in known):
                raise ValueError(f"{self.name}: {arm.name}: a name twice, or compared with an arm that does not come before it")
            known.add(arm.name)

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises KeyError."""
        return {arm.name: arm for arm in self.arms}[name]

    def changes(self, arm: Arm) -> tuple[str, ...]:
        """The settings that an arm changes on top of the base: those of the arm that it is compared with, then its own."""
        before = self.changes(self.arm(arm.against)) if arm.against else ()
        return (*before, *((arm.change,) if arm.change else ()))


@dataclass(frozen=True)
class Experiment:
    """The tables that one command makes."""

    name: str
    title: str
    source: str  # the work that it follows
    tables: tuple[ArmTable, ...]


@dataclass(frozen=True)
class Circumstances:
    """What all arms of all tables share, whatever the experiment is."""

    machine: str | None = None
    overrides: tuple[str, ...] = ()  # of the user

    def settings(self, table: ArmTable, arm: Arm, seed: int) -> Settings:
        """The settings of an arm. What the user sets comes before the change of the arm. Raises InputError."""
        given = (*COMMON, *table.base, *self.overrides, *table.changes(arm), f"seed={seed}")
        settings = load_settings(self.machine, table.recipe, given)
        if settings.budget.policy != "fixed" or settings.programs.enabled or len(settings.budget.fixed_waves) > 1:
            raise InputError(
                "arms are compared after one pass of the network under the policy fixed: leave out --set budget.policy, "
                "programs.enabled, and budget.fixed_waves of several passes"
            )
        return settings


def differences(first: Settings, second: Settings) -> list[str]:
    """The dotted names of the settings that differ."""
    a, b = (dict(_leaves(settings.model_dump(mode="json"))) for settings in (first, second))
    return [name for name in a if a[name] != b[name]]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
