"""How long runs over tasks are going to take, by the profile of the machine, and how many tasks fit a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from solver.arc.task import Task
from solver.budget.costs import CostModel
from solver.budget.planner import full_plan
from solver.budget.workload import shape_of
from solver.config import Settings
from solver.experiments.planned import PlannedRun
from solver.experiments.rows import ResultFile
from solver.experiments.tasks import content_digest
from solver.run.initial_costs import initial_costs
from solver.run.local_processes import local_placement
from solver.run.types import RunOptions

AROUND = 4.0  # seconds of a run besides the start of its worker and its passes: reading tasks, the end
LEEWAY = 1.5  # times its estimate that a run may take
USABLE = 0.9  # of a budget: estimates are wrong by more than a few percent


@dataclass(frozen=True)
class RunEstimate:
    """The predicted seconds of a run: a start, and each of its tasks."""

    start: float
    tasks: tuple[float, ...]

    def seconds(self, count: int | None = None) -> float:
        """Of the run over its first `count` tasks; None: over all. 0 if they take no time."""
        chosen = sum(self.tasks[:count])
        return self.start + chosen if chosen else 0.0


Estimate = Callable[..., RunEstimate]  # of settings, a model folder and `tasks`


def estimate_run(settings: Settings, model: Path, tasks: Sequence[Task], machine: str | None = None) -> RunEstimate:
    """The estimate for a run of these settings on the workers of this machine.

    A shared fit takes as many steps as the fits that it replaces.
    """
    train = settings.train.model_copy(update={"shared": False})
    alone = settings.model_copy(update={"train": train})
    options = RunOptions(challenges=None, out=Path(), settings=alone, model=model, machine=machine)
    costs: CostModel = initial_costs(options, lambda _: None)
    plan = full_plan(alone)
    if settings.budget.fixed_waves:
        plan = type(plan)(settings.budget.fixed_waves[0], plan.views, plan.samples)
    workers = max(1, len(local_placement(options).environments))
    seconds = tuple(costs.seconds(shape_of(task), plan) / workers for task in tasks)
    return RunEstimate(costs.start()[0] + AROUND, seconds)


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

    def allotted(self, run: PlannedRun, waiting: Sequence[PlannedRun], runs: Sequence[PlannedRun], left: float) -> float:
        """The seconds of `left` for a run, while others wait: its share by the estimates, or LEEWAY times its estimate.

        What a run does not need stays for the others. The first run, which shows how fast the machine is, may take half of the
        time, because a task that the end of a run cuts is lost.
        """
        mine = self.of(run, runs).seconds()
        share = left * mine / max(mine + self.total(waiting, runs), 1e-9)
        if waiting and not self._factor([one for one in runs if one.subject == run.subject]):
            return max(share, left / 2)
        return min(left, max(share, LEEWAY * mine))

    def _raw(self, run: PlannedRun) -> RunEstimate:
        key = run.key, content_digest(run.tasks)
        if key not in self._cache:
            self._cache[key] = self._estimate(run.settings, run.subject.folder, tasks=run.tasks)
        return self._cache[key]

    def _factor(self, runs: Sequence[PlannedRun]) -> float:
        """Measured over estimated seconds of the tasks with a row; 0 without any."""
        measured = estimated = 0.0
        for run in runs:
            for task, cost in zip(run.tasks, self._raw(run).tasks, strict=True):
                row = self._rows.row(run.key, content_digest([task]))
                if row is not None:
                    measured, estimated = measured + row.seconds, estimated + cost
        return measured / estimated if estimated else 0.0


def fitting_tasks(runs: Sequence[RunEstimate], budget: float, tasks: int) -> int:
    """The largest number of tasks, the same for all runs, that is predicted to fit a budget in seconds; at least 1."""
    count = tasks
    while count > 1 and sum(run.seconds(count) for run in runs) > USABLE * budget:
        count -= 1
    return count


def duration_text(seconds: float) -> str:
    """Seconds for people: `3 h 05 min`, `12 min`, `40 s`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
