"""`solver rehearse`: runs of the real supervisor, policy and run state on simulated workers, program search, disk and clock.

It makes many seeded runs in several processes and counts what must not happen: a run that ends after its budget, or a submission
on disk that is not complete and valid.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

from solver.arc.datasets import TaskSet, load_tasks
from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.budget.costs import CostModel, Prior, prior_of
from solver.budget.gains import Gains
from solver.budget.planner import full_plan
from solver.budget.prior import model_of, prior, stored
from solver.budget.profile import Model, Profile, load_profile
from solver.budget.program_share import ProgramTime
from solver.budget.registry import make_policy
from solver.budget.rehearsal import MIXES, DeviceSpeed, Noise, RunRecord, by_mix, describe, fit_noise, summarise
from solver.commands.simulated_disk import SimulatedDisk, SimulatedLedger
from solver.commands.simulated_executor import SimulatedClock, SimulatedExecutor, Sketch
from solver.commands.simulated_programs import SimulatedPrograms
from solver.config import Settings
from solver.errors import InputError
from solver.host import cores
from solver.report.observer import SilentObserver
from solver.run.executors.base import Executor
from solver.run.ledger import LEDGER, Ledger
from solver.run.program_search import ProgramResources
from solver.run.state import RunState
from solver.run.supervisor import Supervisor
from solver.types import Deadline

EVERY_MIX = "all"
SETS = ("arc1:evaluation", "arc2:evaluation")  # that the tasks come from
PROGRAM_PROCESSES = 2  # that search for programs, unless the settings say how many
CHUNK = 8  # runs a process takes at a time
FLOOR_SHARE = 0.25  # of the steps of the settings: a task with no more steps is counted as "at floor"
# The model of a Kaggle or H200 rehearsal unless one is given: the shape of Qwen3-4B with the vocabulary of 16 tokens.
LARGE = Model(name="a 4B model", parameters=3_640_000_000, layers=36, hidden=2560, kv_width=1024, q_width=4096, vocabulary=16)


@dataclass(frozen=True)
class RehearseOptions:
    """One `solver rehearse`."""

    machine: str | None
    settings: Settings
    tasks: int
    budget: float  # seconds
    runs: int
    seed: int = 0
    mix: str = EVERY_MIX  # a name of budget.rehearsal.MIXES, or every one in turn
    model: Path | None = None  # its shape decides what work costs
    profile: Path | None = None
    ledgers: tuple[Path, ...] = ()  # folders of runs that noise is fitted on
    processes: int = 0  # 0: as many as there are cores


@dataclass(frozen=True, eq=False)
class SharedScene:
    """What all runs of a rehearsal share."""

    settings: Settings
    tasks: TaskSet
    workers: int
    budget: float
    pace: DeviceSpeed
    prior: Prior
    noise: Noise
    mixes: tuple[str, ...]
    seed: int
    gains: Gains | None = None  # that the policy plans with; None: those of the shipped models
    good_grids: dict[int, Grid] = field(default_factory=dict)  # grids known to be valid, by `id`


def rehearse(options: RehearseOptions, tell: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Rehearse. Gives counts, means and the source of the durations as plain JSON; `tell` gets the number of finished runs.

    Raises InputError for an unknown machine or mix, a profile or ledger that cannot be used, or too small numbers.
    """
    if options.tasks < 1 or options.runs < 1:
        raise InputError("a rehearsal needs at least one task and one run")
    if not options.settings.network:
        raise InputError("a rehearsal is of runs with a network: train.trainer is none")
    profile, warnings = _profile(options)
    scene = scene_of(options, profile)
    records: list[RunRecord] = []
    for record in _records(scene, options.runs, options.processes or cores()):
        records.append(record)
        tell(len(records))
    return {
        "machine": options.machine or "cpu",
        "budget": options.budget,
        "tasks": options.tasks,
        "workers": scene.workers,
        "policy": options.settings.budget.policy,
        "seed": options.seed,
        **summarise(records),
        "mixes": by_mix(records),
        "durations": profile.derivation or f"measured on {profile.machine.device}",
        "durations_measured": not profile.estimate,
        "model": profile.model.name,
        "noise": {**describe(scene.noise), "fitted": bool(options.ledgers)},
        "warnings": warnings,
    }


def scene_of(options: RehearseOptions, profile: Profile | None = None) -> SharedScene:
    """What all runs by these options share; `profile` saves looking for it again. Raises InputError as `rehearse` does."""
    profile = profile or _profile(options)[0]
    return SharedScene(
        settings=options.settings,
        tasks=rehearsal_tasks(options.tasks),
        workers=profile.machine.devices * options.settings.workers.per_device,
        budget=options.budget,
        pace=_pace(profile, options.settings),
        prior=prior_of(profile, options.settings.model.quantization),
        noise=noise_of(options.ledgers) if options.ledgers else Noise(),
        mixes=_mixes(options.mix),
        seed=options.seed,
    )


