"""The cost model: predicts the seconds of every phase of a pass over a task, from a prior that every finished pass corrects.

Plans are made with the median; deadlines come from the upper quantile. It reads no clock: callers pass the durations.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solver.budget.drift import PHASE_SHARE, Drift
from solver.budget.profile import Profile, Variant
from solver.budget.regression import STRONG, WEAK, WRONG_BY_TEN, Regression, Spread
from solver.budget.workload import PHASES, Amount, Circumstances, Sizes, TaskShape, amounts, in_column, sizes_of
from solver.config import Settings
from solver.types import TaskOutcome, TaskPlan

Numbers = NDArray[np.float64]

RECENT = 32  # passes: predictions assume answers like those of the last ones
LEARNING = 5  # passes at the beginning whose predictions are not judged
ONCE = (1.0,)
MIN_JUDGED = 0.01  # of all seconds: predictions of a phase that takes less are not judged
CHANGE = 0.03  # relative change of a prediction from which on plans are made anew

# Seconds per unit of `workload.FEATURES`: the order of magnitude for a model of three million weights on two CPU cores. The rates
# of a fit come from docs/measurements.md, Fits (2,270 tokens/s at 207 tokens, 1,956 at 1,274); a prompt token is assumed to take
# a third of a trained one; a pair of a sequence took 0.1 ms; the others are guesses.
_GUESS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "prepare": (6e-4, 1e-4, 3e-5, 1e-7, 6e-5),
        "fit": (5e-2, 2e-2, 4.3e-4, 6.6e-8),
        "infer": (5e-2, 1.4e-4, 2.2e-8, 6e-3, 5e-4),
        "score": (1e-2, 3e-5, 3e-4),
        "select": (1e-3,),
    }
)
# seconds of the start of a worker, by part
_GUESSED_START: Mapping[str, float] = MappingProxyType({"imports": 8.0, "model": 1.0, "trainer": 0.1, "engine": 1.0})
START = tuple(_GUESSED_START)
_MIN_PART = 1e-3  # seconds of a part, at least: a part that took no time for a profile may take some elsewhere
_LIKELY = Spread(
    common=WRONG_BY_TEN, own=0.5
)  # for inference in a profile of this machine: it measured one width, and scored one answer
_WIDTH = 0.3  # of the seconds of a decoding pass, the part that grows with its rows
_CACHED = 0.1  # of the cost of reading a prompt, for a prompt that was read before


@dataclass(frozen=True)
class Prior:
    """The rates before anything is measured, and how uncertain they are."""

    rates: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: _GUESS)
    spreads: Mapping[str, Spread] = field(default_factory=lambda: dict.fromkeys(PHASES, WEAK))
    start: Mapping[str, float] = field(default_factory=lambda: _GUESSED_START)  # of a worker, by part
    known: frozenset[str] = frozenset()  # phases that can be predicted before one was measured
    device: str = ""  # as a worker names it; empty: no particular device


def prior_of(profile: Profile, quantization: str, doubts: Iterable[str] = ()) -> Prior:
    """The prior from a profile. It is weak if there are `doubts` that the profile is about this machine and model.

    Rates that the profile cannot tell stay as guessed.
    """
    variant = profile.variant(quantization)
    doubts = [*doubts, *(["its numbers are an estimate"] if profile.estimate else [])]
    rates = dict(_GUESS)
    rates.update(_fit_rates(variant))
    rates.update(_answer_rates(variant))
    measured = [phase for phase in PHASES if rates[phase] is not _GUESS[phase]]
    spreads = dict.fromkeys(PHASES, WEAK)
    if not doubts:
        spreads.update({phase: STRONG if phase == "fit" else _LIKELY for phase in measured})
    return Prior(
        rates,
        spreads,
        variant.start_parts,
        frozenset() if doubts else frozenset(measured),
        profile.machine.device if profile.machine.kind == "cuda" else "cpu",
    )


def _fit_rates(variant: Variant) -> dict[str, tuple[float, ...]]:
    points = variant.points("step_seconds")
    if not points:
        return {}
    lengths, seconds = np.array(points).T
    trained = lengths * variant.batch
    step, token, square = non_negative(np.stack([np.ones_like(lengths), trained, trained * lengths], axis=1), seconds)
    return {"fit": (max(variant.fit_seconds, 1e-4), step, token, square)}


def _answer_rates(variant: Variant) -> dict[str, tuple[float, ...]]:
    """Inference and scoring."""
    reads, rates = variant.points("prefill_seconds"), variant.points("decode_rate")
    if not reads or not rates:
        return {}
    lengths, seconds = np.array(reads).T
    token, square = non_negative(np.stack([lengths, lengths**2], axis=1), seconds)
    written = 1 / float(np.median([rate for _, rate in rates]))  # seconds a token, with so many views side by side
    rates_by_phase: dict[str, tuple[float, ...]] = {
        "infer": (_GUESS["infer"][0], token, square, (1 - _WIDTH) * written * variant.views, _WIDTH * written)
    }
    scored = [row.score_seconds / row.score_tokens for row in variant.rows if row.score_seconds and row.score_tokens]
    if scored:
        rates_by_phase["score"] = (_GUESS["score"][0], token * _CACHED, float(np.median(scored)))
    return rates_by_phase


def non_negative(amounts: Numbers, seconds: Numbers) -> list[float]:
    """Rates >= 0 that give `seconds` (n,) from `amounts` (n, features) with the least relative squares.

    Features whose rate comes out negative are dropped, the most negative first: enough for a handful that rise together.
    """
    scale = 1 / np.maximum(seconds, 1e-9)
    kept = list(range(amounts.shape[1]))
    while kept:
        solution = np.linalg.lstsq(amounts[:, kept] * scale[:, None], seconds * scale, rcond=None)[0]
        if solution.min() >= 0:
            break
        kept.pop(int(solution.argmin()))
    rates = dict(zip(kept, solution.tolist(), strict=True)) if kept else {}
    return [rates.get(place, 0.0) for place in range(amounts.shape[1])]


@dataclass(frozen=True)
class Forecast:
    """Seconds by phase of a pass over a task."""

    median: Mapping[str, float]  # exceeded as often as not
    upper: Mapping[str, float]  # exceeded one time in twenty

    @property
    def seconds(self) -> float:
        """Of the whole pass, by the medians."""
        return sum(self.median.values())

    @property
    def most(self) -> float:
        """Of the whole pass, by the upper quantiles: all phases slow at once, as on a machine that has become slower."""
        return sum(self.upper.values())

    def after_fit(self) -> float:
        """Upper quantile of what a worker does after the fit: inference and scoring."""
        return self.upper.get("infer", 0.0) + self.upper.get("score", 0.0)


class CostModel:
    """Predicts passes and learns from them. It is deterministic, and fast enough for use before every decision."""

    def __init__(self, settings: Settings, prior: Prior | None = None) -> None:
        self._settings = settings
        self.prior = prior or Prior()
        self._phases = _regressions(self.prior)
        self.forget_drift()
        doubt = _LIKELY if self.prior.known else WEAK
        self._start = {part: Regression([max(self.prior.start[part], _MIN_PART)], doubt) for part in START}
        self._lengths: deque[float] = deque(maxlen=RECENT)
        self._candidates: deque[float] = deque(maxlen=RECENT)
        self._answers: tuple[float, float | None] = (1.0, None)  # expected relative length, and candidates scored for a query
        self._sizes: dict[TaskShape, Sizes] = {}
        self.tasks = 0  # observed
        self.version = 0  # changes whenever predictions have changed by more than `CHANGE`
        self._noted = {phase: regression.rates for phase, regression in self._phases.items()}

    def start(self) -> tuple[float, float]:
        """Median and upper quantile of the seconds from the creation of a worker until it can take work."""
        return sum(self.start_parts().values()), sum(part.upper(ONCE) for part in self._start.values())

    def start_parts(self) -> dict[str, float]:
        """The median by part, those of `START`: the imports, loading the base model, making the trainer, starting the engine."""
        return {name: part.median(ONCE) for name, part in self._start.items()}

    def started(self, parts: Mapping[str, float]) -> None:
        """Learn from the start of a worker, by part."""
        for name, part in self._start.items():
            part.add(ONCE, parts[name])

    def meet(self, device: str) -> str | None:
        """Take in the device of a worker before any pass. A prior of another device becomes weak, and a line says so."""
        if not self.prior.known or self.tasks or not device or device == self.prior.device:
            return None
        line = f"the profile was made on {self.prior.device}, the worker runs on {device}"
        line += "; the profile is used as a rough guess until the first tasks are measured"
        self.prior = replace(self.prior, spreads=dict.fromkeys(PHASES, WEAK), known=frozenset())
        self._phases = _regressions(self.prior)
        self._forecasts.clear()
        return line

    def forget_drift(self) -> None:
        """Predict for the machine as it usually is, not as it was at the last measurement."""
        self._drift = Drift()  # of whole passes
        self._leanings = {phase: Drift(PHASE_SHARE) for phase in PHASES}  # of each phase, besides that of whole passes
        self._forecasts: dict[tuple[TaskShape, TaskPlan, int], Forecast] = {}  # cached until the next measurement

    def known(self, phase: str) -> bool:
        """Whether a prediction of this phase rests on a measurement, here or in a profile of this machine."""
        return self._phases[phase].count > 0 or phase in self.prior.known

    @property
    def measured(self) -> bool:
        """Whether every phase that a pass by these settings goes through in a worker can be predicted."""
        train, infer = self._settings.train, self._settings.infer
        needed = {
            "prepare": True,
            "fit": not train.shared and (train.epochs is not None or bool(train.steps)),
            "infer": True,
            "score": infer.score and self.tasks < LEARNING,  # a task may have nothing to score, so do not wait for ever
        }
        return all(self.known(phase) for phase, wanted in needed.items() if wanted)

    @property
    def guesses(self) -> bool:
        """Whether nothing was measured yet, and what the predictions come from may be wrong by a factor of ten."""
        return not self.tasks and any(spread.common >= WRONG_BY_TEN for spread in self.prior.spreads.values())

    def forecast(self, shape: TaskShape, plan: TaskPlan, wave: int = 0) -> Forecast:
        """What a pass by `plan` over a task of `shape` takes, if it is the next one."""
        key = shape, plan, wave
        if (known := self._forecasts.get(key)) is None:
            work = self._amounts(shape, plan.steps, plan.views, plan.samples, self._usual(wave))
            median = {phase: self._now(phase) * self._phases[phase].median(part) for phase, part in work.items()}
            # a deadline does not rely on the machine staying as fast as it is now
            upper = {phase: max(1.0, self._now(phase)) * self._phases[phase].upper(part) for phase, part in work.items()}
            known = self._forecasts[key] = Forecast(median, upper)
        return known

    def seconds(self, shape: TaskShape, plan: TaskPlan, wave: int = 0) -> float:
        """Of a whole pass, by the medians: `forecast(...).seconds` for those who need no more."""
        work = self._amounts(shape, plan.steps, plan.views, plan.samples, self._usual(wave))
        return sum(self._now(phase) * self._phases[phase].median(part) for phase, part in work.items())

    def _now(self, phase: str) -> float:
        """The factor by which a phase takes longer now than its rates say."""
        return self._drift.factor * self._leanings[phase].factor

    def medians(
        self, shapes: Sequence[TaskShape], steps: Numbers, views: Numbers, samples: Amount, waves: Sequence[int] | int = 0
    ) -> Numbers:
        """Seconds (tasks, plans) of whole passes by the medians, for arrays (plans,) of steps and views.

        They are for plans of the whole run, so they assume the machine as it usually is, without drift.
        """
        sizes = in_column([self._sizes_of(shape) for shape in shapes])
        wave = waves if isinstance(waves, int) else np.array(waves, float)[:, None]
        work = amounts(sizes, self._settings, steps, views, samples, self._usual(wave))
        seconds = sum(self._phases[phase].medians(part) for phase, part in work.items())
        return np.asarray(np.broadcast_to(seconds, (len(shapes), len(steps))))

    def observe(self, shape: TaskShape, plan: TaskPlan, outcome: TaskOutcome) -> None:
        """Learn from a pass by `plan`, by the work it has done: steps and views before the deadline, and answer tokens."""
        queries = max(1, len(outcome.queries))
        answered = sum(query.views for query in outcome.queries) / queries
        scored = sum(len({score.view for score in query.scores}) for query in outcome.queries) / queries
        steps = outcome.fit.steps if outcome.fit is not None else 0
        seen = self._seen(shape, plan, outcome, answered)
        done = {
            "prepare": (plan.steps, plan.views),
            "fit": (steps, 0),
            "infer": (0, answered),
            "score": (0, scored),
            "select": (0, 0),
        }
        learnt: dict[str, Sequence[float]] = {}
        unmeasured = {phase for phase in done if not self._phases[phase].count}
        for phase, seconds in outcome.seconds.items():
            if phase not in done:
                continue
            work = self._amounts(shape, *done[phase], plan.samples, seen).get(phase)
            if phase in ("infer", "score") and not done[phase][1]:
                # the phase was cut before any result: this only tells that the whole takes longer
                work = self._amounts(shape, 0, plan.views, plan.samples, seen).get(phase)
                if work is not None and seconds <= self._phases[phase].median(work):
                    continue
            if work is not None:
                self._leanings[phase].add(self._drift.factor * self._phases[phase].median(work), seconds)
                self._phases[phase].add(work, seconds)
                learnt[phase] = work
        # by the rates that have learnt from this pass: what they explain is no drift
        self._drift.add(
            sum(self._phases[phase].median(work) for phase, work in learnt.items()), sum(map(outcome.seconds.__getitem__, learnt))
        )
        self.tasks += 1
        self._forecasts.clear()
        first = any(self._phases[phase].count for phase in unmeasured)
        self._note_change(self._amounts(shape, plan.steps, plan.views, plan.samples, self._usual(outcome.wave)), first)

    def _seen(self, shape: TaskShape, plan: TaskPlan, outcome: TaskOutcome, answered: float) -> Circumstances:
        """The circumstances of a finished pass: length of its answers, and how many were scored. Predictions use both."""
        length, candidates = 1.0, float(self._settings.infer.score_candidates)
        if answered >= plan.views and (new := outcome.tokens.get("new", 0)):
            length = new / (sum(shape.answers) * answered * plan.samples)
            self._lengths.append(length)
        if grids := [len({score.grid.tobytes() for score in query.scores}) for query in outcome.queries if query.scores]:
            candidates = sum(grids) / len(grids)
            self._candidates.append(candidates)
        self._answers = (
            statistics.median(self._lengths) if self._lengths else 1.0,
            statistics.median(self._candidates) if self._candidates else None,
        )
        return Circumstances(outcome.wave, length, candidates, self._scored(outcome))

    @staticmethod
    def _scored(outcome: TaskOutcome) -> float | None:
        """Tokens of all answers that a pass scored; None if it scored none."""
        return float(tokens) if (tokens := outcome.tokens.get("scored", 0)) else None

    def score_seconds(self, shape: TaskShape, plan: TaskPlan, outcome: TaskOutcome) -> float | None:
        """Predicted seconds of scoring, given the answers that inference has found; None if nothing was scored.

        Call it before the pass is observed.
        """
        if (scored := self._scored(outcome)) is None:
            return None
        circumstances = replace(self._usual(outcome.wave), scored=scored)
        work = self._amounts(shape, plan.steps, plan.views, plan.samples, circumstances)
        return self._now("score") * self._phases["score"].median(work["score"])

    def _usual(self, wave: Amount) -> Circumstances:
        """The expected circumstances of a pass: those usual in the last passes."""
        return Circumstances(wave, *self._answers)

    def _note_change(self, work: Mapping[str, Sequence[float]], first: bool) -> None:
        """Change `version` if the cost of this `work` has changed, or a phase was measured for the `first` time."""
        now = {phase: self._phases[phase].rates for phase in work}
        before, after = (sum(sum(map(mul, work[phase], rates[phase])) for phase in work) for rates in (self._noted, now))
        if abs(after - before) > CHANGE * before or first:
            self._noted.update(now)
            self.version += 1

    def rates(self) -> dict[str, list[float]]:
        """Current estimates, by phase: seconds per unit of each feature of `workload.FEATURES`."""
        return {phase: list(regression.rates) for phase, regression in self._phases.items()}

    def _amounts(
        self, shape: TaskShape, steps: float, views: float, samples: int, circumstances: Circumstances
    ) -> Mapping[str, Sequence[float]]:
        return amounts(self._sizes_of(shape), self._settings, steps, views, samples, circumstances)  # type: ignore[return-value]

    def _sizes_of(self, shape: TaskShape) -> Sizes:
        if (known := self._sizes.get(shape)) is None:
            known = self._sizes[shape] = sizes_of(shape, self._settings)
        return known


def _regressions(prior: Prior) -> dict[str, Regression]:
    return {phase: Regression(prior.rates[phase], prior.spreads[phase]) for phase in PHASES}


class Timing(NamedTuple):
    """Seconds of a phase of a pass."""

    phase: str
    predicted: float | None  # None: nothing was predicted
    used: float


def prediction_errors(timings: Sequence[Timing], skip: int = 0) -> dict[str, float]:
    """Median of |predicted - used| / used by phase, of timings in the order of the work.

    The first `skip` rows of a phase are left out, and those without a prediction. Phases that take less than a hundredth of all
    seconds are left out as well: no plan depends on them, and their milliseconds depend on the scheduler.
    """
    rows: dict[str, list[Timing]] = {}
    for timing in timings:
        rows.setdefault(timing.phase, []).append(timing)
    least = MIN_JUDGED * sum(timing.used for timing in timings)
    errors = {}
    for phase, mine in rows.items():
        judged = [row for row in mine[skip:] if row.predicted is not None and row.used > 0]
        if judged and sum(row.used for row in mine) >= least:
            errors[phase] = statistics.median(abs(row.predicted - row.used) / row.used for row in judged)  # type: ignore[operator]
    return errors
