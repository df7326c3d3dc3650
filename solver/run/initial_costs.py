"""The cost model that a run starts with: from the profile of the machine, and from passes that its ledger already holds."""

from __future__ import annotations

from collections.abc import Callable

from solver.budget.costs import CostModel, prior_of
from solver.budget.prior import model_of, prior
from solver.budget.workload import shape_of
from solver.errors import InputError
from solver.host import hardware
from solver.run.ledger import SHORTENED, Ledger
from solver.run.types import RunOptions

REMEMBERED = 24  # passes of an earlier process of the same run, the latest


def initial_costs(options: RunOptions, warn: Callable[[str], None]) -> CostModel:
    """The cost model of a new run. `warn` gets a line if its profile cannot be used, or is of another machine or model."""
    settings = options.settings
    try:
        profile, warnings = prior(settings.budget.profile, options.machine, model_of(options.model))
    except InputError as error:  # the model's shape is unknown: only measuring tells
        warn(f"{error}; no profile is used, and costs are learnt from the first tasks")
        return CostModel(settings)
    doubts = list(warnings)
    if profile.machine.kind == "cpu":
        here, made = hardware({}), profile.machine
        threads = settings.model.threads or here["cores"]
        if made.device != here["cpu"]:
            doubts.append(f"the profile was made on {made.device}, this machine has {here['cpu']}")
        elif made.threads and made.threads != threads:
            doubts.append(f"the profile was made with {made.threads} threads, a worker here has {threads}")
    asked_for = settings.budget.profile is not None
    for doubt in doubts if asked_for else ():
        warn(f"{doubt}; it is used as a rough guess until the first tasks are measured")
    return CostModel(settings, prior_of(profile, settings.model.quantization, doubts))


def remember(costs: CostModel, ledger: Ledger) -> None:
    """Teach a cost model what earlier processes of this run measured. If that was elsewhere, new passes correct it soon."""
    plans = ledger.plans()
    shapes = {task.id: shape_of(task) for task in ledger.tasks()}
    outcomes = {(outcome.task_id, outcome.wave): outcome for outcome in ledger.outcomes()}
    # a pass over a shortened task says little about the whole task
    shortened = {(event.task, event.wave) for event in ledger.events() if event.kind == SHORTENED}
    for key in [key for key in ledger.order() if key in plans and key not in shortened][-REMEMBERED:]:
        costs.observe(shapes[key[0]], plans[key].plan, outcomes[key])
    costs.forget_drift()
