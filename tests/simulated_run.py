"""Ledgers of whole runs that nobody waits for: the real supervisor writes a real ledger on a simulated clock."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest import mock

import numpy as np

from solver.arc.datasets import TaskSet, load_tasks
from solver.arc.grid import Grid
from solver.arc.submission import write_submission
from solver.arc.task import Task
from solver.arc.view import TRANSFORMS
from solver.budget.costs import CostModel
from solver.budget.gains import shipped_gains
from solver.budget.program_share import ProgramTime
from solver.budget.registry import make_policy
from solver.budget.rehearsal import MIXES, Noise
from solver.commands.rehearse import RehearseOptions, scene_of
from solver.commands.simulated_executor import SimulatedClock, SimulatedExecutor, Sketch
from solver.commands.simulated_programs import SimulatedPrograms
from solver.config import load_settings
from solver.report.observer import SilentObserver
from solver.run.ledger import ENDED, TOTAL, Event, Ledger
from solver.run.program_search import ProgramResources
from solver.run.run_facts import Identity, RunFacts
from solver.run.state import RunState
from solver.run.supervisor import Supervisor
from solver.types import Candidate, Deadline, TaskOutcome

EPOCH = 1.8e9  # when these runs begin
WORKERS, PROGRAM_PROCESSES = 4, 2


class _VariedAnswers(SimulatedExecutor):
    """Its wrong answers differ from view to view, as those of a network do, and its views are real ones."""

    def _outcome(self, one, work, taken, fault) -> TaskOutcome:  # type: ignore[no-untyped-def]
        made = super()._outcome(one, work, taken, fault)
        dice = np.random.default_rng(len(self._steps))
        queries = []
        for query, (right, _) in zip(made.queries, self._sketches[one.task.id].grids, strict=True):
            candidates = tuple(self._varied(candidate, right, place, dice) for place, candidate in enumerate(query.candidates))
            scores = tuple(replace(score, view=_view(place)) for place, score in enumerate(query.scores))
            queries.append(replace(query, candidates=candidates, scores=scores))
        return replace(made, queries=tuple(queries))

    def _varied(self, candidate: Candidate, right: Grid, place: int, dice: np.random.Generator) -> Candidate:
        grid = candidate.grid
        if grid is not right:
            grid = right.copy()
            grid.flat[dice.integers(0, grid.size, 2)] = dice.integers(0, 10, 2)
        return replace(candidate, grid=grid, view=_view(place), logprob=-float(dice.exponential(3.0)))


def _view(place: int) -> str:
    return f"{TRANSFORMS[place % len(TRANSFORMS)]}/{'0123456789' if place < len(TRANSFORMS) else '0213456789'}/"


def _sketch(task: Task, dice: Random, poisoned: bool) -> Sketch:
    grids = tuple((pair.output, pair.input) for pair in task.test if pair.output is not None)
    return replace(Sketch.of(task, dice, poisoned), grids=grids)


def simulated_run(out: Path, tasks: int, budget: float, seed: int = 0, faults: str = "usual") -> None:
    """Leave run.db and submission.json of a run over the first tasks of ARC-AGI-1 evaluation; `budget` is in seconds."""
    settings = load_settings(None, None, ["budget.policy=adaptive"])
    every = load_tasks("arc1:evaluation")
    chosen = TaskSet(every.source, every.tasks[:tasks])
    scene = scene_of(RehearseOptions(None, settings, tasks, budget, 1))
    dice, clock = Random(seed), SimulatedClock()
    sketches = {task.id: _sketch(task, dice, dice.random() < MIXES[faults].poisoned) for task in chosen}
    executor = _VariedAnswers(clock, scene.pace, sketches, dice, WORKERS, Noise(), MIXES[faults])
    searching = SimulatedPrograms(clock, sketches, Random(seed), PROGRAM_PROCESSES, MIXES[faults], executor.wake)
    out.mkdir(parents=True)
    with mock.patch.object(time, "time", new_callable=lambda: lambda: EPOCH + clock.now):
        ledger = Ledger.open(out / "run.db", Identity(chosen.fingerprint, "simulated", seed, "default", {}), chosen)
        state = RunState(chosen, settings.select.rule)
        ledger.set_facts(RunFacts(1, budget, "", "arc1:evaluation", "", settings.model_dump(mode="json")))
        policy = make_policy(settings, CostModel(settings, scene.prior), shipped_gains())
        supervisor = Supervisor(
            settings,
            list(chosen),
            state,
            ledger,
            executor,
            policy,
            Deadline(budget, clock),
            lambda submission: None,
            SilentObserver(),
            keep_adapters=True,
            poll=float("inf"),
            programs=ProgramResources(searching, ProgramTime(settings.programs.seconds, PROGRAM_PROCESSES, beside=False)),
        )
        ending = supervisor.run()
        ledger.timing(TOTAL, budget, clock.now, 1)
        ledger.event(Event(ENDED, ending.detail))
    ledger.close()
    write_submission(out / "submission.json", state.submission)
