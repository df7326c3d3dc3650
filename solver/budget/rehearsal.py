"""The models behind rehearsals: how long work takes on a simulated machine, what goes wrong, and sums over rehearsed runs.

It is arithmetic alone, without clock or process; `solver.commands.rehearse` runs the real supervisor with it.

A duration is the profile's seconds times four factors: the error of the profile in this run, the slowness of this device, the
noise of this piece of work (lognormal), and, rarely, a heavy tail (Pareto). The default parameters are assumptions, wider than
what was seen; `fit_noise` fits them to real ledgers.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import Any, Literal

from solver.budget.profile import Profile
from solver.types import TaskPlan

Fault = Literal["crash", "stuck", "silent", "oom fit", "oom decode", "failed", "nan", "late"]


# -- how long work takes


@dataclass(frozen=True)
class DeviceSpeed:
    """Seconds of each kind of work on one device, from a profile, between whose lengths it is interpolated."""

    start: Mapping[str, float]  # creation of a worker until it is ready, by part
    fit: float  # of a fit, besides its steps
    step: tuple[tuple[int, float], ...]  # tokens a sequence -> seconds of an optimizer step
    prefill: tuple[tuple[int, float], ...]  # tokens -> seconds a prompt
    decode: tuple[tuple[int, float], ...]  # tokens of the prompt -> tokens/s
    score: tuple[tuple[int, float], ...]  # tokens -> seconds a prompt

    @staticmethod
    def of(profile: Profile, quantization: str = "none") -> DeviceSpeed:
        """The speed that a profile tells. Raises ValueError if it lacks a phase."""
        variant = profile.variant(quantization)
        names = ("step_seconds", "prefill_seconds", "decode_rate", "score_seconds")
        curves = [tuple(variant.points(name)) for name in names]
        for name, curve in zip(names, curves, strict=True):
            if not curve:
                raise ValueError(f"the profile of {profile.machine.device} has no {name}")
        return DeviceSpeed(variant.start_parts, variant.fit_seconds, *curves)

    def step_seconds(self, tokens: int) -> float:
        """One optimizer step on sequences of that length."""
        return interpolate(self.step, tokens)

    def infer_seconds(self, tokens: int, answer: int, views: int, samples: int) -> float:
        """Reading a prompt under every view and answering it `samples` times with `answer` tokens each."""
        return views * (interpolate(self.prefill, tokens) + samples * answer / interpolate(self.decode, tokens))

    def score_seconds(self, tokens: int, views: int) -> float:
        """Scoring the candidates of one query under every view."""
        return views * interpolate(self.score, tokens)


def interpolate(curve: Sequence[tuple[int, float]], tokens: int) -> float:
    """The curve at a length: a power law between two points, gone on with beyond the last; below the first its value."""
    place = bisect_left(curve, (tokens, 0.0))
    if place == 0 or len(curve) == 1:
        return curve[0][1]
    last = min(place, len(curve) - 1)
    (x0, y0), (x1, y1) = curve[last - 1], curve[last]
    power = math.log(y1 / y0) / math.log(x1 / x0) if y0 > 0 and y1 > 0 else 0.0
    return y0 * (tokens / x0) ** power


@dataclass(frozen=True)
class Noise:
    """How durations scatter. Natural logarithms; see the module's docstring."""

    sigma: float = 0.2  # of one piece of work
    tail_share: float = 0.01  # of pieces that take much longer
    tail_power: float = 2.0  # of the Pareto factor on those: 1 in 4 takes more than twice as long as the rest would
    bias: float = 0.3  # sigma of the factor by which the profile is off in a run
    slow_share: float = 0.1  # of devices that are slow for a whole run
    slow_factor: float = 2.5  # at most

    def of_run(self, dice: Random) -> float:
        """How much slower than the profile this run's machine is."""
        return math.exp(dice.gauss(0.0, self.bias))

    def of_device(self, dice: Random) -> float:
        """How much slower than the others a device is."""
        return dice.uniform(1.0, self.slow_factor) if dice.random() < self.slow_share else 1.0

    def of_work(self, dice: Random) -> float:
        """How much longer than expected a piece of work takes."""
        tail = dice.paretovariate(self.tail_power) if dice.random() < self.tail_share else 1.0
        return math.exp(dice.gauss(0.0, self.sigma)) * min(tail, 50.0)


