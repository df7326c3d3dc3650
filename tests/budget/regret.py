"""What a wrong profile costs: rehearsed runs that begin with it, beside runs that begin with the truth.

The worth of a run is the number of tasks that its passes are expected to solve, by the gains that the policy plans with. Its
regret is the share that it lacks of the worth of a run with the true profile. Runs that are compared have the same tasks, the
same machine and the same luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from solver.budget.costs import Prior, prior_of
from solver.budget.gains import Gains, shipped_gains
from solver.budget.prior import stored
from solver.budget.rehearsal import Noise
from solver.budget.workload import PHASES
from solver.commands.rehearse import LARGE, RehearseOptions, SharedScene, one_run, scene_of
from solver.config import load_settings
from solver.run.state import RunState
from solver.run.supervisor import Supervisor

CALM = Noise(sigma=0.1, tail_share=0.0, bias=0.0, slow_share=0.0)  # so that nothing but the profile is wrong
FACTORS = (0.1, 10.0)  # by which a profile is wrong
ERRORS: Sequence[tuple[str, ...]] = (("prepare",), ("fit",), ("infer",), ("score",), PHASES)  # phases that are wrong together


@dataclass(frozen=True)
class Case:
    """One kind of run: of the shipped model on a CPU, of one with four billion weights on GPUs."""

    machine: str
    tasks: int
    budget: float  # seconds
    by_path: bool = False  # whether the gains are those of models by path
    measured: bool = True  # whether the profile passes for one that was measured with this machine and model

    def scene(self) -> SharedScene:
        """What its runs share, with the true profile."""
        settings = load_settings(self.machine, None, ["budget.policy=adaptive"])
        profile = stored(self.machine, None if self.machine == "cpu" else LARGE)
        prior = prior_of(
            profile.model_copy(update={"derivation": "" if self.measured else "by hand"}), settings.model.quantization
        )
        options = RehearseOptions(self.machine, settings, self.tasks, self.budget, 1, mix="none")
        return replace(scene_of(options, profile), prior=prior, noise=CALM, gains=shipped_gains(by_path=self.by_path))


def wrong(prior: Prior, phases: Iterable[str], factor: float) -> Prior:
    """A prior that takes phases to cost `factor` times of what it did."""
    rates = {phase: tuple(rate * factor for rate in prior.rates[phase]) for phase in phases}
    return replace(prior, rates={**prior.rates, **rates})


def worth(scene: SharedScene, seeds: int) -> float:
    """Expected solved tasks, the mean of the runs 0, 1, ... `seeds` - 1."""
    states: list[RunState] = []

    class Watched(Supervisor):
        def __init__(self, settings: Any, tasks: Any, run_state: RunState, *rest: Any, **named: Any) -> None:
            super().__init__(settings, tasks, run_state, *rest, **named)
            states.append(run_state)

    for seed in range(seeds):
        one_run(scene, seed, supervisor=Watched)
    assert scene.gains is not None
    return sum(sum(expected(scene.gains, state).values()) for state in states) / seeds


def expected(gains: Gains, state: RunState) -> Mapping[str, float]:
    """The chance that each task is solved, by the steps up to its best pass and the views of that pass."""
    chances = {task.id: 0.0 for task in state.states()}
    steps = dict.fromkeys(chances, 0)
    for outcome in sorted(state.outcomes(), key=lambda one: one.wave):
        id_ = outcome.task_id
        steps[id_] += outcome.fit.steps if outcome.fit is not None else 0
        if views := min((query.views for query in outcome.queries), default=0):
            shape = state.state(id_).shape
            chance = float(gains.chance(shape, np.array(steps[id_], float), np.array(views, float), 1))
            chances[id_] = max(chances[id_], chance)
    return chances


def regrets(scene: SharedScene, seeds: int, truth: float) -> Iterator[tuple[str, float, float]]:
    """(what is wrong, the factor, the regret) for every error, beside a run that is worth `truth`."""
    for phases in ERRORS:
        for factor in FACTORS:
            name = phases[0] if len(phases) == 1 else "all"
            yield name, factor, 1 - worth(replace(scene, prior=wrong(scene.prior, phases, factor)), seeds) / truth
