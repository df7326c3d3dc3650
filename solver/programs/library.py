"""Every primitive of the search."""

from __future__ import annotations

from collections.abc import Collection

from solver.programs import colours, drawing, features, geometry, lists, repair
from solver.programs.primitive import Primitive

PRIMITIVES: tuple[Primitive, ...] = (
    *colours.PRIMITIVES,
    *geometry.PRIMITIVES,
    *drawing.PRIMITIVES,
    *lists.PRIMITIVES,
    *features.PRIMITIVES,
    *repair.PRIMITIVES,
)


def for_colours(present: Collection[int]) -> list[Primitive]:
    """The primitives for a task with these colours."""
    return [p for p in PRIMITIVES if p.colour is None or p.colour in present]
