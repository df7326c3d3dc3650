"""The runs that an experiment needs: one for each arm, but for arms whose answers another run holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from solver.arc.task import Task
from solver.config import Settings
from solver.experiments.arms import Arm, ArmTable, Circumstances
from solver.experiments.harvest import WantedArm, serves
from solver.experiments.rows import ResultFile, row_key
from solver.experiments.tasks import content_digest


@dataclass(frozen=True)
class Subject:
    """A model of an experiment."""

    name: str
    folder: Path
    identity: str
    tables: tuple[ArmTable, ...]  # adjusted to its size


@dataclass
class PlannedRun:
    """A run, and the arms whose answers it holds; the first is the one that it is made for."""

    subject: Subject
    settings: Settings
    recipe: str
    arms: list[WantedArm]
    losses: bool
    tasks: tuple[Task, ...]  # all that are asked for
    out: Path
    failure: str = ""  # why tasks have no result

    @property
    def name(self) -> str:
        """In words: arm, and model."""
        return f"{self.arms[0].name}, {self.subject.name}, seed {self.settings.seed}"

    @property
    def key(self) -> str:
        """Of the rows of its first arm."""
        return self.arms[0].key

    @property
    def folder(self) -> Path:
        """In which its runs have their folders, one for each choice of tasks."""
        slug = "".join(c if c.isalnum() else "-" for c in self.arms[0].name)[:40]
        return self.out / "runs" / f"{slug}-{self.key[:8]}"

    @property
    def adapters(self) -> Path:
        """Where its adapters stay until the losses under them are measured."""
        return self.folder.with_name(f"{self.folder.name}.adapters")

    def folders(self) -> list[Path]:
        """The folders of its runs so far. One adapter for all tasks answers only in the run over exactly these tasks."""
        if self.settings.train.shared:
            return [self.folder / content_digest(self.tasks)]
        return sorted(one for one in self.folder.iterdir() if one.is_dir()) if self.folder.is_dir() else []

    def lacking(self, rows: ResultFile) -> list[Task]:
        """The tasks without a row of one of the arms; all tasks if one adapter is for all of them and one lacks a row."""
        found = [t for t in self.tasks if any(rows.row(arm.key, content_digest([t])) is None for arm in self.arms)]
        return list(self.tasks) if found and self.settings.train.shared else found


@dataclass(frozen=True)
class Study:
    """What is asked: models and their tables, tasks in order, seeds, and the folder of results."""

    subjects: tuple[Subject, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    circumstances: Circumstances
    out: Path

    def first(self, count: int) -> Study:
        """The same over the first tasks."""
        return replace(self, tasks=self.tasks[:count])

    def key(self, subject: Subject, table: ArmTable, arm: Arm, seed: int) -> str:
        """The key of the rows of an arm. Raises InputError for settings that cannot be compared."""
        return row_key(self.circumstances.settings(table, arm, seed), subject.identity, arm.oracle, self.tasks)

    def runs(self) -> list[PlannedRun]:
        """The runs that all arms need, in their order; an arm joins the first run that serves it. Raises InputError."""
        runs: list[PlannedRun] = []
        for subject in self.subjects:
            for seed in self.seeds:
                mine: list[PlannedRun] = []
                for table in subject.tables:
                    for arm in table.arms:
                        self._enter(mine, subject, table, arm, seed)
                runs += mine
        return runs

    def _enter(self, runs: list[PlannedRun], subject: Subject, table: ArmTable, arm: Arm, seed: int) -> None:
        settings = self.circumstances.settings(table, arm, seed)
        key = self.key(subject, table, arm, seed)
        wanted = WantedArm(arm.name, table.name, settings, key, arm.oracle, subject.name)
        run = next((run for run in runs if serves(run.settings, settings)), None)
        if run is None:
            runs.append(PlannedRun(subject, settings, table.recipe, [wanted], table.losses, self.tasks, self.out))
            return
        run.losses |= table.losses and run.arms[0].key == key
        if all(one.key != key for one in run.arms):
            run.arms.append(wanted)
