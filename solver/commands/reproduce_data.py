"""`solver reproduce data`: what fine-tuning data is worth before test-time training, to small models that are trained for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from solver.commands.reproduce import (
    MakeExecutor,
    Reproduced,
    ReproduceOptions,
    WithoutSummary,
    chosen_tasks,
    starter,
    subject_of,
    write_tables,
)
from solver.errors import InputError
from solver.experiments.arms import Circumstances, Experiment
from solver.experiments.compare import reports
from solver.experiments.conduct import conduct
from solver.experiments.estimate import duration_text
from solver.experiments.losses import measure_losses
from solver.experiments.planned import Study
from solver.experiments.pretrainings import CORPUS, REFERENCE, DataArm, Training, data_arms, data_table, sources_of, train
from solver.experiments.rows import ResultFile
from solver.experiments.seeds import MIT
from solver.pretrain.command import PRESETS
from solver.report.observer import Observer
from solver.run.types import EXIT_DONE

Report = Callable[[str], None]

SMALL_STEPS, USUAL_STEPS = 60, 2000  # optimizer steps of a training
TRAINING_SHARE = 0.6  # of a budget, for the trainings


@dataclass(frozen=True)
class DataOptions:
    """What is trained, besides the options of every experiment."""

    common: ReproduceOptions
    training: Training


def reproduce_data(
    options: DataOptions, observer: Callable[[], Observer], report: Report, make_executor: MakeExecutor | None = None
) -> Reproduced:
    """Train a model on each choice of data, and compare what they solve with and without test-time training.

    Raises InputError for options that cannot be used, and if a training fails.
    """
    began = time.monotonic()
    common, training = options.common, options.training
    if training.preset not in PRESETS:
        raise InputError(f"unknown preset {training.preset!r}; there are: {', '.join(PRESETS)}")
    table = data_table(common.small)
    circumstances = Circumstances(common.machine, common.overrides)
    circumstances.settings(table, table.arms[0], common.seeds[0])
    tasks, words = chosen_tasks(common)
    rows = ResultFile(common.out)
    arms = data_arms(sources_of(training.corpus, common.out / CORPUS, report))
    folders = _trained(arms, options, report, began)
    subjects = [subject_of(name, folder, (table,)) for name, folder in folders.items()]
    left = None if common.seconds is None else max(common.seconds - (time.monotonic() - began), 1.0)
    done = conduct(
        Study(tuple(subjects), tuple(tasks), common.seeds, circumstances, common.out),
        rows,
        left,
        starter(make_executor),
        lambda: WithoutSummary(observer()),
        report,
    )
    if done.exit_code == EXIT_DONE:
        measure_losses(done.runs, rows, report)
    experiment = Experiment("data", "What fine-tuning data is worth before test-time training", MIT, (table,))
    tables = reports(experiment, subjects, done, rows, words, REFERENCE)
    left_out = [arm.name for arm in arms if arm.name not in folders]
    extra = f"Not trained, because the budget was too short: {'; '.join(left_out)}.\n" if left_out else ""
    return Reproduced(tuple(tables), write_tables(common.out, experiment, tables, extra, report), done.exit_code)


def _trained(arms: Sequence[DataArm], options: DataOptions, report: Report, began: float) -> dict[str, Path]:
    """The model of each arm, by name. Arms whose training does not fit a budget are left out, but not the reference."""
    budget = options.common.seconds
    room = math.inf if budget is None else TRAINING_SHARE * budget
    found: dict[str, Path] = {}
    longest = 0.0
    for place, arm in enumerate(arms):
        started = time.monotonic()
        if found and started - began + longest > room:
            report(f"left out, because the budget is too short to train them: {', '.join(one.name for one in arms[place:])}")
            break
        found[arm.name] = train(arm, options.training, options.common.out, report)
        longest = max(longest, time.monotonic() - started)
        report(f"{arm.name}: trained; the other {len(arms) - place - 1} are estimated at {duration_text(longest)} each")
    return found
