"""The state of a run in memory: the outcome of every pass, the submission selected from them, and the state of every task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from solver.arc.datasets import TaskSet
from solver.arc.selection import agreement, newest_scores, select
from solver.arc.submission import Attempts, Submission, fallback_submission, two_attempts
from solver.arc.task import Task
from solver.budget.planner import TaskState
from solver.budget.workload import shape_of
from solver.types import AdapterRef, Candidate, Fit, Score, TaskOutcome


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

    def __init__(self, tasks: TaskSet, rule: str, outcomes: Iterable[TaskOutcome] = ()) -> None:
        self._tasks = tasks
        self._rule = rule
        self._passes: dict[str, dict[int, TaskOutcome]] = {task.id: {} for task in tasks}
        self._states = {task.id: TaskState(task.id, task.grid_tokens(), shape_of(task)) for task in tasks}
        self._agreements: dict[str, tuple[float, ...]] = {}  # of a task's queries that have candidates
        self._agreement: float | None = 0.0  # their mean; None: to be computed
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._sums: dict[str, float] = defaultdict(float)
        self.submission: Submission = fallback_submission(tasks)
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: TaskOutcome) -> None:
        """Take in the outcome of a pass, replacing an earlier one of the same (task, wave), and select the attempts anew."""
        id_ = outcome.task_id
        passes = self._passes[id_]
        if outcome.wave in passes:
            self._count(passes[outcome.wave], -1)
        passes[outcome.wave] = outcome
        self._count(outcome, 1)
        latest = passes[max(passes)]
        agreements = self._latest_agreements(id_)
        self._agreements[id_] = tuple(share for share in agreements if share is not None)
        self._agreement = None
        if any(one.status != "failed" for one in passes.values()):
            self._done.add(id_)
        self._states[id_] = replace(
            self._states[id_],
            waves=max(passes) + 1,
            steps=sum(one.fit.steps for one in passes.values() if one.fit is not None),
            status=latest.status,
            agreement=min((share or 0.0 for share in agreements), default=0.0),
            views=self._latest_views(id_),
        )
        self._note_failure(id_)
        self.submission[id_] = self._answers(self._tasks.by_id[id_])

    def states(self) -> list[TaskState]:
        """The state of every readable task, in file order."""
        return list(self._states.values())

    def state(self, id_: str) -> TaskState:
        """The state of one task."""
        return self._states[id_]

    def mark(self, ids: Iterable[str], busy: bool) -> None:
        """Note that tasks are being worked on, or no longer."""
        for id_ in ids:
            self._states[id_] = replace(self._states[id_], busy=busy)

    def lose(self, id_: str, killed: bool) -> TaskState:
        """Note that a pass over a task failed, and whether a worker was lost with it."""
        state = self._states[id_]
        self._states[id_] = replace(state, losses=state.losses + 1, killed=state.killed + killed)
        self._note_failure(id_)
        return self._states[id_]

    def outcomes(self) -> list[TaskOutcome]:
        """Every pass."""
        return [passes[wave] for passes in self._passes.values() for wave in sorted(passes)]

    def known(self, id_: str, before: int) -> tuple[tuple[Candidate, ...], ...]:
        """The candidates of all waves below `before`, by query."""
        task = self._tasks.by_id[id_]
        return tuple(tuple(self._candidates(id_, index, before)) for index in range(len(task.test)))

    def adapters(self, id_: str) -> list[AdapterRef]:
        """The adapters fitted for a task, oldest first, whether their files are still there or not."""
        fits: list[Fit | None] = [self._passes[id_][wave].fit for wave in sorted(self._passes[id_])]
        return [fit.adapter for fit in fits if fit is not None and fit.adapter is not None]

    def agreement(self) -> float:
        """Mean agreement over the queries with candidates, each in the latest pass that found some; 0 without any."""
        if self._agreement is None:
            shares = [share for of_task in self._agreements.values() for share in of_task]
            self._agreement = sum(shares) / len(shares) if shares else 0.0
        return self._agreement

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

    def _note_failure(self, id_: str) -> None:
        state = self._states[id_]
        if state.status == "failed" or state.set_aside:
            self._failed.add(id_)
        else:
            self._failed.discard(id_)

    def _latest_agreements(self, id_: str) -> list[float | None]:
        """The agreement of each query in the latest pass that found candidates for it; a pass that found none changes nothing."""
        agreements: list[float | None] = [None] * len(self._tasks.by_id[id_].test)
        for _, outcome in sorted(self._passes[id_].items(), reverse=True):
            for query in outcome.queries:
                if query.candidates and agreements[query.index] is None:
                    agreements[query.index] = agreement(query.candidates, query.views)
            if None not in agreements:
                break
        return agreements

    def _latest_views(self, id_: str) -> int:
        """The views asked by the latest pass that found candidates, of the query that was asked least."""
        for _, outcome in sorted(self._passes[id_].items(), reverse=True):
            if any(query.candidates for query in outcome.queries):
                return min(query.views for query in outcome.queries)
        return 0

    def _answers(self, task: Task) -> tuple[Attempts, ...]:
        answers = []
        for index in range(len(task.test)):
            ranked = select(self._rule, self._candidates(task.id, index), newest_scores(self._scores(task.id, index)))
            answers.append(two_attempts(ranked, task, index))
        return tuple(answers)

    def _candidates(self, id_: str, index: int, before: int | None = None) -> list[Candidate]:
        passes = self._passes[id_]
        waves = [wave for wave in sorted(passes) if before is None or wave < before]
        return [c for wave in waves for query in passes[wave].queries if query.index == index for c in query.candidates]

    def _scores(self, id_: str, index: int) -> list[Score]:
        passes = self._passes[id_]
        return [s for wave in sorted(passes) for query in passes[wave].queries if query.index == index for s in query.scores]
