"""Deals work to workers: asks the policy for each of them, also where machines are unlike and adapters lie on several nodes.

On several nodes, a worker first gets tasks whose adapter is on its node, or which have none. Long tasks come first, so that none
is begun last; a worker that is much slower than the fastest takes short ones. Where passes have no deadline, a slow worker gets
nothing that would end after all other work: nobody waits for it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from solver.budget.chunk import Chunks
from solver.budget.costs import CostModel
from solver.budget.device_costs import DeviceCosts
from solver.budget.planner import Assignment, Policy, TaskState
from solver.budget.task_table import ANYONE, Receiver
from solver.config import Settings
from solver.run.state import RunState
from solver.run.worker_state import WorkerState

MANY, RECOUNT = 32, 16  # of more than MANY workers, the kinds are counted once in RECOUNT items


@dataclass(frozen=True)
class Dealt:
    """What a worker gets, in seconds of its own device."""

    assignment: Assignment
    costs: CostModel  # of its kind of device


class Dealer:
    """Chooses the next item of each worker. It reads no clock."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        run_state: RunState,
        chunks: Chunks,
        node_of: Callable[[int], str],
        event: Callable[[str, str], None],
    ) -> None:
        """`node_of` gives the node of a worker, empty on a single machine; `event` gets the kind and detail of events."""
        self._endless = settings.budget.policy == "fixed"
        self._policy, self._run_state, self._chunks = policy, run_state, chunks
        self._node_of, self._event = node_of, event
        self._nothing: dict[str, int] = {}  # by kinds that got nothing: how many changes of tasks there had been
        self._there: Counter[str] = Counter()  # workers by kind
        self._deals = 0
        self.costs = DeviceCosts(settings, policy.costs)

    def next(self, number: int, workers: Sequence[WorkerState], left: float, anew: bool = False) -> Dealt | None:
        """The next item of worker `number`, with `left` seconds of work left; None: nothing is for it now.

        Passes without a deadline are left to the node of their adapter, and by slow workers to faster ones. With `anew` they are
        not, because nobody else works on anything.
        """
        kind, changes = workers[number].kind, len(self._run_state.states().replaced)
        if not self._endless and self._nothing.get(kind) == changes:
            return None  # nothing was there for such a worker, and no task has changed since
        dealt = self._next(number, workers, left, anew or not self._endless)
        if dealt is None:
            self._nothing[kind] = changes
        return dealt

    def _next(self, number: int, workers: Sequence[WorkerState], left: float, anew: bool) -> Dealt | None:
        states, kind = self._run_state.states(), workers[number].kind
        if not self._policy.count_pending(states, free=True):
            return None
        if len(workers) <= MANY or not self._deals % RECOUNT:
            self._there = Counter(worker.kind for worker in workers if worker.counts)
        self._deals += 1
        there = self._there
        kinds = [one for one in there if one]  # those that have not been ready are of no kind yet
        slowness, strength, count = self.costs.slowness(kind), float(there.total()), there.total()
        if len(kinds) > 1:
            strength = sum(many * slowness / (self.costs.slowness(one) if one else 1.0) for one, many in there.items())
        self._choose_chunk(states, left, count)
        node = self._node_of(number)
        slow = len(kinds) > 1 and self.costs.slow(kind, kinds)
        receiver = Receiver(node, longest_first=count > 1 and not slow) if node else ANYONE
        assignment = self._policy.next(states, left / slowness, strength, receiver)
        if assignment is None and node and anew:  # rather begin a task anew than do nothing
            assignment = self._policy.next(states, left / slowness, strength, replace(receiver, node=""))
        if assignment is None:
            return None
        costs = self.costs.of(kind)
        if slow and not anew and self._policy.count_pending(states) < strength * len(assignment.tasks):
            return None  # the others finish everything else before this worker would finish its own
        return Dealt(replace(assignment, seconds=self._own_seconds(assignment, costs)), costs)

    def _own_seconds(self, assignment: Assignment, costs: CostModel) -> float:
        """The seconds of an assignment on the worker's own device."""
        if costs is self._policy.costs or not costs.tasks or math.isinf(assignment.seconds):
            return assignment.seconds
        planned, own = (
            sum(model.seconds(self._run_state.state(id_).shape, assignment.plan, assignment.wave) for id_ in assignment.tasks)
            for model in (self._policy.costs, costs)
        )
        return assignment.seconds * own / planned if planned > 0 else assignment.seconds

    def _choose_chunk(self, states: Sequence[TaskState], left: float, workers: int) -> None:
        if not self._chunks.in_question:
            return
        chunk = self._chunks.choose(left, self._policy.count_pending(states), workers)
        if chunk.size != self._policy.chunk:
            self._policy.chunk = chunk.size
            self._event("chunk", f"{chunk.size} task{'s' * (chunk.size > 1)} per item: {chunk.reason}")
