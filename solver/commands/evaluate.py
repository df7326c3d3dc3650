"""`solver evaluate`: measures models on held-out families, and on tasks with known answers, and writes tables of the results.

    OUT/held_out.jsonl, .md, .png   families that no training sees, answered without fitting, over checkpoints
    OUT/tasks.jsonl, .md            runs over tasks at several budgets; "0" stands for no test-time training
    OUT/runs/...                    the runs, each with its ledger, submission and summary

A row that is in the table already is not measured again. The answers to the tasks are used only for scores: like any other run,
an evaluated run never sees them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from solver.arc.datasets import TaskSet, load_tasks, sample_tasks, shortest_tasks
from solver.config import Settings, load_settings, parse_duration
from solver.errors import InputError
from solver.host import commit, hardware
from solver.model.folder import check_folder, folder_identity
from solver.model.shipped import label_of, shipped_model
from solver.report.curves import plot_held_out
from solver.report.observer import Observer
from solver.report.scores import (
    HeldOutRow,
    TaskRow,
    append_row,
    hardware_text,
    held_out_table,
    read_rows,
    task_table,
)
from solver.run.pipeline import SUMMARY
from solver.run.pipeline import run as run_pipeline
from solver.run.placement import visible_gpus
from solver.run.types import EXIT_DONE, RunOptions

Report = Callable[[str], None]

UNFITTED = ("train.steps=0", "budget.policy=fixed")  # one pass over every task without an optimizer step
NETWORK_ALONE = "programs.enabled=false"  # rows are about models
LABEL_BYTES = 200  # at most, of the name of a run's folder; file systems allow 255
DAY = 86400.0  # seconds: the budget of a run without test-time training


@dataclass(frozen=True)
class TaskChoice:
    """Which tasks of a set: the `count` with the smallest sha256 of the id, among the `shortest` by grid tokens (None: all)."""

    source: str  # as `solver run` takes it
    count: int | None = None
    shortest: int | None = None

    def tasks(self) -> TaskSet:
        """The tasks. Raises InputError if the source cannot be read, has no answers, or one that is no grid."""
        every = load_tasks(self.source, need_answers=True)
        if not any(answer is not None for outputs in every.answers().values() for answer in outputs):
            raise InputError(f"{self.source}: holds no answers, so nothing can be scored")
        among = every if self.shortest is None else shortest_tasks(every, self.shortest)
        return among if self.count is None else sample_tasks(among, self.count)

    def __str__(self) -> str:
        parts = [] if self.count is None else [f"{self.count} by hash"]
        return ", ".join([self.source, *([] if self.shortest is None else [f"the {self.shortest} shortest"]), *parts])


@dataclass(frozen=True)
class TaskEvaluation:
    """What to run: every model on every choice of tasks, with every budget and every seed."""

    choices: tuple[TaskChoice, ...]
    budgets: tuple[str, ...] = ("0", "5m")  # durations; "0": no test-time training
    seeds: tuple[int, ...] = (0,)
    machine: str | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    where: tuple[str, ...] = ()  # overrides that say on which machines the runs work: rows do not differ by them

    def settings(self, budget: str, seed: int) -> Settings:
        """The settings of one run: without programs, unless the overrides ask for them. Raises InputError."""
        unfitted = UNFITTED if budget == "0" else ()
        return load_settings(self.machine, self.recipe, [NETWORK_ALONE, *self.overrides, f"seed={seed}", *unfitted, *self.where])


def evaluate_tasks(
    models: Sequence[Path | None], plan: TaskEvaluation, out: Path, observer: Callable[[], Observer], report: Report
) -> list[TaskRow]:
    """Run what the table lacks, and give the rows asked for. Raises InputError, also when a signal has ended a run."""
    table = out / "tasks.jsonl"
    rows = []
    for budget in plan.budgets:  # refuse bad options before the first run
        if budget != "0":
            parse_duration(budget)
        plan.settings(budget, 0)
    chosen = [(choice, choice.tasks()) for choice in plan.choices]
    for model in models:
        check_folder(_folder(model))
    for model in models:
        for choice, tasks in chosen:
            for seed in plan.seeds:
                for budget in plan.budgets:
                    row = _known(read_rows(table, TaskRow), model, choice, budget, seed, plan)
                    if row is None:
                        report(f"{_name(model)}, {choice}, budget {budget}, seed {seed}")
                        row = _run(model, choice, tasks, budget, seed, plan, out, observer())
                        append_row(table, row)
                        _write(out / "tasks.md", task_table(read_rows(table, TaskRow)))
                    rows.append(row)
    return rows


def evaluate_held_out(
    models: Sequence[Path | None], corpus: Path | None, cache: Path, queries: int, seed: int, out: Path | None, report: Report
) -> list[HeldOutRow]:
    """Ask every model the same queries and give the rows. With `out`, also write its table and the curve over all of its rows."""
    from solver.pretrain.command import corpora_digest
    from solver.pretrain.evaluate import AnswerCounts, evaluate

    data = corpora_digest(corpus)
    rows = []
    for model in models:
        folder = _folder(model)
        check_folder(folder)
        identity = folder_identity(folder)
        known = read_rows(out / "held_out.jsonl", HeldOutRow) if out is not None else []
        # every family gets the same number of queries, so a row may have a few more than were asked for
        same = (r for r in known if (r.identity, r.seed) == (identity, seed) and r.data in ("", data))
        row = next((r for r in same if 0 <= r.queries - queries < r.families), None)
        if row is None:
            evaluation = evaluate(folder, corpus, cache, queries, seed, report)
            total = sum(evaluation.tallies.values(), AnswerCounts())
            position = _position(folder)
            row = HeldOutRow(
                model=_name(model),
                identity=identity,
                steps=position.get("steps"),
                trained_tokens=position.get("tokens"),
                seed=seed,
                families=evaluation.families,
                **asdict(total),
                hardware=hardware_text(hardware(evaluation.facts)),
                commit=commit(),
                corpora={name: asdict(tally) for name, tally in sorted(evaluation.tallies.items())},
                data=data,
            )
            if out is not None:
                append_row(out / "held_out.jsonl", row)
        rows.append(row)
    if out is not None:
        every = read_rows(out / "held_out.jsonl", HeldOutRow)
        _write(out / "held_out.md", held_out_table(every))
        plot_held_out(every, out / "held_out.png", report)
    return rows


def _run(
    model: Path | None,
    choice: TaskChoice,
    tasks: TaskSet,
    budget: str,
    seed: int,
    plan: TaskEvaluation,
    out: Path,
    observer: Observer,
) -> TaskRow:
    identity = folder_identity(_folder(model))
    settings = plan.settings(budget, seed)
    folder = out / "runs" / _label(identity, choice, budget, seed, plan)
    options = RunOptions(
        challenges=choice.source,
        out=folder,
        budget=DAY if budget == "0" else parse_duration(budget),
        settings=settings,
        model=_folder(model),
        recipe=plan.recipe,
        machine=plan.machine,
        tasks=",".join(tasks.ids),
        started=time.monotonic(),
    )
    finished = _finished(folder / SUMMARY, settings)
    summary: dict[str, Any] = finished or run_pipeline(options, observer).to_json()
    if summary["exit_code"] != EXIT_DONE:
        raise InputError(f"{folder}: the run ended early ({summary['reason']}); give the same command again to continue it")
    scores = {name: (int(entry["solved"]), int(entry["total"])) for name, entry in summary["scores"].items()}
    return TaskRow(
        model=_name(model),
        identity=identity,
        tasks=str(choice),
        budget=budget,
        seed=seed,
        seconds=round(float(summary["seconds"]), 1),
        hardware=hardware_text(summary["hardware"]),
        commit=summary["commit"],
        pass_at_1=scores["pass_at_1"],
        pass_at_2=scores["per_prediction"],
        tasks_solved=scores["per_task_strict"],
        recipe=plan.recipe or "default",
        settings=plan.overrides,
    )


def _known(rows: Sequence[TaskRow], model: Path | None, choice: TaskChoice, budget: str, seed: int, plan: TaskEvaluation) -> Any:
    wanted = (folder_identity(_folder(model)), str(choice), budget, seed, plan.recipe or "default", plan.overrides)
    return next((r for r in rows if (r.identity, r.tasks, r.budget, r.seed, r.recipe, r.settings) == wanted), None)


def _finished(file: Path, settings: Settings) -> dict[str, Any] | None:
    """The summary of a run that is finished and had the same settings, so that it need not run again; else None."""
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = summary.get("settings") == settings.model_dump(mode="json") and summary.get("exit_code") == EXIT_DONE
    return summary if same else None


def _label(identity: str, choice: TaskChoice, budget: str, seed: int, plan: TaskEvaluation) -> str:
    parts = [str(choice), plan.recipe or "", *plan.overrides, f"budget {budget}", f"seed {seed}", identity[:8]]
    text = "-".join("".join(c if c.isalnum() or c in ".=" else "_" for c in part) for part in parts if part)
    if len(text.encode()) <= LABEL_BYTES:
        return text
    return f"{text[: LABEL_BYTES // 4]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _position(folder: Path) -> dict[str, int]:
    """The steps and tokens of the training that wrote a checkpoint; empty for other model folders."""
    try:
        return dict(json.loads((folder / "state.json").read_text(encoding="utf-8"))["position"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _folder(model: Path | None) -> Path:
    """The folder of a model; for None, that of the shipped model for this machine."""
    return model or shipped_model(bool(visible_gpus()))


def _name(model: Path | None) -> str:
    return label_of(_folder(model))


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