def fit_noise(pieces: Sequence[Sequence[tuple[float, float]]]) -> Noise:
    """The noise of real runs: for each run, (amount of work, seconds) of its pieces, as tokens and seconds of fits.

    The scatter is that of log seconds around a line over log work, by the median absolute deviation, which tails do not
    move; the tail is what lies beyond three sigma, its power by Hill's estimator (1975). The factors between runs are not
    in one run's ledger: `bias` and the slow devices keep their defaults. Raises ValueError with fewer than eight pieces.
    """
    residuals = [residual for run in pieces for residual in _residuals(run)]
    if len(residuals) < 8:
        raise ValueError(f"{len(residuals)} pieces of work are too few to fit noise to; at least 8 are needed")
    sigma = max(1.4826 * statistics.median(abs(r) for r in residuals), 1e-3)
    beyond = [r - 2 * sigma for r in residuals if r > 3 * sigma]
    power = len(beyond) / math.fsum(beyond) if beyond else Noise.tail_power
    return Noise(sigma=sigma, tail_share=len(beyond) / len(residuals), tail_power=min(max(power, 1.0), 10.0))


def _residuals(pieces: Sequence[tuple[float, float]]) -> list[float]:
    points = [(math.log(work), math.log(seconds)) for work, seconds in pieces if work > 0 and seconds > 0]
    if len(points) < 3:
        return []
    xs, ys = zip(*points, strict=True)
    slope = statistics.linear_regression(xs, ys).slope if len(set(xs)) > 1 else 0.0
    levels = [y - slope * x for x, y in points]
    centre = statistics.median(levels)
    return [level - centre for level in levels]


# -- what goes wrong


@dataclass(frozen=True)
class Faults:
    """Probabilities, per work item unless said otherwise; seconds are the most that is drawn."""

    crash: float = 0.0  # the worker process ends
    stuck: float = 0.0  # native code hangs; heartbeats go on, deadlines are ignored
    silent: float = 0.0  # the worker is stopped, or hangs with the interpreter's lock
    oom_fit: float = 0.0  # memory runs out in the fit, and backing off in place helps
    oom_decode: float = 0.0  # the same in decoding
    failed: float = 0.0  # the item fails with an error that the worker survives
    nan: float = 0.0  # the loss is not a number: the fit ends early
    late: float = 0.0  # work goes on past its deadline ...
    late_seconds: float = 20.0  # ... for so long
    poisoned: float = 0.0  # share of tasks that cost their worker every time
    failed_start: float = 0.0  # of a worker's start
    hung_start: float = 0.0  # of a worker's start: it says nothing
    slow_start: float = 0.0  # of a worker's start: ten times as long
    full_disk: float = 0.0  # of a run: for a tenth of it nothing can be written
    write_seconds: float = 0.05  # a write of the submission takes
    kill_seconds: float = 1.0  # a killed process takes to be gone
    unkillable: float = 0.0  # of kills: the process stays for an hour

    def of_item(self, dice: Random) -> Fault | None:
        """What happens to one work item."""
        drawn = dice.random()
        for name in _OF_ITEM:
            drawn -= getattr(self, name)
            if drawn < 0:
                return name.replace("_", " ")  # type: ignore[return-value]
        return None


_OF_ITEM = ("crash", "stuck", "silent", "oom_fit", "oom_decode", "failed", "nan", "late")

MIXES: dict[str, Faults] = {
    "none": Faults(),
    "usual": Faults(
        crash=0.002, stuck=0.001, silent=0.001, oom_fit=0.01, oom_decode=0.01, failed=0.002, nan=0.005, late=0.01,
        poisoned=0.002, failed_start=0.01, slow_start=0.02, full_disk=0.02, write_seconds=0.5, kill_seconds=10.0,
    ),
    "harsh": Faults(
        crash=0.02, stuck=0.01, silent=0.01, oom_fit=0.05, oom_decode=0.05, failed=0.02, nan=0.03, late=0.05,
        poisoned=0.02, failed_start=0.1, hung_start=0.02, slow_start=0.1, full_disk=0.2, write_seconds=1.0, kill_seconds=10.0,
        unkillable=0.01,
    ),
    "hostile": Faults(
        crash=0.1, stuck=0.08, silent=0.08, oom_fit=0.1, oom_decode=0.1, failed=0.08, nan=0.08, late=0.2, late_seconds=60.0,
        poisoned=0.1, failed_start=0.25, hung_start=0.1, slow_start=0.2, full_disk=0.5, write_seconds=1.5, kill_seconds=10.0,
        unkillable=0.05,
    ),
}  # fmt: skip


# -- one pass over one task


@dataclass(frozen=True)
class Course:
    """The course of one pass over a task: its seconds by phase, and the work it has done."""

    prepare: float
    fit: float
    steps: int
    infer: float
    views: int
    score: float
    in_full: bool

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.prepare + self.fit + self.infer + self.score


