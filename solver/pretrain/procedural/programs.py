"""Random programs: chains of primitives with matching types, from the input grid of a scene to an output grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import numpy as np

from solver.arc.grid import Grid

# imported for their effect: they enter primitives and scenes into the tables, in this order
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
from solver.pretrain.procedural.shapes import one_of
from solver.pretrain.procedural.values import Axis, Colour, Direction, Number, Objects, Present, Scale, Special, Turn, Unfit

MAX_STEPS = 5  # finding things, splitting into panels and drawing things count as steps
# relative frequencies of kinds of scenes; 1 for all others
SCENE_WEIGHTS = {"scattered": 16.0, "motif": 4.0, "points": 2.0, "noisy": 2.0, "two_panels": 2.0, "bars": 2.0, "loose": 2.0}
GENERIC_WEIGHT = 0.004  # of a first step that needs nothing of the scene; one that needs something has about 1
CONTINUE = 0.35  # probability of another step once the value is a grid without things
CONTINUE_WITH_THINGS = 0.8  # the same where the things of the scene are still on the grid
MAX_CHANGES = 2  # steps from things to things
TURNED: tuple[Any, ...] = (Direction, Axis, Turn)  # types of arguments that a dihedral transform of the task changes
SAME_WHEN_TURNED = {  # words that a dihedral transform of the task turns into each other, all replaced by one of them
    "height": "width",
    "rightness": "lowness",
    "in_left_half": "in_upper_half",
    "mirrors_upright": "mirrors_sideways",
    "columns": "rows",
    "rising": "falling",
}
TURNS_ALONE = {"rotate", "flip", "transpose"}  # primitives that only apply a dihedral transform to the output


@dataclass(frozen=True, eq=False)
class Step:
    """A primitive with the values of its arguments."""

    primitive: Primitive
    arguments: tuple[Any, ...]

    def __call__(self, value: Any) -> Any:
        """The next value. Raises Unfit where the primitive does not apply."""
        return self.primitive.function(value, *self.arguments)

    @property
    def name(self) -> str:
        """The primitive's name with those arguments that neither a renaming of colours nor a dihedral transform changes."""
        shown = [
            " ".join(SAME_WHEN_TURNED.get(word, word) for word in getattr(value, "name", str(value)).split())
            for value, (_, kind) in zip(self.arguments, self.primitive.arguments, strict=True)
            if kind not in (Colour, Present, Special, Scale, *TURNED)
        ]
        # sorted, because a transform also swaps the (rows, columns) of a tile or a swatch
        return f"{self.primitive.name}({', '.join(sorted(shown))})" if shown else self.primitive.name


Program = tuple[Step, ...]


def rule_of(program: Program) -> str:
    """The program in words: the same for programs that a view of the task, or of its outputs alone, turns into each other."""
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
    """The name of a random kind of scene."""
    names = sorted(SCENES)
    weights = np.array([SCENE_WEIGHTS.get(name, 1.0) for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def random_scene(rng: np.random.Generator, kind: str) -> tuple[Scene, Palette]:
    """A scene of a kind in a random style, and the colours that it does not use: those are for the program."""
    palette: Palette = tuple((1 + rng.permutation(9)).tolist())
    scene = SCENES[kind](rng, palette)
    used = {*scene.colours, *scene.roles.values()}
    return scene, tuple(colour for colour in palette if colour not in used)


def random_program(rng: np.random.Generator, scene: Scene, fresh: Palette) -> Program:
    """A random chain of steps from the grids of a scene to a grid. Raises Unfit if it does not end in a grid."""
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
            # a new grid no longer offers what the scene offered, unless the things of the scene are still on it
            offers = chosen.leaves | (offers - chosen.needs if "objects" in chosen.leaves else frozenset())
            if rng.random() > (CONTINUE_WITH_THINGS if "objects" in offers else CONTINUE):
                return tuple(steps)
    if kind != Grid:
        raise Unfit
    return tuple(steps)


def _weight(primitive: Primitive, kind: Any, steps: Sequence[Step]) -> float:
    """How often a primitive is drawn as the next step on a value of type `kind`, relative to the others."""
    if kind == Grid and not primitive.needs and not steps:
        return GENERIC_WEIGHT
    if kind == Objects:
        changes = sum(step.primitive.gives is Objects for step in steps) - 1
        if primitive.gives is Objects and changes >= MAX_CHANGES:
            return 0.0
        # do not draw things that have not changed, nor count or name a colour of things that have
        if (primitive.name == "draw" and not changes) or (primitive.gives in (Number, Colour) and changes):
            return 0.0
    return primitive.weight


def _argument(rng: np.random.Generator, name: str, kind: Any, scene: Scene, offers: frozenset[str], unused: list[int]) -> Any:
    """A random value for the parameter `name` of type `kind`; new colours come off `unused`. Raises Unfit if it is empty."""
    if get_origin(kind) is Literal:
        return one_of(rng, get_args(kind))
    if kind is Special:
        return scene.roles[name]
    if kind is Present:
        return one_of(rng, scene.colours)
    if kind is Colour:
        if not unused:
            raise Unfit
        return unused.pop()
    if kind is Scale:
        return tuple((1 + rng.permutation(9)).tolist())
    measures = [m for m in MEASURES.values() if m.needs <= offers]
    if kind is Measure:
        return one_of(rng, measures)
    traits = [t for t in TRAITS.values() if t.needs <= offers]
    if "coloured" in offers:
        traits += [has_colour(colour) for colour in scene.colours[:1]] * 3
    if rng.random() < (0.75 if kind is One else 0.4):
        criterion: Measure | Trait = one_of(rng, measures)
        want: Literal["most", "least", "with", "without"] = "most" if rng.random() < 0.5 else "least"
    else:
        criterion = one_of(rng, traits)
        want = "with" if rng.random() < 0.7 else "without"
    return (One if kind is One else Which)(criterion, want)
