"""From a sample of tasks to the whole set: the policy of a run plans all tasks, with the costs that were measured on the sample.

Nothing is executed: every pass takes exactly its predicted seconds. Noise and faults are left to `solver rehearse`. The agreement
of a task, which decides whether it gets further passes, is that of the task of the sample nearest in size.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from solver.budget.costs import CostModel, Forecast, Prior, prior_of
from solver.budget.planner import Assignment, Policy, TaskState, full_plan
from solver.budget.profile import Profile
from solver.budget.regression import SURE
from solver.budget.workload import PHASES, TaskShape
from solver.config import Settings
from solver.types import TaskPlan

ON_DEVICE = ("fit", "infer", "score")  # phases whose seconds depend on the device a worker computes on
TELL_EVERY = 200  # passes


@dataclass(frozen=True)
class Pass:
    """One pass over a task as it is expected to go."""

    plan: TaskPlan
    steps: int  # for which there is time
    views: int
    seconds: Mapping[str, float]  # by phase

    @property
    def cut(self) -> bool:
        """Whether its time is too short for its plan."""
        return (self.steps, self.views) != (self.plan.steps, self.plan.views)


@dataclass(frozen=True)
class Extrapolation:
    """What a run is expected to do."""

    seconds: float  # until nothing is left to do or the time is up
    work_left: bool  # whether some task was still worth a pass at that moment
    busy: float  # share of the workers' time in passes
    passes: Mapping[str, Sequence[Pass]] = field(repr=False)  # by task, those without any included

    @property
    def steps(self) -> float:
        """Optimizer steps a task."""
        return sum(one.steps for some in self.passes.values() for one in some) / len(self.passes)

    @property
    def views(self) -> float:
        """Views a task, of all its passes."""
        return sum(one.views for some in self.passes.values() for one in some) / len(self.passes)

    @property
    def passes_a_task(self) -> float:
        """Passes a task."""
        return sum(map(len, self.passes.values())) / len(self.passes)

    @property
    def phases(self) -> dict[str, float]:
        """Worker seconds by phase."""
        total: Counter[str] = Counter()
        for some in self.passes.values():
            for one in some:
                total.update(one.seconds)
        return dict(total)

    @property
    def untouched(self) -> list[str]:
        """Tasks without a pass: they keep the fallback answer."""
        return [id_ for id_, some in self.passes.items() if not some]

    def below(self, plan: TaskPlan) -> list[str]:
        """Tasks whose passes have together fewer steps, or never as many views, as `plan`."""
        return [
            id_
            for id_, some in self.passes.items()
            if some and (sum(one.steps for one in some) < plan.steps or max(one.views for one in some) < plan.views)
        ]


def play(
    states: Sequence[TaskState],
    policy: Policy,
    seconds: float,
    workers: int,
    agreement: Callable[[TaskState], float],
    tell: Callable[[int, float], None],
) -> Extrapolation:
    """Let the policy spend `seconds` on so many workers. `tell` gets the passes so far and the second they have reached."""
    book = {state.id: state for state in states}
    done: dict[str, list[Pass]] = {state.id: [] for state in states}
    under_way: list[tuple[float, int, Assignment, dict[str, Pass]]] = []
    now = spent = 0.0
    count, idle = 0, workers
    while True:
        while idle and seconds - now > 0 and (given := policy.next(list(book.values()), seconds - now, workers)) is not None:
            expected = _expected(given, book, policy.costs, seconds - now)
            takes = sum(sum(one.seconds.values()) for one in expected.values())
            for id_ in given.tasks:
                book[id_] = replace(book[id_], busy=True)
            count, idle = count + 1, idle - 1
            heapq.heappush(under_way, (now + max(takes, 1e-6), count, given, expected))
            if count % TELL_EVERY == 0:
                tell(count, now)
        if not under_way:
            break
        now, _, given, expected = heapq.heappop(under_way)
        idle += 1
        for id_, one in expected.items():
            spent += sum(one.seconds.values())
            done[id_].append(one)
            book[id_] = _after(book[id_], given, one, agreement)
    return Extrapolation(now, any(map(policy.pending, book.values())), spent / (workers * now) if now else 0.0, done)


def _expected(given: Assignment, book: Mapping[str, TaskState], costs: CostModel, left: float) -> dict[str, Pass]:
    """The passes of an item as they are expected to go, each within its share of the item's time."""
    forecasts = {id_: costs.forecast(book[id_].shape, given.plan, given.wave) for id_ in given.tasks}
    total = sum(forecast.seconds for forecast in forecasts.values())
    room = min(given.seconds, left)
    return {id_: _within(given.plan, forecast, room * forecast.seconds / total) for id_, forecast in forecasts.items()}


def _within(plan: TaskPlan, forecast: Forecast, room: float) -> Pass:
    """A pass within `room` seconds, as a worker does it: the fit leaves time for answers; views are dropped if that is short."""
    phases = dict(forecast.median)
    if sum(phases.values()) <= room:
        return Pass(plan, plan.steps, plan.views, phases)
    fit = phases.get("fit", 0.0)
    others = sum(phases.values()) - fit
    left_for_fit = max(room - others, 0.0)
    steps = math.floor(plan.steps * left_for_fit / fit) if fit else plan.steps
    share = min(1.0, room / others) if others else 1.0
    views = math.floor(plan.views * share)
    seconds = {phase: left_for_fit if phase == "fit" else value * share for phase, value in phases.items()}
    return Pass(plan, steps, views, seconds)


def _after(state: TaskState, given: Assignment, one: Pass, agreement: Callable[[TaskState], float]) -> TaskState:
    return replace(
        state,
        busy=False,
        waves=given.wave + 1,
        steps=state.steps + one.steps,
        status="cut" if one.cut else "complete",
        agreement=agreement(state) if one.views else state.agreement,
        views=one.views or state.views,
    )


def nearest_agreement(sample: Sequence[TaskState]) -> Callable[[TaskState], float]:
    """A function that gives a task the agreement of the task of the sample nearest in size, or 0 if the sample has no pass."""
    known = [state for state in sample if state.waves]

    def agreement(state: TaskState) -> float:
        distance = {one.id: abs(math.log(max(one.size, 1) / max(state.size, 1))) for one in known}
        return min(known, key=lambda one: (distance[one.id], one.id)).agreement if known else 0.0

    return agreement


def rescaled(
    costs: CostModel, settings: Settings, here: Profile, there: Profile, shapes: Sequence[TaskShape]
) -> tuple[CostModel, dict[str, float]]:
    """Costs learnt on one machine, turned into costs on another by the ratio of the two profiles; and that ratio by phase."""
    plan, quantization = full_plan(settings), settings.model.quantization
    totals: list[dict[str, float]] = []
    for profile in (here, there):
        model = CostModel(settings, prior_of(profile, quantization))
        total: dict[str, float] = defaultdict(float)
        for shape in shapes:
            for phase, seconds in model.forecast(shape, plan).median.items():
                total[phase] += seconds
        totals.append(total)
    ratios = {phase: totals[1][phase] / totals[0][phase] for phase in ON_DEVICE if totals[0].get(phase)}
    rates = {phase: tuple(rate * ratios.get(phase, 1.0) for rate in learnt) for phase, learnt in costs.rates().items()}
    prior = Prior(
        rates=rates,
        spreads=dict.fromkeys(PHASES, SURE),
        start=there.variant(quantization).start_parts,
        known=frozenset(PHASES),
    )
    return CostModel(settings, prior), ratios
