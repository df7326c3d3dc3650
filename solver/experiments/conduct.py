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
from solver.experiments.estimate import Estimate, RunCosts, duration_text, estimate_run, fitting_tasks
from solver.experiments.harvest import Measured, rows_of
from solver.experiments.planned import PlannedRun, Study
from solver.experiments.rows import ResultFile
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


@dataclass(frozen=True)
class Conducted:
    """What came of it. `stopped` names the signal that ended it, `exit_code` is that for the process."""

    study: Study  # over the tasks that the arms were asked
    runs: tuple[PlannedRun, ...]
    estimate: float  # seconds, before the first run
    exit_code: int = EXIT_DONE
    stopped: str = ""


def conduct(
    study: Study,
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
    end = None if budget is None else clock() + budget
    costs = RunCosts(rows, estimate or partial(estimate_run, machine=study.circumstances.machine))
    chosen, runs = study, _planned(study, rows)
    total = costs.total(runs, runs)
    report(_plan_line(runs, rows, len(study.tasks), total))
    if budget is not None:
        chosen, runs = _fitting(study, rows, costs, budget)
        if chosen != study:
            report(
                f"the budget is {duration_text(budget)}: the first {len(chosen.tasks)} of {len(study.tasks)} tasks are taken for "
                f"all arms, estimated {duration_text(costs.total(runs, runs))}"
            )
    waiting = list(runs)
    learning = True  # until the first run has shown how fast this machine is
    while waiting:
        run = waiting.pop(0)
        left = UNLIMITED if end is None else end - clock()
        due = len(run.lacking(rows))
        if due and left < MIN_RUN:
            run.failure = run.failure or "the budget is used up"
        elif due:
            report(f"{run.name}: {due} tasks")
            seconds = left if end is None else max(MIN_RUN, costs.allotted(run, waiting, runs, left))
            summary = _carry_out(run, rows, seconds, study, start_run, observer(), report)
            if summary is not None and summary.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
                return Conducted(chosen, tuple(runs), total, summary.exit_code, summary.reason)
        learns = learning and len(run.lacking(rows)) < due
        learning = learning and not learns
        if learns and end is None:
            report(f"the other runs: estimated {duration_text(costs.total(waiting, runs))}")
        elif end is not None and (learns or (not waiting and chosen != study)):
            again, replanned = _fitting(study, rows, costs, end - clock())
            if (learns and again != chosen) or len(again.tasks) > len(chosen.tasks):
                report(f"by the time that was used, {len(again.tasks)} of {len(study.tasks)} tasks fit for all arms")
                chosen, runs, waiting = again, replanned, list(replanned)
    if runs and all(run.failure and not _has_rows(run, rows) for run in runs):
        raise InputError(runs[0].failure)
    return Conducted(chosen, tuple(runs), total)


def harvest(run: PlannedRun, rows: ResultFile) -> None:
    """Write the rows that the ledgers of a run hold and the file lacks. Raises InputError if they cannot be written."""
    tasks = {task.id: task for task in run.tasks}
    for folder in run.folders():
        for row in rows_of(folder, run.settings, run.arms, tasks, _measured(folder)):
            rows.add(row)


def _carry_out(
    run: PlannedRun,
    rows: ResultFile,
    seconds: float,
    study: Study,
    start_run: StartRun,
    observer: Observer,
    report: Report,
) -> Summary | None:
    """Start a run for the tasks that lack a row, and take in its rows. None: it could not be made, as `failure` says."""
    try:
        summary = _start(run, run.lacking(rows), study.circumstances.machine, seconds, start_run, observer)
    except InputError as error:
        run.failure = str(error)
        report(f"{run.name}: not measured: {error}")
        return None
    harvest(run, rows)
    if without := len(run.lacking(rows)):
        run.failure = f"{without} of {len(run.tasks)} tasks: {summary.reason}"
        report(f"{run.name}: no result for {run.failure}")
    return summary


def _start(
    run: PlannedRun,
    tasks: Sequence[Task],
    machine: str | None,
    seconds: float,
    start_run: StartRun,
    observer: Observer,
) -> Summary:
    challenges, solutions = _write_tasks(run.out / "tasks", tasks)
    folder = run.folder / content_digest(tasks)
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
        machine=machine,
        scratch=run.adapters if run.losses else None,
        keep_adapters=run.losses,
        started=time.monotonic(),
    )
    return start_run(options, observer)


def _planned(study: Study, rows: ResultFile) -> list[PlannedRun]:
    """The runs, with the rows that their ledgers hold."""
    runs = study.runs()
    for run in runs:
        harvest(run, rows)
    return runs


def _fitting(study: Study, rows: ResultFile, costs: RunCosts, budget: float) -> tuple[Study, list[PlannedRun]]:
    """The study over the first tasks, as many as are predicted to fit the budget under all arms, and its runs."""
    runs = _planned(study, rows)
    count = fitting_tasks([costs.of(run, runs) for run in runs], budget, len(study.tasks))
    return (study, runs) if count == len(study.tasks) else (study.first(count), _planned(study.first(count), rows))


def _plan_line(runs: Sequence[PlannedRun], rows: ResultFile, tasks: int, seconds: float) -> str:
    due = [run for run in runs if run.lacking(rows)]
    arms = sum(len(run.arms) for run in runs)
    if not due:
        return f"{arms} arms over {tasks} tasks: every row is there"
    return f"{arms} arms over {tasks} tasks: {len(due)} runs are needed, estimated {duration_text(seconds)}"


def _has_rows(run: PlannedRun, rows: ResultFile) -> bool:
    return any(rows.row(run.key, content_digest([task])) is not None for task in run.tasks)


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
