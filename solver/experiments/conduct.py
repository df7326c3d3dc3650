"""Conducts experiments: plans the runs that the arms need, says how long they take, starts them, and keeps a row for each task.

    OUT/results.jsonl, losses.jsonl      the rows
    OUT/runs/ARM-KEY/TASKS/              the runs, each with its ledger
    OUT/tasks/TASKS.json                 their tasks, and TASKS-solutions.json, which only scores use

A ledger keeps every finished task, and rows are read from it: after `kill -9` the same command measures again at most the task in
flight. An adapter that all tasks share is one fit: if that is interrupted, it begins anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from solver.arc.grid import grid_json
from solver.arc.task import Task
from solver.config import Settings
from solver.errors import InputError
from solver.experiments.arms import Arm, ArmTable, Circumstances
from solver.experiments.estimate import RunEstimate, duration_text, estimate_run, fitting_tasks
from solver.experiments.harvest import Measured, WantedArm, rows_of, serves
from solver.experiments.rows import ResultFile, row_key
from solver.experiments.tasks import content_digest
from solver.host import commit, cores, hardware
from solver.report.observer import Observer
from solver.report.results import Summary
from solver.report.scores import hardware_text
from solver.run.pipeline import SUMMARY
from solver.run.types import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, RunOptions

UNLIMITED = 30 * 86400.0  # seconds: the budget of a run if none is set
MIN_RUN = 20.0  # seconds that a run gets at least
FACTS = "facts.json"  # in the folder of a run: the machine and the commit that it began with

StartRun = Callable[[RunOptions, Observer], Summary]  # `solver.run.pipeline.run`, on whatever executor
Report = Callable[[str], None]
Estimate = Callable[..., RunEstimate]  # of the settings, the model folder and the `tasks`


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
    failure: str = ""  # why tasks have no result

    @property
    def name(self) -> str:
        """In words: arm, and model."""
        return f"{self.arms[0].name}, {self.subject.name}, seed {self.settings.seed}"

    def folder(self, out: Path) -> Path:
        """In which its runs have their folders, one for each choice of tasks."""
        slug = "".join(c if c.isalnum() else "-" for c in self.arms[0].name)[:40]
        return out / "runs" / f"{slug}-{self.arms[0].key[:8]}"

    def lacking(self, rows: ResultFile) -> list[Task]:
        """The tasks without a row of one of the arms; all tasks if one adapter is for all of them and one lacks a row."""
        found = [t for t in self.tasks if any(rows.row(arm.key, content_digest([t])) is None for arm in self.arms)]
        return list(self.tasks) if found and self.settings.train.shared else found


@dataclass(frozen=True)
class Conducted:
    """What came of it. `stopped` names the signal that ended it, `exit_code` is that for the process."""

    tasks: tuple[Task, ...]  # that the arms were asked, in order
    seeds: tuple[int, ...]
    circumstances: Circumstances
    runs: tuple[PlannedRun, ...]
    estimate: float  # seconds, before the first run
    exit_code: int = EXIT_DONE
    stopped: str = ""

    def key(self, subject: Subject, table: ArmTable, arm: Arm, seed: int) -> str:
        """The key of the rows of an arm."""
        return row_key(self.circumstances.settings(table, arm, seed), subject.identity, arm.oracle, self.tasks)


def plan_runs(
    subjects: Sequence[Subject], tasks: Sequence[Task], seeds: Sequence[int], circumstances: Circumstances
) -> list[PlannedRun]:
    """The runs that all arms need, in their order; an arm joins the first run that serves it. Raises InputError."""
    runs: list[PlannedRun] = []
    for subject in subjects:
        for seed in seeds:
            mine: list[PlannedRun] = []
            for table in subject.tables:
                for arm in table.arms:
                    settings = circumstances.settings(table, arm, seed)
                    key = row_key(settings, subject.identity, arm.oracle, tasks)
                    wanted = WantedArm(arm.name, table.name, settings, key, arm.oracle, subject.name)
                    run = next((run for run in mine if serves(run.settings, settings)), None)
                    if run is None:
                        mine.append(PlannedRun(subject, settings, table.recipe, [wanted], table.losses, tuple(tasks)))
                    else:
                        run.losses |= table.losses and run.arms[0].key == key
                        run.arms += [] if any(one.key == key for one in run.arms) else [wanted]
            runs += mine
    return runs


def conduct(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    circumstances: Circumstances,
    out: Path,
    rows: ResultFile,
    budget: float | None,
    start_run: StartRun,
    observer: Callable[[], Observer],
    report: Report,
    estimate: Estimate | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Conducted:
    """Start every run that is needed, within `budget` seconds for all of them together (None: without a limit).

    If the estimate does not fit, the arms get fewer tasks, the same for all. Raises InputError if no arm can be run at all.
    """
    began = clock()
    costs = RunCosts(rows, estimate or partial(estimate_run, machine=circumstances.machine))
    chosen = tuple(tasks)
    runs = _planned(subjects, chosen, seeds, circumstances, out, rows)
    total = costs.total(runs, runs)
    report(_plan_line(runs, rows, len(tasks), total))
    if budget is not None:
        chosen, runs = _fitting(subjects, tasks, seeds, circumstances, out, rows, costs, budget, report)
    waiting = list(runs)
    learning = True  # until the first run has shown how fast this machine is
    while waiting:
        run = waiting[0]
        lacking = run.lacking(rows)
        left = UNLIMITED if budget is None else budget - (clock() - began)
        if not lacking or left < MIN_RUN:
            run.failure = run.failure or ("the budget is used up" if lacking else "")
            del waiting[0]
            continue
        seconds = left if budget is None else max(MIN_RUN, costs.share(waiting, runs, left))
        report(f"{run.name}: {len(lacking)} tasks")
        try:
            summary = _start(run, lacking, circumstances, out, seconds, start_run, observer())
        except InputError as error:
            run.failure = str(error)
            report(f"{run.name}: not measured: {error}")
            del waiting[0]
            continue
        harvest(run, out, rows)
        if summary.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            return Conducted(chosen, tuple(seeds), circumstances, tuple(runs), total, summary.exit_code, summary.reason)
        if without := len(run.lacking(rows)):
            run.failure = f"{without} of {len(run.tasks)} tasks: {summary.reason}"
            report(f"{run.name}: no result for {run.failure}")
        del waiting[0]
        if learning and len(lacking) > without:
            learning = False
            if budget is None:
                report(f"the other runs: estimated {duration_text(costs.total(waiting, runs))}")
                continue
            left = budget - (clock() - began)
            again, replanned = _fitting(subjects, tasks, seeds, circumstances, out, rows, costs, left, lambda _: None)
            if len(again) != len(chosen):
                report(f"by the time that these took, {len(again)} of {len(tasks)} tasks fit for all arms")
                chosen, runs, waiting = again, replanned, list(replanned)
    if runs and all(run.failure for run in runs) and not any(_has_rows(run, rows) for run in runs):
        raise InputError(runs[0].failure)
    return Conducted(chosen, tuple(seeds), circumstances, tuple(runs), total)


def harvest(run: PlannedRun, out: Path, rows: ResultFile) -> None:
    """Write the rows that the ledgers of a run hold and the file lacks. Raises InputError if they cannot be written."""
    tasks = {task.id: task for task in run.tasks}
    for folder in run_folders(run, out):
        for row in rows_of(folder, run.settings, run.arms, tasks, _measured(folder)):
            rows.add(row)


def run_folders(run: PlannedRun, out: Path) -> list[Path]:
    """The folders of its runs so far. One adapter for all tasks answers only in the run over exactly these tasks."""
    parent = run.folder(out)
    if run.settings.train.shared:
        return [parent / content_digest(run.tasks)]
    return sorted(folder for folder in parent.iterdir() if folder.is_dir()) if parent.is_dir() else []


def adapters_folder(run: PlannedRun, out: Path) -> Path:
    """Where the adapters of a run stay until the losses under them are measured."""
    return run.folder(out).with_name(f"{run.folder(out).name}.adapters")


def _start(
    run: PlannedRun,
    tasks: Sequence[Task],
    circumstances: Circumstances,
    out: Path,
    seconds: float,
    start_run: StartRun,
    observer: Observer,
) -> Summary:
    challenges, solutions = _write_tasks(out / "tasks", tasks)
    folder = run.folder(out) / content_digest(tasks)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FACTS).exists():
        facts = {"hardware": _this_machine(run.settings), "commit": commit()}
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
    options = RunOptions(
        challenges=str(challenges),
        solutions=solutions,
        out=folder,
        budget=seconds,
        settings=run.settings,
        model=run.subject.folder,
        recipe=run.recipe,
        machine=circumstances.machine,
        scratch=adapters_folder(run, out) if run.losses else None,
        keep_adapters=run.losses,
        started=time.monotonic(),
    )
    return start_run(options, observer)


def _planned(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    circumstances: Circumstances,
    out: Path,
    rows: ResultFile,
) -> list[PlannedRun]:
    """The runs, with the rows that their ledgers hold."""
    runs = plan_runs(subjects, tasks, seeds, circumstances)
    for run in runs:
        harvest(run, out, rows)
    return runs


class RunCosts:
    """Estimates of runs: by the profile of the machine, corrected by the seconds that tasks with a row took."""

    def __init__(self, rows: ResultFile, estimate: Estimate) -> None:
        self._rows = rows
        self._estimate = estimate
        self._cache: dict[tuple[str, str], RunEstimate] = {}

    def of(self, run: PlannedRun, runs: Sequence[PlannedRun]) -> RunEstimate:
        """The seconds of each task of a run; 0 for those that have their rows. `runs` are all of the experiment."""
        factor = self._factor([run]) or self._factor([one for one in runs if one.subject == run.subject]) or 1.0
        raw = self._raw(run)
        due = {task.id for task in run.lacking(self._rows)}
        seconds = tuple(factor * cost if task.id in due else 0.0 for task, cost in zip(run.tasks, raw.tasks, strict=True))
        return RunEstimate(raw.start, seconds)

    def total(self, waiting: Sequence[PlannedRun], runs: Sequence[PlannedRun]) -> float:
        """Of those that wait, among all runs."""
        return sum(self.of(run, runs).seconds() for run in waiting)

    def share(self, waiting: Sequence[PlannedRun], runs: Sequence[PlannedRun], left: float) -> float:
        """The seconds of `left` for the first of those that wait: by the estimates, so that no arm is left out."""
        mine, *others = (self.of(run, runs).seconds() for run in waiting)
        return left * mine / max(mine + sum(others), 1e-9)

    def _raw(self, run: PlannedRun) -> RunEstimate:
        key = run.arms[0].key, content_digest(run.tasks)
        if key not in self._cache:
            self._cache[key] = self._estimate(run.settings, run.subject.folder, tasks=run.tasks)
        return self._cache[key]

    def _factor(self, runs: Sequence[PlannedRun]) -> float:
        """Measured over estimated seconds of the tasks with a row; 0 without any."""
        measured = estimated = 0.0
        for run in runs:
            for task, cost in zip(run.tasks, self._raw(run).tasks, strict=True):
                row = self._rows.row(run.arms[0].key, content_digest([task]))
                if row is not None:
                    measured, estimated = measured + row.seconds, estimated + cost
        return measured / estimated if estimated else 0.0


def _plan_line(runs: Sequence[PlannedRun], rows: ResultFile, tasks: int, seconds: float) -> str:
    due = [run for run in runs if run.lacking(rows)]
    arms = sum(len(run.arms) for run in runs)
    if not due:
        return f"{arms} arms over {tasks} tasks: every row is there"
    return f"{arms} arms over {tasks} tasks: {len(due)} runs are needed, estimated {duration_text(seconds)}"


def _fitting(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    circumstances: Circumstances,
    out: Path,
    rows: ResultFile,
    costs: RunCosts,
    budget: float,
    report: Report,
) -> tuple[tuple[Task, ...], list[PlannedRun]]:
    """The first tasks, as many as are predicted to fit the budget under all arms, and the runs over them."""
    runs = _planned(subjects, tasks, seeds, circumstances, out, rows)
    estimates = [costs.of(run, runs) for run in runs]
    count = fitting_tasks(estimates, budget, len(tasks))
    if count == len(tasks):
        return tuple(tasks), runs
    needed = sum(one.seconds(count) for one in estimates)
    report(
        f"the budget is {duration_text(budget)}: the first {count} of {len(tasks)} tasks are taken for all arms, "
        f"estimated {duration_text(needed)}"
    )
    return tuple(tasks[:count]), _planned(subjects, tasks[:count], seeds, circumstances, out, rows)


def _has_rows(run: PlannedRun, rows: ResultFile) -> bool:
    return any(rows.row(run.arms[0].key, content_digest([task])) is not None for task in run.tasks)


def _write_tasks(folder: Path, tasks: Sequence[Task]) -> tuple[Path, Path]:
    """The file of tasks without answers, and that of the answers."""
    name = content_digest(tasks)
    challenges, solutions = folder / f"{name}.json", folder / f"{name}-solutions.json"
    folder.mkdir(parents=True, exist_ok=True)
    answers = {task.id: [grid_json(pair.output) for pair in task.test if pair.output is not None] for task in tasks}
    for path, value in ((challenges, {task.id: task.without_answers().to_json() for task in tasks}), (solutions, answers)):
        partial = path.with_name(f".{path.name}")
        partial.write_text(json.dumps(value), encoding="utf-8")
        partial.replace(path)
    return challenges, solutions


def _measured(folder: Path) -> Measured:
    """The machine and the commit of a run, from its summary if it came to its end."""
    facts = _json(folder / FACTS)
    summary = _json(folder / SUMMARY)
    if summary.get("hardware"):
        return Measured(hardware_text(summary["hardware"]), summary.get("commit", ""))
    return Measured(facts.get("hardware", ""), facts.get("commit", ""))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _this_machine(settings: Settings) -> str:
    return hardware_text({**hardware({}), "threads": settings.model.threads or cores()})
