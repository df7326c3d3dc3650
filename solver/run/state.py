"""The state of a run in memory: outcomes of passes and of program searches, the submission that follows, the state of every task.

Where the state of tasks lives, who writes it, and what a kill of the supervisor's process loses. Workers write none of it: they
send messages, and know only their current item.

| holder | owns | written by | read by | after a kill |
| --- | --- | --- | --- | --- |
| `ledger.Ledger` | tasks, plans, outcomes, events | supervisor, through `Writer` | resumption, commands | stays |
| `RunState` | `TaskState` of each task, submission, sums | supervisor: its methods | policy, summary | made anew |
| `TaskPasses` | outcomes of a task, their tallies, the answers of programs, and attempts | `RunState` | `RunState` | made anew |
| `WorkerState` | a worker's item, its tasks that were reported | supervisor | supervisor | lost |
| `AdapterStore` | which adapters on the disk wait for a later pass | supervisor | supervisor | made anew |
| `TaskTable`, `PassOptions` | nothing: columns computed from `TaskState`s and costs | policy | policy | made anew |
| `ProgramSearch` | tasks to be searched, searches in flight | supervisor | supervisor | made anew; searches in flight are lost |
| `CostModel` | what passes have cost | supervisor | policy | made anew |
| `Writer` | rows of the ledger that a full disk did not take | supervisor | supervisor | lost |

"Made anew" means: from the outcomes in the ledger. Three fields of `TaskState` do not follow from them and start again at their
defaults: `busy`, because no worker runs, and `losses` and `killed`, so a task that was set aside is tried again. The column
`status` of the ledger's tasks is for people: a resumed run takes the status of a task from its last outcome.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from solver.arc.datasets import TaskSet
from solver.arc.submission import Submission, fallback_submission
from solver.budget.planner import TaskState
from solver.budget.task_table import TaskStates
from solver.budget.workload import shape_of
from solver.run.task_passes import TaskPasses
from solver.types import AdapterRef, KnownGrid, ProgramOutcome, TaskOutcome


@dataclass(frozen=True)
class Totals:
    """Sums over all passes."""

    steps: int
    trained: int  # tokens
    prompt: int
    sampled: int
    trained_rate: float  # tokens a second of fitting
    sampled_rate: float  # tokens a second of inference


class RunState:
    """Tasks, their passes by wave, and the submission that follows from them by one selection rule."""

    def __init__(
        self, tasks: TaskSet, rule: str, outcomes: Iterable[TaskOutcome] = (), programs: Iterable[ProgramOutcome] = ()
    ) -> None:
        self._rule = rule
        self._passes = {task.id: TaskPasses(task) for task in tasks}
        self._states = TaskStates(TaskState(task.id, task.grid_tokens(), shape_of(task)) for task in tasks)
        self._rows = {state.id: row for row, state in enumerate(self._states)}
        self._agreements: dict[str, tuple[float, ...]] = {}  # of a task's queries that have candidates
        self._shares: Counter[float] = Counter()  # how often each agreement occurs among them
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._sums: dict[str, float] = defaultdict(float)
        self._programs: dict[str, ProgramOutcome] = {}
        self.submission: Submission = fallback_submission(tasks)
        for outcome in outcomes:
            self.add(outcome)
        for found in programs:
            self.add_programs(found)

    def add(self, outcome: TaskOutcome) -> None:
        """Take in the outcome of a pass, replacing an earlier one of the same (task, wave), and select the attempts anew."""
        id_ = outcome.task_id
        passes = self._passes[id_]
        replaced = passes.add(outcome)
        if replaced is not None:
            self._count(replaced, -1)
        self._count(outcome, 1)
        results = passes.results
        agreements = [query.agreement for query in results.queries]
        self._shares.subtract(self._agreements.get(id_, ()))
        self._agreements[id_] = tuple(share for share in agreements if share is not None)
        self._shares.update(self._agreements[id_])
        if results.done:
            self._done.add(id_)
        else:
            self._done.discard(id_)
        self._change(
            id_,
            waves=results.waves,
            steps=results.steps,
            status=results.status,
            agreement=min((share or 0.0 for share in agreements), default=0.0),
            views=results.views,
        )
        self._note_failure(id_)
        self._choose(id_)

    def add_programs(self, outcome: ProgramOutcome) -> None:
        """Take in the program search for a task, replacing an earlier one, and select the attempts anew."""
        self._programs[outcome.task_id] = outcome
        self._passes[outcome.task_id].programs = outcome.answers
        self._choose(outcome.task_id)

    def _choose(self, id_: str) -> None:
        passes = self._passes[id_]
        choices = passes.choices(self._rule)
        self.submission[id_] = passes.attempts(choices)
        if any(passes.programs):
            self._change(
                id_,
                by_programs=min(choice.by_programs for choice in choices),
                confirmed=all(choice.confirmed for choice in choices),
            )

    def states(self) -> TaskStates:
        """The state of every readable task, in file order. The list follows later changes, and is not to be changed by others."""
        return self._states

    def state(self, id_: str) -> TaskState:
        """The state of one task."""
        return self._states[self._rows[id_]]

    def mark(self, ids: Iterable[str], busy: bool) -> None:
        """Note that tasks are being worked on, or no longer."""
        for id_ in ids:
            self._change(id_, busy=busy)

    def locate(self, id_: str, node: str) -> None:
        """Note on which node the adapter lies that the next pass of a task starts from; empty: on none, or on this machine."""
        if self.state(id_).node != node:
            self._change(id_, node=node)

    def lose(self, id_: str, killed: bool) -> TaskState:
        """Note that a pass over a task failed, and whether a worker was lost with it."""
        state = self.state(id_)
        self._change(id_, losses=state.losses + 1, killed=state.killed + killed)
        self._note_failure(id_)
        return self.state(id_)

    def outcomes(self) -> list[TaskOutcome]:
        """Every pass."""
        return [outcome for passes in self._passes.values() for outcome in passes.outcomes()]

    def program_outcomes(self) -> Mapping[str, ProgramOutcome]:
        """The program search for each task that was searched."""
        return self._programs

    def known(self, id_: str, before: int) -> tuple[tuple[KnownGrid, ...], ...]:
        """The distinct candidates of all waves below `before`, by query."""
        return self._passes[id_].known(before)

    def adapters(self, id_: str) -> tuple[AdapterRef, ...]:
        """The adapters fitted for a task, oldest first, whether their files are still there or not."""
        return self._passes[id_].results.adapters

    def agreement(self) -> float:
        """Mean agreement over the queries with candidates, each in the latest pass that found some; 0 without any."""
        count = self._shares.total()
        return sum(share * times for share, times in self._shares.items()) / count if count else 0.0

    def totals(self) -> Totals:
        """Sums over all passes."""
        sums = self._sums
        return Totals(
            steps=round(sums["steps"]),
            trained=round(sums["trained"]),
            prompt=round(sums["prompt"]),
            sampled=round(sums["new"]),
            trained_rate=sums["trained"] / sums["fit seconds"] if sums["fit seconds"] > 0 else 0.0,
            sampled_rate=sums["new"] / sums["infer seconds"] if sums["infer seconds"] > 0 else 0.0,
        )

    def _count(self, outcome: TaskOutcome, sign: int) -> None:
        if outcome.fit is not None:
            self._sums["steps"] += sign * outcome.fit.steps
        for kind, tokens in outcome.tokens.items():
            self._sums[kind] += sign * tokens
        for phase, seconds in outcome.seconds.items():
            self._sums[f"{phase} seconds"] += sign * seconds

    def done(self) -> int:
        """Tasks with a pass that did not fail."""
        return len(self._done)

    def failed(self) -> int:
        """Tasks whose last pass failed, or that are set aside."""
        return len(self._failed)

    def _change(self, id_: str, **fields: Any) -> None:
        row = self._rows[id_]
        self._states[row] = replace(self._states[row], **fields)

    def _note_failure(self, id_: str) -> None:
        state = self.state(id_)
        if state.status == "failed" or state.set_aside:
            self._failed.add(id_)
        else:
            self._failed.discard(id_)