PREPARE = 0.5  # seconds, of a task
AFTER_SHARE = 0.35  # of an item's time that a fit leaves to later phases if the item has no forecast, as in a worker


def course(
    pace: DeviceSpeed, plan: TaskPlan, tokens: int, answers: Sequence[int], slower: float, left: float, keep: float | None = None
) -> Course:
    """A pass with that plan over a task of `tokens` whose answers have `answers` tokens, `slower` times, in `left` seconds.

    Like a worker it leaves `keep` seconds to the phases after the fit, and stops by itself before the deadline.
    """
    left = max(left, 0.0)
    prepare = min(PREPARE * slower, left)
    left -= prepare
    infer = slower * sum(pace.infer_seconds(tokens, answer, plan.views, plan.samples) for answer in answers)
    score = slower * len(answers) * pace.score_seconds(tokens, plan.views)
    fit, steps = 0.0, 0
    if plan.steps:
        step = slower * pace.step_seconds(tokens)
        room = max(left - (AFTER_SHARE * left if keep is None else keep) - pace.fit, 0.0)
        steps = min(plan.steps, int(room / step)) if step > 0 else plan.steps
        fit = min(pace.fit + steps * step, left)
        left -= fit
    share = min(1.0, left / (infer + score)) if infer + score > 0 else 1.0
    views = math.floor(plan.views * share + 1e-9)
    return Course(prepare, fit, steps, infer * share, views, score * share, steps == plan.steps and share >= 1.0)


# -- sums over runs


@dataclass(frozen=True)
class RunRecord:
    """One rehearsed run."""

    seed: int
    mix: str
    stop: str
    seconds: float  # from the start until the process is gone
    missed: bool  # it was gone after its budget
    left_workers: bool  # a killed worker had not vanished by then
    invalid: int  # submissions on disk, after a write, that were not complete and valid
    publishes: int
    loading: float  # share of workers x budget in which tasks were read and workers first started
    worked: float  # share of workers x budget spent on work
    lost: float  # of `worked`, on work without an outcome
    down: float  # share of workers x budget in which workers hung, vanished or started again, to the end of the budget
    work_left: bool  # the time ended the run while a pending task had no worker
    steps: float  # mean optimizer steps a task
    at_floor: int  # tasks that got no more than a quarter of the steps of the settings
    untouched: int  # tasks without any pass
    events: dict[str, int]

    @property
    def usable(self) -> float:
        """Share of workers x budget that loading and faults left."""
        return 1 - self.loading - self.down


MIN_USABLE = 0.5  # of the worker time: if faults leave less, one unlucky second changes a run's utilisation


def summarise(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The sums and means over runs, as plain JSON.

    Utilisation is work done over the worker time that loading and faults left, the reserve included, over all runs that ended
    with work left; `utilisation_least` is that of the worst of them to which faults left `MIN_USABLE` of their time.
    """
    if not runs:
        raise ValueError("no runs")
    left = [run for run in runs if run.work_left]
    usable = math.fsum(run.usable for run in left)
    events: Counter[str] = Counter()
    for run in runs:
        events.update(run.events)
    first_bad = next((run.seed for run in runs if run.missed or run.invalid), None)
    return {
        "runs": len(runs),
        "seeds": [min(run.seed for run in runs), max(run.seed for run in runs)],
        "deadline_misses": sum(run.missed for run in runs),
        "invalid_submissions": sum(run.invalid for run in runs),
        "utilisation": math.fsum(run.worked for run in left) / usable if usable > 0 else None,
        "utilisation_least": min((run.worked / run.usable for run in left if run.usable >= MIN_USABLE), default=None),
        "loading": statistics.fmean(run.loading for run in runs),
        "lost": statistics.fmean(run.lost for run in runs),
        "down": statistics.fmean(run.down for run in runs),
        "steps_per_task": statistics.fmean(run.steps for run in runs),
        "tasks_at_floor": statistics.fmean(run.at_floor for run in runs),
        "tasks_untouched": statistics.fmean(run.untouched for run in runs),
        "runs_with_work_left": len(left),
        "latest_end": max(run.seconds for run in runs),
        "workers_left": sum(run.left_workers for run in runs),
        "publishes": sum(run.publishes for run in runs),
        "stops": dict(Counter(run.stop for run in runs)),
        "events": dict(events.most_common()),
        "first_bad_seed": first_bad,
    }


def by_mix(runs: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """`summarise` for each fault mix among the runs."""
    names = dict.fromkeys(run.mix for run in runs)
    return {name: summarise([run for run in runs if run.mix == name]) for name in names}


def describe(value: Noise | Faults) -> dict[str, float]:
    """The parameters, as plain JSON."""
    assert fields(value)
    return asdict(value)
