"""Families: a scene and a program that belong together, drawn from a seed and kept if their pairs make a task.

A family is a pure function of its seed. Families are held out by their rule (the program, whatever its colours and
directions), so that no validation rule is trained on under another seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from solver.arc.grid import MAX_SIDE, Grid, grid_key
from solver.arc.task import Pair
from solver.pretrain import guard
from solver.pretrain.guard import Guard
from solver.pretrain.procedural.programs import Program, Scene, random_kind, random_program, random_scene, rule_of, run
from solver.pretrain.procedural.values import Unfit

MAX_PAIR_TOKENS = 340  # cells and row ends of input and output: three pairs fit 1024 tokens
PROBE = 5  # pairs on which a family is judged
PROBE_TRIES = 12  # grids drawn for them at most
PAIR_TRIES = 50


@dataclass(frozen=True, eq=False)
class Family:
    """A task family: `pair` draws pairs of one rule without end; `probe` are the pairs on which it was judged."""

    scene: Scene
    program: Program
    probe: tuple[Pair, ...] = ()

    @property
    def rule(self) -> str:
        """What is to be inferred: equal for families that differ in scene, colours and directions only."""
        return rule_of(self.program)

    @property
    def name(self) -> str:
        """Scene and rule in words."""
        return f"{self.scene.name}: {self.rule}"

    def pair(self, rng: np.random.Generator) -> Pair:
        """A fresh pair. Raises Unfit if none is found, which families that passed `flaw` make next to impossible."""
        for _ in range(PAIR_TRIES):
            try:
                return self.try_pair(rng)
            except Unfit:
                continue
        raise Unfit

    def pairs(self, rng: np.random.Generator, count: int) -> list[Pair]:
        """`count` pairs: those of the probe, then fresh ones."""
        return [*self.probe[:count], *(self.pair(rng) for _ in range(count - len(self.probe)))]

    def try_pair(self, rng: np.random.Generator) -> Pair:
        """The pair of the next grid of the scene. Raises Unfit if the program does not apply to it."""
        shown = self.scene.make(rng)
        if not shown.any() or not _fits(shown):
            raise Unfit
        output = run(self.program, shown)
        if not output.any() or not _fits(output) or _tokens(shown) + _tokens(output) > MAX_PAIR_TOKENS:
            raise Unfit
        return Pair(np.ascontiguousarray(shown), np.ascontiguousarray(output, dtype=np.uint8))


def family(seed: int, held_out: bool = False) -> Family:
    """The family of a seed: the first of its drafts without a flaw whose rule is held out, or is not."""
    attempt = 0
    while True:
        found = draft(seed, attempt, held_out)
        if isinstance(found, Family):
            return found
        attempt += 1


def draft(seed: int, attempt: int, held_out: bool = False) -> Family | str:
    """One try at the family of a seed: the family with its probe, or what is wrong with it."""
    # the kind of scene is the seed's alone, so that scenes whose programs are often flawed do not become rare
    kind = random_kind(np.random.default_rng(seed))
    rng = np.random.default_rng([seed, attempt])
    try:
        scene, fresh = random_scene(rng, kind)
        made = Family(scene, random_program(rng, scene, fresh))
    except Unfit:
        return "no program"
    if guard.held_out(made.rule) != held_out:
        return "other side"
    probe: list[Pair] = []
    for tried in range(PROBE_TRIES):
        try:
            probe.append(made.try_pair(rng))
        except Unfit:
            if len(probe) + PROBE_TRIES - tried - 1 < PROBE:
                return "seldom fits"
        if len(probe) == PROBE:
            break
    return flaw(made.program, probe) or Family(scene, made.program, tuple(probe))


def flaw(program: Program, probe: Sequence[Pair]) -> str | None:
    """What makes a family a bad task, judged by its first pairs; None if nothing does."""
    outputs: list[Grid] = [pair.output for pair in probe if pair.output is not None]
    if sum(grid_key(pair.input) == grid_key(out) for pair, out in zip(probe, outputs, strict=True)) > 1:
        return "changes nothing"
    if len({grid_key(pair.input) for pair in probe}) < len(probe) - 1:
        return "few inputs"
    # counts and colours have few answers, drawings many
    if len({grid_key(out) for out in outputs}) < (2 if max(out.size for out in outputs) < 12 else len(probe) - 1):
        return "few outputs"
    for place, step in enumerate(program):
        if step.primitive.takes != step.primitive.gives:
            continue
        without = (*program[:place], *program[place + 1 :])
        if sum(_same(without, pair.input, out) for pair, out in zip(probe, outputs, strict=True)) > len(probe) // 2:
            return "idle step"
    return None


class Procedural:
    """An endless source for the sampler: families that are held out, or all the others; no pair that the guard bars.

    A small grid under a simple rule can by chance be a pair of an evaluation task, so the guard is asked, too.
    """

    def __init__(self, against: Guard, held_out: bool = False):
        self._guard, self._held_out = against, held_out

    def family(self, rng: np.random.Generator) -> Family:
        """A family of a random seed."""
        return family(int(rng.integers(2**63)), self._held_out)

    def pairs(self, rng: np.random.Generator, count: int) -> list[Pair]:
        """Up to `count` pairs of one family, drawn afresh."""
        return [pair for pair in self.family(rng).pairs(rng, count) if not self._guard.bars_pair(pair)]


def _same(program: Program, shown: Grid, output: Grid) -> bool:
    try:
        result = run(program, shown)
    except Unfit:
        return False
    return result.shape == output.shape and bool((result == output).all())


def _fits(grid: Grid) -> bool:
    return grid.ndim == 2 and 0 < grid.shape[0] <= MAX_SIDE and 0 < grid.shape[1] <= MAX_SIDE


def _tokens(grid: Grid) -> int:
    return int(grid.shape[0] * (grid.shape[1] + 1))
