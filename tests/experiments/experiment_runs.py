"""Stands for the pipeline in tests of experiments: real ledgers with answers that a test chooses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from solver.arc.datasets import load_solutions, load_tasks
from solver.arc.grid import Grid
from solver.config import Settings
from solver.experiments.arms import Arm, ArmTable
from solver.experiments.estimate import RunEstimate
from solver.experiments.planned import Subject
from solver.model.folder import EMBEDDED
from solver.run.identity import identity_of
from solver.run.ledger import LEDGER, Ledger
from solver.run.types import RunOptions
from solver.types import AdapterRef, Candidate, Fit, QueryOutcome, TaskOutcome
from solver.worker.solve import inference_views

TABLE = ArmTable(
    "small",
    "A small table",
    "default",
    (
        Arm("usual"),
        Arm("less", "train.rank=4", "usual", source="fewer", effect="lower"),
        Arm("flat", 'select.rule="flat_vote"', "usual"),
        Arm("turned", 'infer.views.transforms=["rot90"]', "usual"),
        Arm("oracle", against="usual", oracle=True, effect="higher"),
    ),
    base=('select.rule="hierarchical_vote"', "infer.score=false"),
)
SUBJECT = Subject("a model", EMBEDDED, "0123456789abcdef", (TABLE,))


class Killed(Exception):
    """The process was killed."""


@dataclass
class FakeRuns:
    """Answers tasks as `right` says, and notes which ones: (rank of the settings, task)."""

    right: Callable[[Settings, str], bool] = lambda settings, id_: True
    dies_after: int | None = None  # tasks of this process
    exit_code: int = 0
    stops_after: int | None = None  # tasks of a run, which then ends as by its deadline
    seconds: float = 1.5  # of a pass
    now: float = 0.0  # of a clock that only runs advance
    asked: list[tuple[int, str]] = field(default_factory=list)
    options: list[RunOptions] = field(default_factory=list)

    def __call__(self, options: RunOptions, observer: Any) -> Any:
        self.options.append(options)
        self.now += 2.0
        settings = options.settings
        assert options.challenges is not None
        assert options.model is not None
        tasks = load_tasks(options.challenges)
        assert not tasks.answers()  # a run gets no answers
        answers = load_solutions(options.solutions) if options.solutions else {}
        identity = identity_of(tasks, settings, options.model, options.recipe)
        done = 0
        with contextlib.closing(Ledger.open(options.out / LEDGER, identity, tasks)) as ledger:
            if settings.train.shared:
                adapter = AdapterRef("s", EMBEDDED, "lora")
                ledger.record_shared(Fit("s", "complete", "steps", adapter, 12, 600, 6.0, 1.0, 1.0))
            known = {outcome.task_id for outcome in ledger.outcomes()}
            for task in tasks:
                if task.id in known:
                    continue
                if self.dies_after is not None and len(self.asked) >= self.dies_after:
                    raise Killed
                if self.stops_after is not None and done >= self.stops_after:
                    break
                done += 1
                self.now += self.seconds
                self.asked.append((settings.train.rank, task.id))
                grids = [g for g in answers[task.id] if g is not None]
                ledger.record(answered(settings, task, grids, self.right(settings, task.id), self.seconds))
        return SimpleNamespace(exit_code=self.exit_code, reason="the end", seconds=1.0)


def answered(settings: Settings, task: Any, grids: Sequence[Grid], right: bool, seconds: float) -> TaskOutcome:
    """A pass over a task that answers the truth under every view, or only under the last one."""
    views = inference_views(settings, task, 0)
    queries = []
    for index, truth in enumerate(grids):
        wrong = [(truth + 1 + number) % 10 for number in range(2)]
        candidates = []
        for number, view in enumerate(views):
            grid = truth if right or number + 1 == len(views) else wrong[number % 2]
            candidates.append(Candidate(np.asarray(grid, dtype=np.uint8), view.key, -1.0, "greedy", "a"))
        queries.append(QueryOutcome(index, tuple(candidates), (), len(views)))
    steps = 0 if settings.budget.fixed_waves == (0,) or settings.train.shared else 5
    fit = Fit("a", "complete", "steps", AdapterRef("a", EMBEDDED, "lora"), steps, 70, 1.0, 1.0, 1.0) if steps else None
    return TaskOutcome(task.id, 0, "complete", fit, tuple(queries), {"fit": seconds - 0.5, "infer": 0.5}, tokens={"trained": 70})


def flat_estimate(seconds: float = 1.5) -> Callable[..., RunEstimate]:
    return lambda settings, folder, tasks: RunEstimate(2.0, (seconds,) * len(tasks))
