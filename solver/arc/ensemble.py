"""The ensemble of the network and program search: how likely is each grid of a query to be right, given what both engines say?

A grid has a score, the sum of its features times the parameters. Its chance is that of a multinomial logit, in which exactly one
grid is right or none is:

    chance(g) = exp(score(g)) / (1 + sum over all grids of exp(score))

So grids of both engines compete, and the two attempts are the two with the highest chances. The parameters come from tasks with
known answers on which the network was not trained: `ensemble.json` beside this module, which `solver fit-ensemble` writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.jsonfile import read_json, write_json
from solver.arc.tally import Tally, program_rank
from solver.errors import InputError
from solver.types import Program

Numbers = NDArray[np.float64]

VERSION = 1
SURE = 0.95  # the chance from which a query needs no further pass if its best grid is the network's first and an exact program's
PRIOR_SD = 1.5  # standard deviation of every parameter's normal prior
ROUNDS = 50  # of Newton's method, at most

# feature -> mean of the prior of its parameter: assumptions before any task was seen
PRIOR: Mapping[str, float] = {
    "first": -0.5,  # 1 for the grid that the selection rule puts first among those of the network
    "second": -2.5,  # 1 for the second one
    "lower": -3.0,  # 1 for a lower one that a program gives, too
    "share": 3.0,  # its share of the votes of the network
    "exact": 0.5,  # 1 if a program gives it that reproduces every demonstration
    "inexact": -3.0,  # 1 if another program gives it
    "leads": 0.5,  # 1 if that program is the best one of the query
    "agreement": 1.0,  # of an exact program: share of the searched copies of the task that found the grid
    "cost": -0.3,  # of an exact program: log(1 + cost)
    "dearer": -1.0,  # by how much that is more than that of the cheapest exact program of the query
    "both": 2.0,  # 1 if the network and an exact program give it
    "both_inexact": 1.0,  # 1 if the network and another program give it
}


@dataclass(frozen=True, eq=False)
class Chance:
    """A grid and the chance that it is the answer."""

    grid: Grid
    chance: float
    program: Program | None  # that gives it
    first: bool  # whether it is the first one of the network


@dataclass(frozen=True)
class Ensemble:
    """The parameters of the model, by feature, and where they come from, for people."""

    parameters: Mapping[str, float]
    fitted_on: str = ""

    def chances(self, ranked: Sequence[Grid], tally: Tally) -> list[Chance]:
        """The first two grids of the network's ranking and those of programs, the most likely first."""
        table = features(ranked, tally)
        scores = np.array(list(table.values())).reshape(-1, len(PRIOR)) @ np.array([self.parameters[name] for name in PRIOR])
        chances = _chances(scores)
        first = grid_key(ranked[0]) if ranked else None
        found = [
            Chance(grid_from_key(key), float(chance), tally.programs.get(key), key == first)
            for key, chance in zip(table, chances, strict=True)
        ]
        return sorted(found, key=lambda one: (-one.chance, grid_key(one.grid)))


def features(ranked: Sequence[Grid], tally: Tally) -> dict[bytes, Numbers]:
    """The features of the first two grids of a ranking and of all grids of programs, by grid key, in the order of `PRIOR`."""
    firsts = [grid_key(grid) for grid in ranked[:2]]
    votes = sum(group.votes.number for group in tally.grids.values())
    costs = [math.log1p(max(program.cost, 0.0)) for program in tally.programs.values() if program.exact]
    leader = min(tally.programs, key=lambda key: (program_rank(tally.programs[key]), key), default=None)
    table = {}
    for key in dict.fromkeys((*firsts, *tally.programs)):
        program = tally.programs.get(key)
        exact, found = program is not None and program.exact, key in tally.grids
        cost = math.log1p(max(program.cost, 0.0)) if program is not None and exact else 0.0
        row = {
            "first": key == firsts[0] if firsts else False,
            "second": key in firsts[1:],
            "lower": found and key not in firsts,
            "share": tally.grids[key].votes.number / votes if found else 0.0,
            "exact": exact,
            "inexact": program is not None and not exact,
            "leads": key == leader,
            "agreement": program.agreement if program is not None and exact else 0.0,
            "cost": cost,
            "dearer": cost - min(costs) if exact else 0.0,
            "both": found and exact,
            "both_inexact": found and program is not None and not exact,
        }
        table[key] = np.array([float(row[name]) for name in PRIOR])
    return table


@dataclass(frozen=True, eq=False)
class Case:
    """A query with a known answer: the features of its grids, which of them is right (None: none), and the weight of the case."""

    features: Numbers  # (grids, features)
    right: int | None
    weight: float = 1.0


def fit(cases: Sequence[Case], fitted_on: str) -> Ensemble:
    """The most probable parameters, given cases and the prior, by Newton's method (the loss is convex)."""
    mean = np.array(list(PRIOR.values()))
    at = mean.copy()
    for _ in range(ROUNDS):
        slope, curve = (at - mean) / PRIOR_SD**2, np.eye(len(mean)) / PRIOR_SD**2
        for case in cases:
            chances = _chances(case.features @ at)
            expected = chances @ case.features
            observed = case.features[case.right] if case.right is not None else 0.0
            slope += case.weight * (expected - observed)
            curve += case.weight * ((case.features.T * chances) @ case.features - np.outer(expected, expected))
        step = np.linalg.solve(curve, slope)
        at = at - step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-9:
            break
    return Ensemble(dict(zip(PRIOR, at.tolist(), strict=True)), fitted_on)


@lru_cache(maxsize=1)
def shipped_ensemble() -> Ensemble:
    """The parameters that come with the package."""
    return load_ensemble(Path(str(resources.files("solver").joinpath("arc", "ensemble.json"))))


def load_ensemble(path: Path) -> Ensemble:
    """Read a file of `solver fit-ensemble`. Raises InputError naming it if it cannot be read or is no such file."""
    value = read_json(path, "ensemble")
    if not isinstance(value, dict) or value.get("version") != VERSION or not isinstance(value.get("parameters"), dict):
        raise InputError(f"{path}: not a file of solver fit-ensemble of version {VERSION}")
    for name in PRIOR:
        number = value["parameters"].get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InputError(f"{path}: parameter {name} is {number!r}, not a number")
    return Ensemble({name: float(value["parameters"][name]) for name in PRIOR}, str(value.get("fitted_on", "")))


def save_ensemble(path: Path, ensemble: Ensemble) -> None:
    """Replace `path` as a whole. Raises InputError if it cannot be written."""
    value = {"version": VERSION, "fitted_on": ensemble.fitted_on, "parameters": dict(ensemble.parameters)}
    try:
        write_json(path, value)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _chances(scores: Numbers) -> Numbers:
    """Of each grid, in an array of the same shape; what is missing from 1 is the chance that none is right."""
    top = max(0.0, float(scores.max(initial=0.0)))
    powers = np.exp(scores - top)
    return np.asarray(powers / (powers.sum() + math.exp(-top)))
