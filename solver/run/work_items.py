"""Makes work items: what a worker is told of the tasks that a policy has assigned to it, and the forecast of that work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from solver.arc.task import Task
from solver.budget.costs import CostModel
from solver.budget.forecast import ItemForecast, forecast_item
from solver.budget.planner import Assignment, full_plan
from solver.budget.shorten import shortened, token_limit
from solver.config import Settings
from solver.run.adapter_store import AdapterDisk
from solver.run.dealing import Dealt
from solver.run.ledger import BEFORE, SHORTENED, Records
from solver.run.state import RunState
from solver.run.writer import Writer
from solver.types import AdapterRef, KnownGrid, TaskPlan, TaskWork, WorkItem


class WorkItems:
    """Makes the items of one run and records the plans that they carry out."""

    def __init__(
        self,
        settings: Settings,
        tasks: Mapping[str, Task],
        run_state: RunState,
        disk: AdapterDisk,
        ledger: Records,
        writer: Writer,
        now: Callable[[], float],
        start: int,
    ) -> None:
        """`start` counts the processes of this run from 1: names of items are never used again."""
        self._settings, self._tasks, self._run_state, self._disk = settings, tasks, run_state, disk
        self._ledger, self._writer, self._now, self._start = ledger, writer, now, start
        self._count = 0

    def next_id(self) -> str:
        """A new name. Adapters are named after their item."""
        self._count += 1
        return f"r{self._start}i{self._count}"

    def shared(self, seconds: float, losses: int) -> WorkItem:
        """The item that fits one adapter on all tasks within so many seconds, after so many losses of it."""
        train = self._settings.train.model_copy(update={"shared": False})
        steps = full_plan(self._settings.model_copy(update={"train": train})).steps
        works = tuple(TaskWork(task, TaskPlan(steps, 0, 0)) for task in self._tasks.values())
        return WorkItem(self.next_id(), BEFORE, works, self._now() + seconds, "shared", losses)

    def make(self, dealt: Dealt, number: int, left: float, shared: AdapterRef | None) -> tuple[WorkItem, ItemForecast]:
        """The item for worker `number`, with `left` seconds of work left. Passes without an adapter start from `shared`."""
        assignment, costs = dealt.assignment, dealt.costs
        seconds = min(assignment.seconds, left)
        node = self._disk.node_of(number)
        works = tuple(
            self._task_work(id_, assignment, costs, seconds / len(assignment.tasks), node, shared) for id_ in assignment.tasks
        )
        shapes = [shortened(self._run_state.state(work.task.id).shape, work.max_tokens) for work in works]
        forecast = forecast_item(costs, shapes, assignment.plan, seconds, assignment.wave)
        item = WorkItem(
            self.next_id(),
            assignment.wave,
            works,
            self._now() + seconds,
            halvings=assignment.halvings,
            keep=forecast.keep,
        )
        for id_, phases in zip(assignment.tasks, forecast.seconds, strict=True):
            record = (id_, assignment.wave, assignment.plan, sum(phases.values()), assignment.reason)
            self._writer.save(partial(self._ledger.plan, *record))
        return item, forecast

    def _task_work(
        self, id_: str, assignment: Assignment, costs: CostModel, seconds: float, node: str, shared: AdapterRef | None
    ) -> TaskWork:
        start = shared
        known: tuple[tuple[KnownGrid, ...], ...] = ()
        if assignment.wave > 0:
            known = self._run_state.known(id_, assignment.wave)
            start = next((ref for ref in reversed(self._run_state.adapters(id_)) if self._disk.node(ref.path) == node), shared)
        return TaskWork(self._tasks[id_], assignment.plan, start, known, self._max_tokens(id_, assignment, costs, seconds))

    def _max_tokens(self, id_: str, assignment: Assignment, costs: CostModel, seconds: float) -> int | None:
        if math.isinf(assignment.seconds):  # a policy that gives items no deadline
            return None
        shape, context = self._run_state.state(id_).shape, self._settings.model.context
        limit = token_limit(costs, shape, assignment.plan, seconds, context, assignment.wave)
        if limit is not None:
            shown = len(shortened(shape, limit).demonstrations)
            what = f"prompts show {shown} of {len(shape.demonstrations)} demonstrations in at most {limit} tokens"
            why = f"with all of them the pass would take longer than its {seconds:.1f} s"
            self._writer.event(SHORTENED, f"{what}: {why}", id_, assignment.wave)
        return limit
