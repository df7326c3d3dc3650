"""Gains: the chance that a task is solved, by steps, views and samples, and what another pass adds to it.

    chance = ceiling * fitted(steps) * found(answers)
    fitted = base + (1 - base) * (1 - exp(-(steps / scale)^onset))
    found = 1 - (1 - single) * exp(-(answers - 1) / reach)

`found` is concave in the answers. `fitted` is concave only if `onset` is 1 or less; if it is larger, the first steps are worth
little and later ones much, so a fit pays only if it is long enough. `ceiling` is a logistic function of the task: the logarithm
of its tokens, its number of demonstrations, and whether outputs have the size of their inputs. `answers` are views times
samples^0.3: samples of one view are worth less than other views. After a pass with agreement A (see `trusted`)

    right   = logistic(sure + surer * A)                      the chance that it is solved already
    P(then) = right + (1 - right) * hope(A) * (chance(all steps) - chance(steps so far)) / (1 - chance(steps so far))
    hope(A) = logistic(hope + hopeful * A) * fade^(passes - 1)      and 0 where all views agree after a fit

The parameters (`PRIOR`) have normal priors: a few tasks change them a little, hundreds of tasks determine them. `solver
fit-gains` fits them. Runs with the shipped models use `gains.json`, all others `gains_by_path.json`: the views of a model that
was trained on grids can be believed when they agree, even without a fit; those of another model cannot. Each file says from how
many tasks it comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solver.arc.jsonfile import read_json, write_json
from solver.budget.workload import TaskShape
from solver.errors import InputError

Numbers = NDArray[np.float64]

VERSION = 3
SAMPLE_POWER = 0.3
REFERENCE = 4.0  # sequences in each of the steps that `scale` counts
DOUBTED = 0.25  # factor on agreement without a fit, for a model of which nothing is known

# parameter -> (mean, standard deviation) of its normal prior: assumptions about a small model before any task was seen
PRIOR: Mapping[str, tuple[float, float]] = {
    "ceiling": (-0.5, 1.0),  # logit of the ceiling at 1000 tokens, 3 demonstrations, outputs of another size
    "tokens": (-0.7, 0.4),  # to the logit, for every factor e of tokens
    "demonstrations": (0.1, 0.2),  # to the logit, for every demonstration more
    "same_size": (0.3, 0.4),  # to the logit
    "base": (-1.5, 1.0),  # logit of the share that the base model solves without a fit
    "scale": (math.log(40.0), 0.7),  # logarithm of the steps after which 63 % of what a fit can do is done
    "onset": (0.5, 0.5),  # logarithm of the exponent
    "single": (0.0, 0.7),  # logit of the share that one view finds
    "reach": (math.log(3.0), 0.5),  # logarithm of the answers after which 63 % of the rest is found
    "sure": (-3.0, 1.0),  # logit of being right at agreement 0
    "surer": (5.0, 1.5),  # to the logit at agreement 1
    "hope": (0.5, 1.0),  # logit of hope where no two views agree
    "hopeful": (0.0, 1.5),  # to the logit at agreement 1
    "fade": (1.0, 0.7),  # logit of what every later pass that was in vain leaves of the hope
    "certain": (0.0, 1.0),  # logit of the share of solved tasks whose views all agree
}


LATER = ("hope", "hopeful", "fade")  # parameters that only passes after the first depend on


@dataclass(frozen=True)
class Last:
    """The state of a task after its latest pass."""

    agreement: float  # of its least agreed query, as far as it can be trusted
    steps: float  # of all passes
    waves: int = 1  # passes


@dataclass(frozen=True)
class Passed:
    """A pass over a task with known answers, to fit parameters to."""

    shape: TaskShape
    steps: float  # optimizer steps of `REFERENCE` sequences, all passes so far
    views: float
    samples: float
    agreement: float  # of its least agreed query, as far as it can be trusted
    solved: float  # share of its test inputs
    waves: int = 1  # passes so far
    before: Passed | None = None  # the pass before, if this one went on from it
    weight: float = 1.0  # of this row: several rows of one task are not independent

    @property
    def last(self) -> Last:
        """What a policy knows after this pass."""
        return Last(self.agreement, self.steps, self.waves)


class Gains:
    """Chances by the formulas of this module."""

    def __init__(
        self, parameters: Mapping[str, float], batch: int = int(REFERENCE), fitted_on: str = "", unfitted: float = DOUBTED
    ) -> None:
        """`batch`: sequences an optimizer step; `fitted_on`: where the parameters come from, for people.

        `unfitted` (0 to 1) is what the agreement of views is worth before any fit, see `trusted`.
        """
        self.parameters = {name: float(parameters[name]) for name in PRIOR}
        self.fitted_on = fitted_on
        self.unfitted = unfitted
        self._step = batch / REFERENCE

    def with_batch(self, batch: int) -> Gains:
        """These gains for optimizer steps of `batch` sequences."""
        return Gains(self.parameters, batch, self.fitted_on, self.unfitted)

    def chance(self, shape: TaskShape, steps: Numbers, views: Numbers, samples: float) -> Numbers:
        """The chance that one pass solves a task. `steps`, `views` and the result are arrays of one shape."""
        answers = np.asarray(views, float) * samples**SAMPLE_POWER
        return _chance(self.parameters, np.array(task_features(shape)), np.asarray(steps, float) * self._step, answers)

    def right(self, agreement: float) -> float:
        """The chance that a task is solved already, by the agreement of its candidates."""
        return float(_logistic(np.array(self.parameters["sure"] + self.parameters["surer"] * agreement)))

    def again(self, shape: TaskShape, last: Last, steps: Numbers, views: Numbers, samples: float) -> Numbers:
        """What another pass adds to the chance that a task is solved."""
        before = self.chance(shape, np.full_like(np.asarray(steps, float), last.steps), views, samples)
        after = self.chance(shape, last.steps + np.asarray(steps, float), views, samples)
        gained = (after - before) / np.maximum(1 - before, 1e-9)
        return np.asarray((1 - self.right(last.agreement)) * self.hope(last) * gained)

    def certain(self, chance: Numbers) -> Numbers:
        """The chance that all candidates agree after a pass that solves the task with `chance`."""
        share = _logistic(np.array(self.parameters["certain"]))
        return np.asarray(chance * share)

    def hope(self, last: Last) -> float:
        """The factor `hope` of the formulas, for a task in this state."""
        return float(_hope(self.parameters, *map(np.array, (last.agreement, last.steps, float(last.waves)))))

    def to_json(self) -> dict[str, Any]:
        """As `gains.json` holds it."""
        return {"version": VERSION, "fitted_on": self.fitted_on, "unfitted": self.unfitted, "parameters": self.parameters}


def trusted(agreement: float, views: float, steps: float, full_views: int, full_steps: int, unfitted: float) -> float:
    """Agreement, discounted: few views agree easily, and views of a model that knows little may agree on a wrong answer.

    It counts in full from half of the views and half of the steps of the settings on. Without any step it counts by the factor
    `unfitted`.
    """
    fitted = min(1.0, unfitted + 2 * (1 - unfitted) * steps / full_steps) if full_steps else 1.0
    return agreement * min(1.0, 2 * views / full_views) * fitted


def task_features(shape: TaskShape) -> tuple[float, float, float]:
    """What the ceiling depends on: centred log tokens, demonstrations, same size."""
    return math.log(max(shape.tokens, 1.0) / 1000), len(shape.demonstrations) - 3.0, float(shape.same_size)


def shipped_gains(by_path: bool = False) -> Gains:
    """The gains that come with the package: for its own models, or for one that was given by path."""
    return load_gains(Path(str(resources.files("solver").joinpath("budget", "gains_by_path.json" if by_path else "gains.json"))))


def load_gains(path: Path) -> Gains:
    """Read a file of `solver fit-gains`. Raises InputError naming it if it cannot be read or is no such file."""
    value = read_json(path, "gains")
    if not isinstance(value, dict) or value.get("version") != VERSION or not isinstance(value.get("parameters"), dict):
        raise InputError(f"{path}: not a file of solver fit-gains of version {VERSION}")
    parameters = value["parameters"]
    for name in PRIOR:
        number = parameters.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InputError(f"{path}: parameter {name} is {number!r}, not a number")
    unfitted = value.get("unfitted")
    if isinstance(unfitted, bool) or not isinstance(unfitted, int | float) or not 0 <= unfitted <= 1:
        raise InputError(f"{path}: unfitted is {unfitted!r}, not a number from 0 to 1")
    return Gains(parameters, fitted_on=str(value.get("fitted_on", "")), unfitted=float(unfitted))


def save_gains(path: Path, gains: Gains) -> None:
    """Replace `path` as a whole. Raises InputError if it cannot be written."""
    try:
        write_json(path, gains.to_json())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def fit(passes: Iterable[Passed], fitted_on: str, unfitted: float = DOUBTED) -> Gains:
    """The most probable parameters, given passes over tasks with known answers and the prior; `unfitted` goes into them as it is.

    First the parameters of first passes and of being right at an agreement are fitted; then, with these fixed, those of later
    passes. Fitted together, tasks that pool the votes of several passes would distort the curve of single ones. A task that is
    solved in part counts in part.
    """
    rows = list(passes)
    table = _Table.of(rows)
    parameters = {name: mean for name, (mean, _) in PRIOR.items()}
    if rows:
        parameters |= _most_probable([name for name in PRIOR if name not in LATER], parameters, table.of_first)
        parameters |= _most_probable(LATER, parameters, table.of_later)
    return Gains(parameters, fitted_on=fitted_on, unfitted=unfitted)


def _most_probable(
    names: Sequence[str], others: Mapping[str, float], mismatch: Callable[[Mapping[str, float]], float]
) -> dict[str, float]:
    means, sds = np.array([PRIOR[name] for name in names]).T

    def loss(values: Numbers) -> float:
        parameters = {**others, **dict(zip(names, values.tolist(), strict=True))}
        return float((((values - means) / sds) ** 2).sum() / 2) + mismatch(parameters)

    return dict(zip(names, _minimise(loss, means.copy()).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Table:
    """Passes as columns; those of the pass before are 0 where there is none."""

    features: Numbers  # (passes, 3)
    steps: Numbers  # (passes,), as all that follow
    answers: Numbers
    agreement: Numbers
    solved: Numbers
    weight: Numbers
    first: Numbers  # 1: no pass before
    steps_before: Numbers
    agreement_before: Numbers
    solved_before: Numbers
    waves_before: Numbers

    @staticmethod
    def of(rows: Sequence[Passed]) -> _Table:
        """The columns of some passes."""
        columns = [
            (
                row.steps,
                row.views * row.samples**SAMPLE_POWER,
                row.agreement,
                row.solved,
                row.weight,
                float(row.before is None),
                *((0.0, 0.0, 0.0, 1.0) if row.before is None else _before(row.before)),
            )
            for row in rows
        ]
        features = np.array([task_features(row.shape) for row in rows]).reshape(-1, 3)
        return _Table(features, *np.array(columns).reshape(-1, 10).T)

    def of_first(self, p: Mapping[str, float]) -> float:
        """Negative log-likelihood of first passes, and of being right after any pass."""
        right = _surprise(self.solved, _logistic(p["sure"] + p["surer"] * self.agreement))
        chance = _surprise(self.solved, _chance(p, self.features, self.steps, self.answers))
        certain = self.solved * _surprise((self.agreement >= 1).astype(float), _logistic(np.array(p["certain"])))
        return float((self.weight * (right + self.first * (chance + certain))).sum())

    def of_later(self, p: Mapping[str, float]) -> float:
        """Negative log-likelihood of what passes after the first have added."""
        before = _chance(p, self.features, self.steps_before, self.answers)
        after = _chance(p, self.features, self.steps, self.answers)
        hope = _hope(p, self.agreement_before, self.steps_before, self.waves_before)
        gained = hope * (after - before) / np.maximum(1 - before, 1e-9)
        open_ = (1 - self.solved_before) * ~settled(self.agreement_before, self.steps_before)
        later = open_ * _surprise(np.maximum(self.solved - self.solved_before, 0.0), gained)
        return float((self.weight * (1 - self.first) * later).sum())


def _before(row: Passed) -> tuple[float, float, float, float]:
    return row.steps, row.agreement, row.solved, float(row.waves)


def _surprise(happened: Numbers, chance: Numbers) -> Numbers:
    chance = np.clip(chance, 1e-6, 1 - 1e-6)
    return np.asarray(-(happened * np.log(chance) + (1 - happened) * np.log(1 - chance)))


def _minimise(loss: Callable[[Numbers], float], start: Numbers, rounds: int = 40) -> Numbers:
    """Gradient descent with the approximate inverse curvature of Broyden, Fletcher, Goldfarb and Shanno (1970)."""
    at, value = start, loss(start)
    slope = _slope(loss, at)
    inverse = np.eye(len(at)) / max(1.0, float(np.abs(slope).max()))
    for _ in range(rounds):
        direction = -inverse @ slope
        length = 1.0
        while (new := loss(at + length * direction)) > value + 1e-4 * length * float(slope @ direction) and length > 1e-6:
            length /= 2
        step = length * direction
        if length <= 1e-6 or value - new < 1e-7 * max(1.0, abs(value)):
            break
        following = _slope(loss, at + step)
        change = following - slope
        if (curve := float(step @ change)) > 1e-12:
            left = np.eye(len(at)) - np.outer(step, change) / curve
            inverse = left @ inverse @ left.T + np.outer(step, step) / curve
        at, value, slope = at + step, new, following
    return at


def _slope(loss: Callable[[Numbers], float], at: Numbers, reach: float = 1e-4) -> Numbers:
    slope = np.zeros_like(at)
    for place in range(len(at)):
        shift = np.zeros_like(at)
        shift[place] = reach
        slope[place] = (loss(at + shift) - loss(at - shift)) / (2 * reach)
    return slope


def _chance(p: Mapping[str, float], features: Numbers, steps: Numbers, answers: Numbers) -> Numbers:
    """By parameters, (..., 3) features, steps of `REFERENCE` sequences, and answers."""
    ceiling = _logistic(p["ceiling"] + features @ np.array([p["tokens"], p["demonstrations"], p["same_size"]]))
    base, single = _logistic(np.array(p["base"])), _logistic(np.array(p["single"]))
    fitted = base + (1 - base) * -np.expm1(-((steps / math.exp(p["scale"])) ** math.exp(p["onset"])))
    found = 1 - (1 - single) * np.exp(-np.maximum(answers - 1, 0.0) / math.exp(p["reach"]))
    return np.asarray(ceiling * fitted * found)


def settled(agreement: Numbers, steps: Numbers) -> NDArray[np.bool_]:
    """Where all views agree after a fit: they may still be wrong, but no further fit is expected to change that."""
    return np.asarray((agreement >= 1) & (steps > 0))


def _hope(p: Mapping[str, float], agreement: Numbers, steps: Numbers, waves: Numbers) -> Numbers:
    fade = _logistic(np.array(p["fade"]))
    hope = _logistic(p["hope"] + p["hopeful"] * agreement) * fade ** (waves - 1)
    return np.asarray(np.where(settled(agreement, steps), 0.0, hope))


def _logistic(x: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60.0, 60.0))))
