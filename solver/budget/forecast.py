"""The forecast of a work item before it is handed out: its seconds by phase, what its end needs, how long it is silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from solver.budget.costs import CostModel
from solver.budget.workload import TaskShape
from solver.types import TaskPlan

AFTER_FIT_SHARE = 0.6  # of an item that is too short for its plan: a fit is worth more than the last views
SILENCE = 3.0  # times the upper quantile of an item after which a worker that says nothing, or comes to no end, is lost
LEAST_SILENCE = 15.0  # seconds: what a busy machine may keep a process from running


@dataclass(frozen=True)
class ItemForecast:
    """Of one item. `seconds[i]` are those of its i-th task, by phase; phases that cannot be predicted yet are missing."""

    seconds: tuple[Mapping[str, float], ...] = ()
    keep: tuple[float, float] | None = None  # see `WorkItem.keep`
    silence: float = float("inf")  # seconds
    longest: float = float("inf")  # seconds after which an item without a deadline of its own hangs, whatever it says

    @property
    def total(self) -> float:
        """Seconds of all tasks and phases."""
        return sum(sum(phases.values()) for phases in self.seconds)


def forecast_item(costs: CostModel, shapes: Sequence[TaskShape], plan: TaskPlan, seconds: float, wave: int = 0) -> ItemForecast:
    """What passes by `plan` over tasks of these shapes do with an item's `seconds`, the fits ending early if need be."""
    forecasts = [costs.forecast(shape, plan, wave) for shape in shapes]
    longest = SILENCE * sum(forecast.most for forecast in forecasts)
    if not costs.measured:
        return ItemForecast(tuple(_known(costs, forecast.median) for forecast in forecasts), longest=longest)
    prepare, fit = (sum(forecast.median.get(phase, 0.0) for forecast in forecasts) for phase in ("prepare", "fit"))
    wanted = sum(forecast.after_fit() for forecast in forecasts)
    after = min(wanted, max(AFTER_FIT_SHARE * seconds, seconds - prepare - fit))
    score = sum(forecast.upper.get("score", 0.0) for forecast in forecasts) * (after / wanted if wanted else 0.0)
    shorter = min(1.0, max(0.0, seconds - prepare - after) / fit) if fit else 1.0
    return ItemForecast(
        tuple(_known(costs, {**forecast.median, "fit": forecast.median["fit"] * shorter}) for forecast in forecasts),
        (after, score),
        max(LEAST_SILENCE, longest),
        longest,
    )


def _known(costs: CostModel, seconds: Mapping[str, float]) -> dict[str, float]:
    return {phase: value for phase, value in seconds.items() if costs.known(phase)}
