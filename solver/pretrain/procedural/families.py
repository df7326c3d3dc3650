"""Procedural families: a scene and a program that fits it, drawn from a seed and kept if their pairs make a sound task.

A family is a pure function of its seed. Families are held out by their rule, which is the program without its colours and
directions. So a rule that is used for validation is not trained on under any seed.
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

MAX_PAIR_TOKENS = 340  # cells and row ends of input and output: three pairs fit in 1024 tokens
PROBE = 5  # pairs on which a family is judged
MAX_PROBE_TRIES = 12  # grids drawn for these pairs
MAX_PAIR_TRIES = 50  # grids drawn for one pair later


@dataclass(frozen=True, eq=False)
class Family:
    """A task family: `pair` draws any number of pairs of one rule; `probe` are the pairs on which the family was judged."""

    scene: Scene
    program: Program
    probe: tuple[Pair, ...] = ()

    @property
    def rule(self) -> str:
        """The rule that a solver has to infer, in words: the same for families that differ in scene, colours or directions."""
        return rule_of(self.program)

    def pair(self, rng: np.random.Generator) -> Pair:
        """A new pair. Raises Unfit if MAX_PAIR_TRIES grids give none, which is very unlikely for families that passed `flaw`."""
        for _ in range(MAX_PAIR_TRIES):
            try:
                return self.try_pair(rng)
            except Unfit:
                continue
        raise Unfit

    def pairs(self, rng: np.random.Generator, count: int) -> list[Pair]:
        """`count` pairs: those of the probe first, then new ones. Raises Unfit as `pair` does."""
        return [*self.probe[:count], *(self.pair(rng) for _ in range(count - len(self.probe)))]

    def try_pair(self, rng: np.random.Generator) -> Pair:
        """The pair of a new grid of the scene. Raises Unfit if the program does not apply to it, or if the pair is too large."""
        shown = self.scene.make(rng)
        if not shown.any() or not _fits(shown):
            raise Unfit
        output = run(self.program, shown)
        if not output.any() or not _fits(output) or _tokens(shown) + _tokens(output) > MAX_PAIR_TOKENS:
            raise Unfit
        return Pair(np.ascontiguousarray(shown), np.ascontiguousarray(output, dtype=np.uint8))


def family(seed: int, held_out: bool = False) -> Family:
    """The family of a seed: its first draft without a flaw, among rules that are held out or among all others."""
    attempt = 0
    while True:
        drafted = draft(seed, attempt, held_out)
        if isinstance(drafted, Family):
            return drafted
        attempt += 1


def draft(seed: int, attempt: int, held_out: bool = False) -> Family | str:
    """Attempt number `attempt` at the family of a seed: the family with its probe, or the reason why it is rejected."""
    # the kind of scene depends on the seed alone: kinds whose programs are often rejected do not become rare
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
    for tried in range(MAX_PROBE_TRIES):
        try:
            probe.append(made.try_pair(rng))
        except Unfit:
            if len(probe) + MAX_PROBE_TRIES - tried - 1 < PROBE:
                return "seldom fits"
        if len(probe) == PROBE:
            break
    return flaw(made.program, probe) or Family(scene, made.program, tuple(probe))


def flaw(program: Program, probe: Sequence[Pair]) -> str | None:
    """The reason why a family makes a bad task, judged by its first pairs; None if it does not."""
    outputs: list[Grid] = [pair.output for pair in probe if pair.output is not None]
    if sum(grid_key(pair.input) == grid_key(out) for pair, out in zip(probe, outputs, strict=True)) > 1:
        return "changes nothing"
    if len({grid_key(pair.input) for pair in probe}) < len(probe) - 1:
        return "few inputs"
    # small outputs, such as a count or a colour, may repeat; drawings may not
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
    """A source for the sampler that makes families as needed, of held-out rules or of all others, without pairs the guard bars.

    The guard is needed because a small grid with a simple rule can by chance give a pair of an evaluation task.
    """

    def __init__(self, against: Guard, held_out: bool = False):
        self._guard, self._held_out = against, held_out

    def family(self, rng: np.random.Generator) -> Family:
        """The family of a random seed."""
        return family(int(rng.integers(2**63)), self._held_out)

    def pairs(self, rng: np.random.Generator, count: int) -> list[Pair]:
        """Up to `count` pairs of a new family; pairs that the guard bars are left out."""
        return [pair for pair in self.family(rng).pairs(rng, count) if not self._guard.bars_pair(pair)]


def _same(program: Program, shown: Grid, output: Grid) -> bool:
    """Whether a program gives an output for a grid."""
    try:
        result = run(program, shown)
    except Unfit:
        return False
    return result.shape == output.shape and bool((result == output).all())


def _fits(grid: Grid) -> bool:
    return grid.ndim == 2 and 0 < grid.shape[0] <= MAX_SIDE and 0 < grid.shape[1] <= MAX_SIDE


def _tokens(grid: Grid) -> int:
    """Cells and row ends."""
    return int(grid.shape[0] * (grid.shape[1] + 1))
