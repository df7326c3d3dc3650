"""What the ledger's table `run` says of a whole run, with types: its identity, and the facts that may change on resumption.

The table holds texts. This module alone writes and reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = Mapping[str, str]  # key -> value, as the table holds them


@dataclass(frozen=True)
class Identity:
    """What must be the same when a run is resumed."""

    tasks: str  # TaskSet.fingerprint
    model: str
    seed: int
    recipe: str
    settings: Mapping[str, Any]  # that change answers, by dotted name

    def rows(self) -> dict[str, str]:
        """As the table holds it."""
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return {"tasks": self.tasks, "model": self.model, "seed": str(self.seed), "recipe": self.recipe, "settings": settings}

    @staticmethod
    def of(rows: Rows) -> Identity:
        """Read it from the table. Raises ValueError for values that make no sense, KeyError for missing ones."""
        return Identity(rows["tasks"], rows["model"], int(rows["seed"]), rows["recipe"], json.loads(rows["settings"]))

    def difference(self, stored: Identity) -> str | None:
        """The first difference from a stored run, in words; None if there is none."""
        if stored.tasks != self.tasks:
            return "it holds a run of another task set"
        if stored.model != self.model:
            return f"its run used another base model ({stored.model}, now {self.model})"
        for name in ("seed", "recipe"):
            theirs, ours = getattr(stored, name), getattr(self, name)
            if theirs != ours:
                return f"its run had {name} {theirs}, now {ours}"
        for name in sorted({*stored.settings, *self.settings}):
            if stored.settings.get(name) != json.loads(json.dumps(self.settings.get(name))):
                return f"its run had {name} = {stored.settings.get(name)}, now {self.settings.get(name)}"
        return None


@dataclass(frozen=True)
class RunFacts:
    """Facts that each process of a run may change. None: no process has recorded it."""

    starts: int | None = None  # processes so far
    budget: float | None = None  # seconds
    machine: str | None = None  # the preset; empty: none was named
    challenges: str | None = None
    solutions: str | None = None  # the file; empty: none was given
    all_settings: Mapping[str, Any] | None = None  # the whole tree, as JSON values
    id: str | None = None  # of the run, in the name of its scratch folder
    scratch: Path | None = None

    def rows(self) -> dict[str, str]:
        """As the table holds them; a fact that is None has no row."""
        rows = {
            "starts": self.starts,
            "budget": self.budget,
            "machine": self.machine,
            "challenges": self.challenges,
            "solutions": self.solutions,
            "all_settings": None if self.all_settings is None else json.dumps(self.all_settings, separators=(",", ":")),
            "id": self.id,
            "scratch": self.scratch,
        }
        return {key: str(value) for key, value in rows.items() if value is not None}

    @staticmethod
    def of(rows: Rows) -> RunFacts:
        """Read them from the table. Raises ValueError for values that make no sense."""
        return RunFacts(
            starts=int(rows["starts"]) if "starts" in rows else None,
            budget=float(rows["budget"]) if "budget" in rows else None,
            machine=rows.get("machine"),
            challenges=rows.get("challenges"),
            solutions=rows.get("solutions"),
            all_settings=json.loads(rows["all_settings"]) if "all_settings" in rows else None,
            id=rows.get("id"),
            scratch=Path(rows["scratch"]) if "scratch" in rows else None,
        )
