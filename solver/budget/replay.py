"""Replays: a policy spends a budget on recorded passes, so that no model is needed and policies can be compared.

A record holds for every task the candidates after 0, s1, s1 + s2, ... optimizer steps (its rungs). A pass that stops between two
rungs gets one of them, the nearer the more likely. Durations are those of the record, linear in steps and in views, with noise. A
policy sees what it sees in a run: durations and agreement, but never the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from solver.budget.forecast import forecast_item
from solver.budget.gains import DOUBTED, REFERENCE, Passed, trusted
from solver.budget.planner import Policy, TaskState, full_plan
from solver.budget.workload import TaskShape
from solver.config import Settings
from solver.types import Fit, QueryOutcome, Score, TaskOutcome, TaskPlan

NOISE = 0.08  # standard deviation of the logarithm of a duration
_ENOUGH = 20  # tasks whose views agree, before a fit and after fits, for `unfitted_trust` to be estimated
_AS_OFTEN = 0.95


@dataclass(frozen=True)
class Found:
    """The result of a task's candidates."""

    solved: float  # share of its test inputs
    agreement: float  # of its least agreed query, of the latest pass


@dataclass(frozen=True)
class Rung:
    """One pass of a record."""

    steps: int  # of all passes so far
    fitted: int  # steps of this pass
    seconds: Mapping[str, float]  # by phase


@dataclass(frozen=True, eq=False)
class RecordedTask:
    """One task of a record, with its passes in order."""

    id: str
    size: int  # grid tokens
    shape: TaskShape
    rungs: tuple[Rung, ...]
    views: int  # of every pass
    samples: int
    # of the pooled candidates of passes; a pass is (index of its rung, how many of its first views)
    found: Callable[[tuple[tuple[int, int], ...]], Found]


def unfitted_trust(tasks: Sequence[RecordedTask]) -> float:
    """The factor on agreement without a fit (`Gains.unfitted`): 1 if it is as reliable as agreement after fits, else `DOUBTED`.

    It is as reliable if tasks whose views all agree are right at least `_AS_OFTEN` times as often as after fits. With fewer than
    `_ENOUGH` such tasks the factor is `DOUBTED`.
    """
    before = [found.solved for found in (_found(task, 0) for task in tasks if not task.rungs[0].steps) if found.agreement >= 1]
    after = [
        found.solved
        for task in tasks
        for found in (_found(task, place) for place, rung in enumerate(task.rungs) if rung.steps)
        if found.agreement >= 1
    ]
    if min(len(before), len(after)) < _ENOUGH:
        return DOUBTED
    return 1.0 if np.mean(before) >= _AS_OFTEN * np.mean(after) else DOUBTED


def _found(task: RecordedTask, place: int) -> Found:
    return task.found(((place, task.views),))


