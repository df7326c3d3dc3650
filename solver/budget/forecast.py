"""The forecast of a work item before it is handed out: seconds by phase, the time its fit must leave, when it is overdue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from solver.budget.costs import CostModel
from solver.budget.workload import TaskShape
from solver.types import TaskPlan

AFTER_FIT_SHARE = 0.6  # of an item too short for its plan that the answers may take: beyond it, steps are worth more than views
SILENCE = 3.0  # a worker counts as lost if it is silent, or works on one item, for so many times the item's upper quantile
MIN_SILENCE = 15.0  # seconds: a busy machine may keep a process from running for so long


@dataclass(frozen=True)
class ItemForecast:
    """Of one item. `seconds[i]` maps phases of its i-th task to seconds; phases that cannot be predicted yet are missing."""

    seconds: tuple[Mapping[str, float], ...] = ()
    keep: tuple[float, float] | None = None  # see `WorkItem.keep`
    silence: float = float("inf")  # seconds without a heartbeat after which its worker counts as lost
    longest: float = float("inf")  # seconds until an item without its own deadline counts as hung, whatever it says

    @property
    def total(self) -> float:
        """Seconds of all tasks and phases."""
        return sum(sum(phases.values()) for phases in self.seconds)


def forecast_item(costs: CostModel, shapes: Sequence[TaskShape], plan: TaskPlan, seconds: float, wave: int = 0) -> ItemForecast:
    """The forecast of passes by `plan` over tasks of these shapes within `seconds`; if that is short, the fits end early."""
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
        max(MIN_SILENCE, longest),
        longest,
    )


def _known(costs: CostModel, seconds: Mapping[str, float]) -> dict[str, float]:
    return {phase: value for phase, value in seconds.items() if costs.known(phase)}
