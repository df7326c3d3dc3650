"""`solver fit-gains`: learns from the ledgers of runs with known answers what work is worth; also reads runs for replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from solver.arc.datasets import Answers, load_solutions, load_tasks
from solver.arc.grid import Grid, grid_key
from solver.arc.selection import agreement, newest_scores, select
from solver.arc.submission import two_attempts
from solver.arc.tally import Tally
from solver.arc.task import Task
from solver.budget import gains
from solver.budget.replay import Found, RecordedTask, Rung, evidence, unfitted_trust
from solver.budget.workload import shape_of
from solver.config import Settings
from solver.errors import InputError
from solver.run.ledger import LEDGER, Ledger
from solver.run.run_facts import RunFacts
from solver.types import TaskOutcome
from solver.worker.solve import inference_views


@dataclass(eq=False)
class _Passes:
    """The passes of one task, and the result of any of them together."""

    task: Task
    settings: Settings
    outcomes: tuple[TaskOutcome, ...]
    answers: Sequence[Grid | None]
    _known: dict[tuple[tuple[int, int], ...], Found] = field(default_factory=dict)

    def found(self, passes: tuple[tuple[int, int], ...]) -> Found:
        """See `RecordedTask.found`."""
        if passes not in self._known:
            self._known[passes] = self._find(passes)
        return self._known[passes]

    def _find(self, passes: tuple[tuple[int, int], ...]) -> Found:
        right, counted, agreements = 0, 0, []
        for index in range(len(self.task.test)):
            candidates, scores, share = [], [], 0.0
            for place, views in passes:
                outcome = self.outcomes[place]
                asked = {view.key for view in inference_views(self.settings, self.task, outcome.wave)[:views]}
                query = outcome.queries[index]
                mine = [candidate for candidate in query.candidates if candidate.view in asked]
                share = agreement(mine, min(views, query.views)) if mine else 0.0
                candidates += mine
                scores += [score for score in query.scores if score.view in asked]
            agreements.append(share)
            if (answer := self.answers[index]) is not None:
                ranked = select(self.settings.select.rule, Tally.of(candidates), newest_scores(scores))
                attempts = two_attempts(ranked, self.task, index)
                right += any(grid_key(attempt) == grid_key(answer) for attempt in attempts)
                counted += 1
        return Found(right / counted, min(agreements))


@dataclass(frozen=True)
class Record:
    """The tasks of a run whose answers are known."""

    folder: Path
    settings: Settings
    tasks: tuple[RecordedTask, ...]


def read_record(folder: Path, solutions: str | None = None) -> Record:
    """A run's tasks with their passes. Raises InputError if there is no sound ledger or no answers are known.

    The answers are those of `solutions`, else of the solutions or the task set the run was started with.
    """
    with closing(Ledger.read(folder / LEDGER)) as ledger:
        try:
            facts = ledger.facts()
            tasks, outcomes = {task.id: task for task in ledger.tasks()}, ledger.outcomes()
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{folder / LEDGER}: the ledger is damaged: {type(error).__name__}: {error}") from None
    if facts.all_settings is None:
        raise InputError(f"{folder / LEDGER}: its run ended before any work began")
    try:
        settings = Settings.model_validate(facts.all_settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{folder / LEDGER}: was written by another version of this package: setting {where}: {first['msg']}"
        ) from None
    answers = known_answers(folder, facts, solutions)
    found = []
    for id_, group in groupby(outcomes, key=lambda outcome: outcome.task_id):
        passes = tuple(outcome for outcome in group if any(query.views for query in outcome.queries))
        known = answers.get(id_, ())
        if passes and any(answer is not None for answer in known):
            found.append(_recorded(tasks[id_], settings, passes, known))
    if not found:
        raise InputError(f"{folder}: no answer is known for any task that the run worked on")
    return Record(folder, settings, tuple(found))


def known_answers(folder: Path, facts: RunFacts, solutions: str | None) -> Answers:
    """The answers in `solutions`, else in the solutions or the task set that the run in `folder` was started with."""
    solutions = solutions or facts.solutions or None
    if solutions is not None:
        return load_solutions(solutions)
    if facts.challenges is None:
        raise InputError(f"{folder}: the answers are not known; give them by --solutions")
    return load_tasks(facts.challenges, "fallback").answers()


def _recorded(task: Task, settings: Settings, outcomes: tuple[TaskOutcome, ...], answers: Sequence[Grid | None]) -> RecordedTask:
    steps, rungs = 0, []
    for outcome in outcomes:
        fitted = outcome.fit.steps if outcome.fit is not None else 0
        steps += fitted
        rungs.append(Rung(steps, fitted, outcome.seconds))
    views = max(query.views for outcome in outcomes for query in outcome.queries)
    samples = settings.infer.samples if settings.infer.mode == "sample" else 1
    found = _Passes(task, settings, outcomes, answers).found
    return RecordedTask(task.id, task.grid_tokens(), shape_of(task), tuple(rungs), views, samples, found)


def fit_gains(folders: Sequence[Path], solutions: str | None, out: Path, tell: Callable[[str], None]) -> str:
    """Fit gains to runs and write them to `out`. Gives a line for people.

    Runs that cannot be read are left out, with a line. Raises InputError if none is left or `out` cannot be written.
    """
    records: list[Record] = []
    trouble = ""
    for folder in folders:
        try:
            record = read_record(folder, solutions)
        except InputError as error:
            trouble = str(error)
            tell(f"this run is left out: {error}")
            continue
        records.append(record)
        tell(f"{folder}: {len(record.tasks)} tasks with known answers, {sum(len(task.rungs) for task in record.tasks)} passes")
    if not records:
        raise InputError(f"no run can be used: {trouble}")
    tasks = [task for record in records for task in record.tasks]
    unfitted = unfitted_trust(tasks)
    tell(f"fitting {len(gains.PRIOR)} parameters; agreement without a fit counts by a factor of {unfitted:g}")
    rows = [passed for record in records for task in record.tasks for passed in evidence(task, record.settings, unfitted)]
    sources = ", ".join(record.folder.name for record in records)
    fitted = gains.fit(rows, f"{len(tasks)} tasks with known answers, of {sources}", unfitted)
    gains.save_gains(out, fitted)
    return f"{out}: gains, fitted to {fitted.fitted_on}"
