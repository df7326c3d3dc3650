"""Reads the rows of arms from the ledgers of runs.

An arm that only leaves out views or votes otherwise needs no run of its own: its answers are among those of the run that asked
under all views. So such arms are compared on the very same fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from solver.arc.grid import Grid, grid_key
from solver.arc.selection import newest_scores, select
from solver.arc.tally import Tally
from solver.arc.task import Task
from solver.budget.planner import full_plan
from solver.config import Settings
from solver.errors import InputError
from solver.experiments.arms import differences
from solver.experiments.rows import ResultRow
from solver.experiments.tasks import content_digest
from solver.run.ledger import LEDGER, Ledger
from solver.types import AdapterRef, Candidate, Fit, TaskOutcome
from solver.worker.solve import inference_views

_OF_VIEWS = {"infer.views.transforms", "infer.views.count", "infer.permutations"}
_OF_CHOICE = {"select.rule"}


@dataclass(frozen=True)
class WantedArm:
    """An arm with everything that its rows name."""

    name: str
    table: str
    settings: Settings
    key: str  # of `row_key`
    oracle: bool
    model: str


@dataclass(frozen=True)
class Measured:
    """Where rows come from."""

    hardware: str
    commit: str


def serves(run: Settings, arm: Settings) -> bool:
    """Whether a run with the settings `run` holds the answers of an arm: it asks under the same views or more."""
    apart = set(differences(run, arm))
    if not apart <= _OF_VIEWS | _OF_CHOICE:
        return False
    if not apart & _OF_VIEWS:
        return True
    if run.infer.score or run.infer.views.count is not None:
        return False  # other candidates would have been scored; or the views that are left out are not those that the arm asks
    fewer = set(arm.infer.views.transforms) <= set(run.infer.views.transforms)
    return fewer and arm.infer.permutations <= run.infer.permutations


def views_of(run: Settings, arm: Settings, task: Task) -> list[str]:
    """The keys of the views of a run that an arm would ask: the same transforms and number of draws, in the arm's order."""
    asked = inference_views(run, task, 0)[: full_plan(run).views]
    by_transform: dict[str, list[str]] = {}
    for view in asked:
        by_transform.setdefault(view.transform, []).append(view.key)
    if arm.infer == run.infer:
        return [view.key for view in asked]
    draws = range(arm.infer.permutations)
    wanted = [by_transform.get(transform, [])[draw : draw + 1] for draw in draws for transform in arm.infer.views.transforms]
    return [key for keys in wanted for key in keys][: full_plan(arm).views]


def rows_of(
    folder: Path, run: Settings, arms: Sequence[WantedArm], tasks: Mapping[str, Task], measured: Measured
) -> Iterator[ResultRow]:
    """The rows of every arm that the run in a folder serves, for the tasks that it has finished. Nothing if there is no ledger.

    `tasks` are with answers, by id. A ledger that is damaged is passed over: the run will begin anew.
    """
    fit = shared_fit(folder) if run.train.shared else None
    for outcome in last_outcomes(folder, run):
        task = tasks.get(outcome.task_id)
        if task is None or outcome.status == "cut":
            continue
        for arm in arms:
            row = _row(outcome, run, arm, task, measured)
            # of a fit for all tasks every task has its share
            yield (
                row
                if fit is None
                else replace(
                    row,
                    steps=round(fit.steps / len(tasks)),
                    tokens=row.tokens + round(fit.tokens / len(tasks)),
                    seconds=round(row.seconds + fit.seconds / len(tasks), 2),
                )
            )


def last_outcomes(folder: Path, run: Settings) -> list[TaskOutcome]:
    """The outcomes of the last pass of every task of the run in a folder; none if there is no ledger that can be read."""
    try:
        with closing(Ledger.read(folder / LEDGER)) as ledger:
            outcomes = ledger.outcomes()
    except InputError:
        return []
    last = max(len(run.budget.fixed_waves), 1) - 1
    return [outcome for outcome in outcomes if outcome.wave == last]


def shared_fit(folder: Path) -> Fit | None:
    """The fit of the adapter that all tasks of a run share; None: there is none."""
    try:
        with closing(Ledger.read(folder / LEDGER)) as ledger:
            return ledger.shared_fit()
    except InputError:
        return None


def adapters_of(folder: Path, run: Settings) -> dict[str, AdapterRef | None]:
    """The adapter that answered each finished task, by id; None: the base model.

    Runs give their adapters the same names, and an engine keeps what it has loaded by name. So the names get the run's in front.
    """
    fit = shared_fit(folder)
    shared = None if fit is None else fit.adapter
    found: dict[str, AdapterRef | None] = {}
    for outcome in last_outcomes(folder, run):
        if outcome.status != "cut":
            adapter = (outcome.fit.adapter if outcome.fit is not None else None) or shared
            name = f"{folder.parent.name}-{folder.name}"
            found[outcome.task_id] = None if adapter is None else replace(adapter, id=f"{name}-{adapter.id}")
    return found


def _row(outcome: TaskOutcome, run: Settings, arm: WantedArm, task: Task, measured: Measured) -> ResultRow:
    views = set(views_of(run, arm.settings, task))
    solved, first, count = [], [], 0
    for query, pair in zip(outcome.queries, task.test, strict=True):
        assert pair.output is not None
        candidates = [candidate for candidate in query.candidates if candidate.view in views]
        scores = newest_scores(score for score in query.scores if score.view in views)
        ranked = select(arm.settings.select.rule, Tally.of(candidates), scores) if candidates else ()
        right = [grid_key(grid) == grid_key(pair.output) for grid in ranked]
        solved.append(_holds(candidates, pair.output) if arm.oracle else any(right))
        first.append(solved[-1] if arm.oracle else right[:1] == [True])
        count += len(candidates)
    return ResultRow(
        key=arm.key,
        content=content_digest([task]),
        task=task.id,
        arm=arm.name,
        table=arm.table,
        model=arm.model,
        seed=run.seed,
        solved=tuple(solved),
        first=tuple(first),
        candidates=count,
        status=outcome.status,
        steps=outcome.fit.steps if outcome.fit is not None else 0,
        tokens=outcome.tokens.get("trained", 0),
        seconds=round(sum(outcome.seconds.values()), 2),
        hardware=measured.hardware,
        commit=measured.commit,
    )


def _holds(candidates: Sequence[Candidate], answer: Grid) -> bool:
    return any(grid_key(candidate.grid) == grid_key(answer) for candidate in candidates)