def one_run(
    scene: SharedScene,
    number: int,
    make_executor: Callable[..., Executor] = SimulatedExecutor,
    supervisor: type[Supervisor] = Supervisor,
) -> RunRecord:
    """The `number`-th run of a rehearsal; the same scene and number give the same record."""
    seed = f"{scene.seed}/{number}"
    mix = scene.mixes[number % len(scene.mixes)]
    faults, dice = MIXES[mix], Random(seed)
    clock = SimulatedClock()
    sketches = {task.id: Sketch.of(task, dice, dice.random() < faults.poisoned) for task in scene.tasks}
    executor = make_executor(clock, scene.pace, sketches, dice, scene.workers, scene.noise, faults)
    disk = SimulatedDisk(clock, scene.tasks, scene.budget, faults, Random(f"{seed}/disk"), scene.good_grids)
    run_state = RunState(scene.tasks, "flat_vote")
    clock.now = dice.uniform(0.5, 3.0)  # reading the tasks
    disk.write(run_state.submission)
    ledger = SimulatedLedger(disk)
    programs = None
    if scene.settings.programs.enabled:
        processes = scene.settings.programs.processes or PROGRAM_PROCESSES
        wake = executor.wake  # type: ignore[attr-defined]
        searching = SimulatedPrograms(clock, sketches, Random(f"{seed}/programs"), processes, faults, wake)
        programs = ProgramResources(searching, ProgramTime(scene.settings.programs.seconds, processes, beside=False))
    policy = make_policy(scene.settings, CostModel(scene.settings, scene.prior), scene.gains)
    end = Deadline(scene.budget, clock)
    run = supervisor(
        scene.settings, list(scene.tasks), run_state, ledger, executor, policy, end, disk.write, SilentObserver(),
        keep_adapters=True, poll=float("inf"), programs=programs,
    )  # fmt: skip
    ending = run.run()
    disk.finish()
    usage, span = executor.usage, scene.workers * scene.budget  # type: ignore[attr-defined]
    down = usage.down + usage.down_then * max(scene.budget - usage.closed_at, 0.0)
    states = run_state.states()
    floor = FLOOR_SHARE * full_plan(scene.settings).steps
    return RunRecord(
        seed=number,
        mix=mix,
        stop=ending.stop,
        seconds=clock.now,
        missed=clock.now > scene.budget,
        left_workers=executor.gone_at > scene.budget,  # type: ignore[attr-defined]
        invalid=disk.invalid,
        publishes=disk.writes,
        loading=usage.loading / span,
        worked=usage.worked / span,
        lost=usage.lost / span,
        down=down / span,
        work_left=ending.stop == "deadline" and any(policy.pending(state) and not state.busy for state in states),
        steps=run_state.totals().steps / len(states),
        at_floor=sum(state.steps <= floor for state in states),
        untouched=sum(not state.waves for state in states),
        events=dict(Counter(ledger.kinds) + Counter(usage.events)),
    )


def rehearsal_tasks(count: int) -> TaskSet:
    """`count` evaluation tasks, spread evenly over all sizes. If there are not as many, tasks repeat under other ids."""
    every = _every_task()
    chosen: list[Task] = []
    while len(chosen) < count:
        some = min(count - len(chosen), len(every))
        for place in range(some):
            task = every[(2 * place + 1) * len(every) // (2 * some)]
            chosen.append(replace(task, id=f"{task.id}-{len(chosen)}"))
    return TaskSet("rehearsal", tuple(chosen))


def noise_of(folders: Sequence[Path]) -> Noise:
    """The noise of real runs, by the tokens and seconds of their fits. Raises InputError if there are too few."""
    pieces = []
    for folder in folders:
        with closing(Ledger.read(folder / LEDGER)) as ledger:
            try:
                fits = [outcome.fit for outcome in ledger.outcomes() if outcome.fit is not None]
            except (ValueError, LookupError, TypeError) as error:
                raise InputError(f"{folder / LEDGER}: the ledger is damaged: {type(error).__name__}: {error}") from None
        pieces.append([(float(fit.tokens), fit.seconds) for fit in fits if fit.tokens and fit.reason in ("steps", "deadline")])
    try:
        return fit_noise(pieces)
    except ValueError as error:
        raise InputError(f"{', '.join(map(str, folders))}: {error}") from None


# -- inside


@lru_cache(maxsize=1)
def _every_task() -> tuple[Task, ...]:
    """The evaluation tasks, from the shortest to the longest."""
    return tuple(sorted((task for name in SETS for task in load_tasks(name)), key=lambda task: (task.grid_tokens(), task.id)))


def _profile(options: RehearseOptions) -> tuple[Profile, list[str]]:
    if options.profile is not None and options.model is None:
        return load_profile(options.profile), []
    if options.model is not None:
        return prior(options.profile, options.machine, model_of(options.model))
    return stored(options.machine, None if options.machine in (None, "cpu") else LARGE), []


def _pace(profile: Profile, settings: Settings) -> DeviceSpeed:
    try:
        return DeviceSpeed.of(profile, settings.model.quantization)
    except ValueError as error:
        raise InputError(str(error)) from None


def _mixes(name: str) -> tuple[str, ...]:
    if name == EVERY_MIX:
        return tuple(MIXES)
    if name not in MIXES:
        raise InputError(f"unknown fault mix {name!r}; there are: {', '.join((EVERY_MIX, *MIXES))}")
    return (name,)


def _records(scene: SharedScene, runs: int, processes: int) -> Iterator[RunRecord]:
    """Every run's record, in order."""
    if processes == 1 or runs <= CHUNK:
        yield from (one_run(scene, number) for number in range(runs))
        return
    context = multiprocessing.get_context("spawn")
    run = partial(one_run, replace(scene, good_grids={}))  # its keys are identities of objects in this process
    with ProcessPoolExecutor(min(processes, -(-runs // CHUNK)), context) as pool:
        yield from pool.map(run, range(runs), chunksize=CHUNK)
