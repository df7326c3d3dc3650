"""`solver reproduce`: the tables of published work on honest tasks, each with one command.

    OUT/NAME.md, NAME.json    the tables: n, seeds, hardware, intervals, paired tests, and the numbers of the source
    OUT/TABLE.png             a picture of each table
    OUT/results.jsonl         the rows; what is there is not measured again

`solver.experiments` conducts the runs. The answers are used only for scores: like any other run, these never see them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from solver.arc.task import Task
from solver.budget.prior import model_of
from solver.budget.profile import load_profile, save_profile
from solver.config import load_settings
from solver.errors import InputError
from solver.experiments.arms import ArmTable, Circumstances, Experiment
from solver.experiments.compare import reports
from solver.experiments.conduct import Conducted, StartRun, conduct
from solver.experiments.planned import Study, Subject
from solver.experiments.published import EXPERIMENTS, Scale, sweep
from solver.experiments.rows import ResultFile
from solver.experiments.tasks import held_out_tasks, named_tasks
from solver.model.folder import check_folder, folder_identity
from solver.model.shipped import label_of, shipped_model
from solver.report.arms_table import ArmsReport, as_json, markdown, plot_arms
from solver.report.observer import Observer, Progress
from solver.report.profile_table import markdown as profile_markdown
from solver.report.results import Summary
from solver.run.executors.base import Executor
from solver.run.pipeline import run as run_pipeline
from solver.run.placement import visible_gpus
from solver.run.types import EXIT_DONE, RunOptions

Report = Callable[[str], None]
MakeExecutor = Callable[[RunOptions, Path], Executor]

SMALL_TASKS, USUAL_TASKS = 10, 100
SMALL_TOKENS, USUAL_TOKENS = 200, 600  # grid tokens of a held-out task at most
SMALL_BUDGET = 900.0  # seconds
PROFILE_SECONDS = 60.0  # of measuring the seconds of a step
PROFILED = "ironbar"  # the experiment with a table of step times


@dataclass(frozen=True)
class ReproduceOptions:
    """The options of the command line."""

    experiment: str  # a name of EXPERIMENTS, or "sweep"
    out: Path
    models: tuple[Path | None, ...] = (None,)  # None: the shipped model for this machine
    on: str | None = None  # a set or a file of tasks with answers; None: held-out tasks
    tasks: int | None = None  # how many; None: SMALL_TASKS or USUAL_TASKS of held-out ones, or all of `on`
    tokens: int | None = None  # None: SMALL_TOKENS or USUAL_TOKENS
    small: bool = False
    budget: float | None = None  # seconds for everything; None: SMALL_BUDGET with `small`, else no limit
    seeds: tuple[int, ...] = (0,)
    corpus: Path | None = None
    cache: Path = Path("runs/pretrain")
    machine: str | None = None
    overrides: tuple[str, ...] = ()
    recipe: str | None = None  # of a sweep
    arms: tuple[str, ...] = ()  # of a sweep, as key=value

    @property
    def seconds(self) -> float | None:
        """The time for everything; None: no limit."""
        return SMALL_BUDGET if self.small and self.budget is None else self.budget


@dataclass(frozen=True)
class Reproduced:
    """What the command gives: the tables, their text, and the exit code of the process."""

    reports: tuple[ArmsReport, ...]
    text: str
    exit_code: int = EXIT_DONE


def reproduce(
    options: ReproduceOptions, observer: Callable[[], Observer], report: Report, make_executor: MakeExecutor | None = None
) -> Reproduced:
    """Measure what is missing and write the tables. `make_executor` replaces the local worker processes.

    Raises InputError for options that cannot be used, before any run.
    """
    began = time.monotonic()
    subjects = [_subject(model, options) for model in options.models]
    experiment = _experiment(options, model_of(subjects[0].folder).parameters)
    circumstances = Circumstances(options.machine, options.overrides)
    for subject in subjects:
        for table in subject.tables:
            for arm in table.arms:
                circumstances.settings(table, arm, options.seeds[0])  # refuse bad settings before any work
    tasks, words = chosen_tasks(options)
    rows = ResultFile(options.out)
    budget = options.seconds
    profiled = options.out / f"step-times-{subjects[0].identity[:8]}.json"
    if budget is not None:
        measured = options.experiment != PROFILED or profiled.exists()
        budget -= time.monotonic() - began + (0.0 if measured else PROFILE_SECONDS)
    done = conduct(
        Study(tuple(subjects), tuple(tasks), options.seeds, circumstances, options.out),
        rows,
        budget,
        starter(make_executor),
        lambda: WithoutSummary(observer()),
        report,
    )
    return finish(options, experiment, subjects, done, rows, words, report, profiled, began)


def finish(
    options: ReproduceOptions,
    experiment: Experiment,
    subjects: Sequence[Subject],
    done: Conducted,
    rows: ResultFile,
    words: str,
    report: Report,
    profiled: Path,
    began: float,
) -> Reproduced:
    """Measure losses and step times, unless a signal has ended the runs, and write the tables."""
    extra = ""
    if done.exit_code == EXIT_DONE:
        if any(run.losses for run in done.runs):
            from solver.experiments.losses import measure_losses  # it needs torch

            measure_losses(done.runs, rows, report)
        if options.experiment == PROFILED:
            extra = step_times(options, subjects[0], profiled, report)
    tables = reports(experiment, subjects, done, rows, words)
    report(f"finished after {time.monotonic() - began:.0f} s" + (f": {done.stopped}" if done.stopped else ""))
    text = write_tables(options.out, experiment, tables, extra, report)
    return Reproduced(tuple(tables), text, done.exit_code)


def chosen_tasks(options: ReproduceOptions) -> tuple[list[Task], str]:
    """The tasks, and which they are, in words. Raises InputError."""
    if options.on is not None:
        count = options.tasks or (SMALL_TASKS if options.small else None)
        tasks = named_tasks(options.on, count)
        return tasks, f"{options.on}, {'all' if count is None else 'those with the smallest sha256 of their id'}"
    count = options.tasks or (SMALL_TASKS if options.small else USUAL_TASKS)
    tokens = options.tokens or (SMALL_TOKENS if options.small else USUAL_TOKENS)
    tasks = held_out_tasks(count, tokens, 0, options.corpus, options.cache)
    folder = "" if options.corpus is None else f" and families of {options.corpus.name}"
    return tasks, (
        f"Tasks held out of training, of at most {tokens} grid tokens: ARC-AGI training tasks and procedural families{folder}"
    )


def starter(make_executor: MakeExecutor | None) -> StartRun:
    """What starts a run: the pipeline, with these workers."""
    return partial(run_pipeline, make_executor=make_executor)


def step_times(options: ReproduceOptions, subject: Subject, path: Path, report: Report) -> str:
    """The table of the seconds of an optimizer step, measured by the profiler unless the file has it."""
    if path.exists():
        found = load_profile(path)
    else:
        from solver.commands.profile import ProfileOptions, profile

        table = subject.tables[0]
        settings = load_settings(options.machine, table.recipe, (*table.base, *options.overrides))
        lengths = (256, 512) if options.small else (512, 1024, 2048, 4096)
        found = profile(ProfileOptions(settings, subject.folder, options.machine, ("none",), lengths, PROFILE_SECONDS), report)
        save_profile(path, found)
    return f"## Seconds of a step\n\n{profile_markdown(found)}\n"


def write_tables(out: Path, experiment: Experiment, tables: Sequence[ArmsReport], extra: str, report: Report) -> str:
    """Write Markdown, JSON and pictures. Gives the Markdown. Raises InputError if a file cannot be written."""
    pictures = [f"{table.name}.png" for table in experiment.tables]
    parts = [f"# {experiment.title}\n"]
    for table, picture in zip(tables, pictures, strict=True):
        plot_arms(table, out / picture, report)
        parts.append(f"{markdown(table)}\n![{table.title}]({picture})\n")
    text = "\n".join([*parts, *([extra] if extra else [])])
    try:
        (out / f"{experiment.name}.md").write_text(text, encoding="utf-8")
        value = {"experiment": experiment.name, "source": experiment.source, "tables": [as_json(table) for table in tables]}
        (out / f"{experiment.name}.json").write_text(json.dumps(value, indent=2), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    report(f"written: {out / experiment.name}.md, .json, {', '.join(pictures)}")
    return text


@dataclass(frozen=True)
class WithoutSummary:
    """Shows the progress of a run among others, but not its summary."""

    inner: Observer

    def progress(self, progress: Progress) -> None:
        """Show the progress."""
        self.inner.progress(progress)

    def note(self, line: str) -> None:
        """Show a line."""
        self.inner.note(line)

    def end(self, summary: Summary | None) -> None:  # noqa: ARG002
        """Give the terminal back."""
        self.inner.end(None)


def subject_of(name: str, folder: Path, tables: tuple[ArmTable, ...]) -> Subject:
    """A model of an experiment. Raises InputError if the folder holds none."""
    check_folder(folder)
    return Subject(name, folder, folder_identity(folder), tables)


def _subject(model: Path | None, options: ReproduceOptions) -> Subject:
    folder = model or shipped_model(bool(visible_gpus()))
    check_folder(folder)
    return subject_of(label_of(folder), folder, _experiment(options, model_of(folder).parameters).tables)


def _experiment(options: ReproduceOptions, parameters: int) -> Experiment:
    scale = Scale(parameters, options.small)
    if options.experiment in EXPERIMENTS:
        return EXPERIMENTS[options.experiment](scale)
    return sweep(options.arms, options.recipe or "default")