def evidence(task: RecordedTask, settings: Settings, unfitted: float) -> list[Passed]:
    """The passes of a task as rows to fit gains to: each with all, half, ... of the views, each later one with its predecessor.

    A later pass also stands for a first pass of as many steps as all passes up to it. The rows of one pass with different numbers
    of views have a total weight of 1.
    """
    halves = [task.views]
    while halves[0] > 1:
        halves.insert(0, halves[0] // 2)
    scale, full = settings.train.batch_sequences / REFERENCE, full_plan(settings)
    firsts: list[Passed] = []
    later: list[Passed] = []
    for place, rung in enumerate(task.rungs):
        rows = []
        for views in halves:
            found = task.found(((place, views),))
            weight = 1 / len(halves)
            agreed = trusted(found.agreement, views, rung.steps, full.views, full.steps, unfitted)
            rows.append(Passed(task.shape, rung.steps * scale, views, task.samples, agreed, found.solved, weight=weight))
        if place:
            both = task.found(((place - 1, task.views), (place, task.views)))
            before = replace(firsts[-1], waves=place)
            agreed = trusted(both.agreement, task.views, rung.steps, full.views, full.steps, unfitted)
            later.append(replace(rows[-1], agreement=agreed, solved=both.solved, waves=place + 1, before=before, weight=1.0))
        firsts += rows
    return firsts + later


@dataclass(frozen=True)
class Played:
    """The result of a replay."""

    solved: float  # tasks; one solved in part counts in part
    tasks: int
    untouched: int  # tasks without an answered pass
    used: float  # share of the workers' time in passes
    passes: int


def replay(policy: Policy, tasks: Sequence[RecordedTask], budget: float, seed: int, workers: int = 1) -> Played:
    """Play `policy` for `budget` seconds of work. The same record, budget and seed give the same result."""
    rng = np.random.default_rng(seed)
    # `tasks` may hold a task twice, so tasks get new ids
    book = {f"{place:04}": (TaskState(f"{place:04}", task.size, task.shape), task) for place, task in enumerate(tasks)}
    done: dict[str, list[tuple[int, int]]] = {id_: [] for id_ in book}
    now = [0.0] * workers
    due: list[tuple[float, int, str, TaskState, TaskOutcome, TaskPlan]] = []
    used, passes, idle = 0.0, 0, set(range(workers))
    while True:
        while idle:
            worker = min(idle, key=lambda one: now[one])
            given = policy.next([state for state, _ in book.values()], budget - now[worker], workers)
            if given is None:
                break
            begun = now[worker]
            for id_ in given.tasks:
                state, task = book[id_]
                seconds = min(given.seconds, budget - begun) / len(given.tasks)
                outcome, rung = _work(policy, state, task, given.plan, seconds, rng)
                if rung is not None:
                    done[id_].append(rung)
                found = task.found(tuple(done[id_])) if done[id_] else Found(0.0, 0.0)
                steps = outcome.fit.steps if outcome.fit is not None else 0
                after = replace(
                    state,
                    waves=state.waves + 1,
                    steps=state.steps + steps,
                    status=outcome.status,
                    agreement=found.agreement if rung is not None else state.agreement,
                    views=rung[1] if rung is not None else state.views,
                )
                took = sum(outcome.seconds.values())
                now[worker] += took
                used += took
                passes += 1
                book[id_] = replace(state, busy=True), task
                due.append((now[worker], worker, id_, after, outcome, given.plan))
            idle.discard(worker)
        if not due:
            break
        ended = min(due, key=lambda one: (one[0], one[1]))[1]
        for item in [item for item in due if item[1] == ended]:
            due.remove(item)
            _, worker, id_, after, outcome, plan = item
            policy.costs.observe(after.shape, plan, outcome)
            book[id_] = after, book[id_][1]
        for waiting in idle:
            now[waiting] = max(now[waiting], now[ended])
        idle.add(ended)
    solved = sum(book[id_][1].found(tuple(passed)).solved for id_, passed in done.items() if passed)
    untouched = sum(not passed for passed in done.values())
    return Played(solved, len(tasks), untouched, used / (budget * workers), passes)


def _work(
    policy: Policy, state: TaskState, task: RecordedTask, plan: TaskPlan, seconds: float, rng: np.random.Generator
) -> tuple[TaskOutcome, tuple[int, int] | None]:
    """The outcome of a pass, and its (rung, views) in the record; None if no view was answered."""
    pace = float(np.exp(rng.normal(0, NOISE)))
    fitted = [rung for rung in task.rungs if rung.fitted]
    each = pace * sum(rung.seconds.get("fit", 0.0) for rung in fitted) / max(1, sum(rung.fitted for rung in fitted))
    mean = {phase: pace * float(np.mean([rung.seconds.get(phase, 0.0) for rung in task.rungs])) for phase in _AROUND}
    keep = forecast_item(policy.costs, [task.shape], plan, seconds).keep
    after = keep[0] if keep is not None else 0.35 * seconds
    steps = plan.steps
    if each > 0:
        steps = min(steps, max(0, int((seconds - mean["prepare"] - after) / each)))
    left = max(0.0, seconds - mean["prepare"] - steps * each)
    view = (mean["infer"] + mean["score"]) / task.views
    views = min(plan.views, task.views, int(left / view) if view else plan.views)
    answers = mean["infer"] + mean["score"]
    spent = {"prepare": mean["prepare"], "fit": steps * each}
    asked = min(left, plan.views * view)
    spent |= {phase: asked * mean[phase] / answers if answers else 0.0 for phase in ("infer", "score")}
    cut = steps < plan.steps or views < plan.views
    fit = Fit("", "cut" if steps < plan.steps else "complete", "", None, steps, 0, steps * each, 0.0, 0.0)
    scores = tuple(Score(_GRID, str(view), 0.0, 1) for view in range(views))
    query = QueryOutcome(0, (), scores, views)
    outcome = TaskOutcome(state.id, state.waves, "cut" if cut else "complete", fit, (query,), spent)
    if not views:
        return outcome, None
    total = state.steps + steps
    steps_of = np.array([rung.steps for rung in task.rungs], float)
    place = float(np.interp(total, steps_of, np.arange(len(steps_of))))
    rung = int(place) + int(rng.random() < place - int(place))
    return outcome, (rung, views)


_GRID = np.zeros((1, 1), dtype=np.uint8)
_AROUND = ("prepare", "infer", "score")
