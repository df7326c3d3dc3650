"""Random programs: chains of primitives whose types fit, from what a scene shows to an output grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np

# the modules enter their primitives and scenes into the tables
from solver.arc.grid import Grid
from solver.pretrain.procedural import (  # noqa: F401
    on_grids,
    on_lines,
    on_objects,
    on_objects_moved,
    on_panels,
    on_parts,
    scenes_lines,
    scenes_parts,
    scenes_patterns,
    scenes_things,
)
from solver.pretrain.procedural.criteria import MEASURES, TRAITS, Measure, One, Trait, Which, has_colour
from solver.pretrain.procedural.registry import PRIMITIVES, Primitive
from solver.pretrain.procedural.scenes import SCENES, Palette, Scene
from solver.pretrain.procedural.values import Axis, Colour, Direction, Number, Objects, Present, Scale, Special, Turn, Unfit

MAX_STEPS = 5  # finding things, splitting into panels and drawing count as steps
SCENE_WEIGHTS = {"scattered": 16.0, "motif": 4.0, "points": 2.0, "noisy": 2.0, "two_panels": 2.0, "bars": 2.0, "loose": 2.0}
GENERIC = 0.004  # weight of a first step that needs nothing of the scene, against 1 for one that does
GO_ON = 0.35  # probability of another step once the value is a grid
MAX_CHANGES = 2  # steps from things to things
TURNED: tuple[Any, ...] = (Direction, Axis, Turn)  # arguments that a view of the task changes
SAME_WHEN_TURNED = {  # words that a view of the task makes the same
    "height": "width",
    "rightness": "lowness",
    "in_left_half": "in_upper_half",
    "mirrors_upright": "mirrors_sideways",
    "columns": "rows",
    "rising": "falling",
}
TURNS_ALONE = {"rotate", "flip", "transpose"}  # primitives that do what a view of the outputs does


@dataclass(frozen=True, eq=False)
class Step:
    """A primitive with its arguments."""

    primitive: Primitive
    arguments: tuple[Any, ...]

    def __call__(self, value: Any) -> Any:
        """The next value. Raises Unfit where the primitive does not apply."""
        return self.primitive.function(value, *self.arguments)

    @property
    def name(self) -> str:
        """The primitive with those arguments that neither a renaming of colours nor a dihedral transform can change."""
        shown = [
            " ".join(SAME_WHEN_TURNED.get(word, word) for word in getattr(value, "name", str(value)).split())
            for value, (_, kind) in zip(self.arguments, self.primitive.arguments, strict=True)
            if kind not in (Colour, Present, Special, Scale, *TURNED)
        ]
        # (rows, columns) of a tile or a swatch turn, too
        return f"{self.primitive.name}({', '.join(sorted(shown))})" if shown else self.primitive.name


Program = tuple[Step, ...]


def rule_of(program: Program) -> str:
    """The program in words, equal for programs that views of a task, or of its outputs alone, turn into each other."""
    names = [step.name for step in program]
    while names and names[-1] in TURNS_ALONE:
        names.pop()
    return " > ".join(names)


def run(program: Sequence[Step], value: Any) -> Any:
    """The value after all steps. Raises Unfit where one does not apply."""
    for step in program:
        value = step(value)
    return value


def random_kind(rng: np.random.Generator) -> str:
    """The name of a kind of scene."""
    names = sorted(SCENES)
    weights = np.array([SCENE_WEIGHTS.get(name, 1.0) for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def random_scene(rng: np.random.Generator, kind: str) -> tuple[Scene, Palette]:
    """A scene of a kind in a random style, and the colours it leaves to the program."""
    palette: Palette = tuple((1 + rng.permutation(9)).tolist())
    scene = SCENES[kind](rng, palette)
    used = {*scene.colours, *scene.roles.values()}
    return scene, tuple(colour for colour in palette if colour not in used)


def random_program(rng: np.random.Generator, scene: Scene, fresh: Palette) -> Program:
    """A chain of steps from the grids of a scene to a grid. Raises Unfit if the chain comes to no end."""
    steps: list[Step] = []
    unused = list(fresh)
    kind: Any = Grid
    offers = scene.offers
    while len(steps) < MAX_STEPS:
        weights = {p: _weight(p, kind, steps) for p in PRIMITIVES.values() if p.takes == kind and p.needs <= offers}
        total = sum(weights.values())
        if not total:
            break
        chosen = list(weights)[int(rng.choice(len(weights), p=np.array(list(weights.values())) / total))]
        drawn = tuple(_argument(rng, name, wanted, scene, offers, unused) for name, wanted in chosen.arguments)
        steps.append(Step(chosen, drawn))
        kind = chosen.gives
        if kind == Grid:
            # a new grid has lost what the scene offered, unless its things are still there
            offers = chosen.leaves | (offers - chosen.needs if "objects" in chosen.leaves else frozenset())
            if rng.random() > (0.8 if "objects" in offers else GO_ON):
                return tuple(steps)
    if kind != Grid:
        raise Unfit
    return tuple(steps)


def _weight(primitive: Primitive, kind: Any, steps: Sequence[Step]) -> float:
    if kind == Grid and not primitive.needs and not steps:
        return GENERIC
    if kind == Objects:
        changes = sum(step.primitive.gives is Objects for step in steps) - 1
        if primitive.gives is Objects and changes >= MAX_CHANGES:
            return 0.0
        # what has not changed is not worth drawing, what has changed not worth counting
        if (primitive.name == "draw" and not changes) or (primitive.gives in (Number, Colour) and changes):
            return 0.0
    return primitive.weight


def _argument(rng: np.random.Generator, name: str, kind: Any, scene: Scene, offers: frozenset[str], unused: list[int]) -> Any:
    if get_origin(kind) is Literal:
        options = get_args(kind)
        return options[int(rng.integers(len(options)))]
    if kind is Special:
        return scene.roles[name]
    if kind is Present:
        return scene.colours[int(rng.integers(len(scene.colours)))]
    if kind is Colour:
        if not unused:
            raise Unfit
        return unused.pop()
    if kind is Scale:
        return tuple((1 + rng.permutation(9)).tolist())
    measures = [m for m in MEASURES.values() if m.needs <= offers]
    if kind is Measure:
        return measures[int(rng.integers(len(measures)))]
    traits = [t for t in TRAITS.values() if t.needs <= offers]
    if "coloured" in offers:
        traits += [has_colour(colour) for colour in scene.colours[:1]] * 3
    if rng.random() < (0.75 if kind is One else 0.4):
        criterion: Measure | Trait = measures[int(rng.integers(len(measures)))]
        want: Literal["most", "least", "with", "without"] = "most" if rng.random() < 0.5 else "least"
    else:
        criterion = traits[int(rng.integers(len(traits)))]
        want = "with" if rng.random() < 0.7 else "without"
    return (One if kind is One else Which)(criterion, want)
