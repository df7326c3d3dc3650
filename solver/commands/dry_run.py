"""`solver dry-run`: runs a sample of the tasks, and predicts from it what the whole run would do.

The real pipeline solves a sample of the tasks, stratified by grid tokens, within a cap of seconds on this machine. With the costs
that it measured, the policy then plans all tasks and the whole budget: for this machine, or for another one by the ratio of two
profiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from solver.arc.datasets import TaskSet, load_tasks, pick_tasks
from solver.budget.costs import LEARNING, CostModel, prediction_errors
from solver.budget.extrapolate import Extrapolation, nearest_agreement, play, rescaled
from solver.budget.gains import shipped_gains
from solver.budget.planner import TaskState, full_plan
from solver.budget.prior import model_of, prior, stored
from solver.budget.registry import make_policy
from solver.budget.reserve import reserve_seconds
from solver.budget.workload import shape_of
from solver.config import Settings
from solver.errors import InputError
from solver.model.folder import SHIPPED
from solver.report.dry_run_table import DryRun, PhaseSeconds
from solver.report.observer import Observer
from solver.report.results import Summary
from solver.run.executors.base import Executor
from solver.run.initial_costs import initial_costs, remember
from solver.run.ledger import LEDGER, Ledger
from solver.run.local_processes import local_executor
from solver.run.pipeline import ExecutorFactory, run
from solver.run.state import RunState
from solver.run.supervisor import SHARED_FIT_SHARE
from solver.run.types import EXIT_DONE, RunOptions

TASK_SECONDS = 15.0  # of the cap, for each task of the sample
MIN_TASKS, MAX_TASKS = 3, 48


@dataclass(frozen=True)
class DryRunOptions:
    """One `solver dry-run`."""

    run: RunOptions  # of the whole run, whose budget it has; its folder gets the run of the sample
    cap: float  # seconds for the sample
    machine: str | None = None  # extrapolate to this preset; none: to this machine


def dry_run(
    options: DryRunOptions,
    observer: Observer,
    tell: Callable[[str], None],
    make_executor: ExecutorFactory | None = None,
) -> tuple[DryRun | None, Summary]:
    """Run the sample, then extrapolate. Gives no `DryRun` if a signal ended the sample, or no worker could be started.

    Raises InputError as `pipeline.run` does, for a machine without a profile, and if the cap is too short for a single task.
    """
    whole = options.run
    if whole.challenges is None or whole.budget is None:
        raise InputError("a dry run needs challenges and a budget")
    if not whole.settings.network:
        raise InputError("a dry run is for runs with a network: train.trainer is none")
    if options.machine is not None:
        stored(options.machine)  # refuse an unknown machine before the sample runs
    tasks = load_tasks(whole.challenges, whole.settings.input.on_bad_task)
    if whole.tasks is not None:
        tasks = pick_tasks(tasks, whole.tasks)
    if not tasks.tasks:
        raise InputError(f"{whole.challenges}: holds no readable task")
    sample = stratified(tasks, sample_size(options.cap, len(tasks.tasks)))
    tell(f"running a sample of {len(sample)} of {len(tasks)} tasks for {options.cap:.0f} s")
    small = replace(whole, budget=options.cap, tasks=",".join(sample), started=time.monotonic())
    workers: list[int] = []

    def counted(run_options: RunOptions, scratch: Path) -> Executor:
        executor = (make_executor or local_executor)(run_options, scratch)
        workers.append(executor.workers)
        return executor

    summary = run(small, observer, counted)
    if summary.exit_code != EXIT_DONE:
        return None, summary
    with closing(Ledger.read(small.out / LEDGER)) as ledger:
        return _extrapolated(options, small, tasks, sample, workers[0], ledger, summary, tell), summary


def sample_size(cap: float, tasks: int) -> int:
    """How many tasks to sample under a cap of so many seconds."""
    return min(tasks, MAX_TASKS, max(MIN_TASKS, int(cap / TASK_SECONDS)))


def stratified(tasks: TaskSet, count: int) -> list[str]:
    """The ids of `count` tasks: the middle ones, by grid tokens, of as many equal parts of the set."""
    ordered = sorted(tasks, key=lambda task: (task.grid_tokens(), task.id))
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)].id for place in range(count)]


def _extrapolated(
    options: DryRunOptions,
    small: RunOptions,
    tasks: TaskSet,
    sample: Sequence[str],
    workers: int,
    ledger: Ledger,
    summary: Summary,
    tell: Callable[[str], None],
) -> DryRun:
    settings = small.settings
    run_state = RunState(tasks.subset(sample), settings.select.rule, ledger.outcomes())
    if not run_state.done():
        raise InputError(f"the sample finished no task in {options.cap:.0f} s; give a longer --cap")
    costs = initial_costs(small, tell)
    remember(costs, ledger)
    states = [TaskState(task.id, task.grid_tokens(), shape_of(task)) for task in tasks]
    timings = ledger.timings()
    validate, load = (timings.get(phase, (0.0, 0.0))[1] for phase in ("validate", "load"))
    start = validate + load / workers  # `load` is the sum over workers, which load side by side
    machine, derivation = summary.device, ""
    if options.machine is not None:
        costs, start, machine, workers, derivation = _elsewhere(options.machine, small, costs, states, start)
    assert options.run.budget is not None
    budget = options.run.budget
    left = budget - reserve_seconds(settings.budget.reserve, budget) - start
    if settings.train.shared:
        left *= 1 - SHARED_FIT_SHARE
    tell(f"planning {len(states)} tasks in {budget:.0f} s on {workers} worker{'s' * (workers > 1)}")
    played = play(
        states,
        make_policy(settings, costs, shipped_gains(options.run.model not in (None, *SHIPPED.values()))),
        left,
        workers,
        nearest_agreement(run_state.states()),
        _tenths(left, tell),
    )
    plan = full_plan(settings)
    return DryRun(
        estimate=options.machine is not None,
        derivation=derivation,
        machine=machine,
        workers=workers,
        sample_tasks=len(sample),
        sample_seconds=summary.seconds,
        sample_events=summary.events,
        tasks=len(tasks),
        budget=budget,
        start_seconds=start,
        finish=start + played.seconds + (budget - start) * (SHARED_FIT_SHARE if settings.train.shared else 0.0),
        work_left=played.work_left,
        busy=played.busy,
        steps=played.steps,
        views=played.views,
        passes=played.passes_a_task,
        planned_steps=plan.steps,
        planned_views=plan.views,
        untouched=tuple(played.untouched),
        below=tuple(played.below(plan)),
        phases=_phases(ledger, played),
    )


def _tenths(seconds: float, tell: Callable[[str], None]) -> Callable[[int, float], None]:
    """A function that reports each time that another tenth of the time is planned."""
    due = [seconds / 10 * tenth for tenth in range(9, 0, -1)]

    def heard(passes: int, at: float) -> None:
        if due and at >= due[-1]:
            tell(f"planned {at:.0f} of {seconds:.0f} s: {passes} passes so far")
        while due and at >= due[-1]:
            due.pop()

    return heard


def _elsewhere(
    machine: str, small: RunOptions, costs: CostModel, states: Sequence[TaskState], start: float
) -> tuple[CostModel, float, str, int, str]:
    """Costs, seconds of the start, device and workers of another machine, and how the costs were derived."""
    settings: Settings = small.settings
    model = model_of(small.model)
    here, _ = prior(settings.budget.profile, small.machine, model)
    there = stored(machine, model)
    moved, ratios = rescaled(costs, settings, here, there, [state.shape for state in states])
    starts = [profile.variant(settings.model.quantization).start_seconds for profile in (here, there)]
    factors = ", ".join(f"{phase} {ratio:.3g}" for phase, ratio in ratios.items())
    derivation = (
        f"seconds measured here times the ratio of the profiles of {there.machine.device} and {here.machine.device}: {factors}"
    )
    if there.estimate:
        derivation += f". The profile of {there.machine.device} is an {there.derivation}"
    if here.estimate and here.derivation not in there.derivation:
        derivation += f". The profile of {here.machine.device} is an {here.derivation}"
    workers = there.machine.devices * settings.workers.per_device
    return moved, start * (starts[1] / starts[0] if starts[0] else 1.0), there.machine.device, workers, derivation


def _phases(ledger: Ledger, played: Extrapolation) -> dict[str, PhaseSeconds]:
    forecasts = ledger.forecasts()
    errors, later = prediction_errors(forecasts), prediction_errors(forecasts, skip=LEARNING)
    phases = {}
    for phase in dict.fromkeys(timing.phase for timing in forecasts):
        rows = [timing for timing in forecasts if timing.phase == phase]
        phases[phase] = PhaseSeconds(
            predicted=sum(timing.predicted or 0.0 for timing in rows),
            used=sum(timing.used for timing in rows),
            error=errors.get(phase),
            error_later=later.get(phase),
            full=played.phases.get(phase),
        )
    return phases
