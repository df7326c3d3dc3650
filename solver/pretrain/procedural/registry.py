"""The table of primitives: the functions from which programs are composed, by their annotated types.

`@primitive()` enters a function. Its first parameter is the value that a step takes, its return type what the step gives; the
other parameters are arguments, drawn once for each family. `needs` names what a scene must offer (`Scene.offers`). A parameter
of type `Special` adds its own name to them.

A program is drawn by the order of this table, and families are held out by the names in it: entries that are moved or renamed
change the families of every seed, and a training that is resumed would no longer see the same data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from solver.pretrain.procedural.values import Special

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Primitive:
    """A function with typed arguments, what it needs of a scene's offers, and what the grid it gives offers to later steps."""

    name: str
    function: Callable[..., Any]
    takes: Any
    gives: Any
    arguments: tuple[tuple[str, Any], ...]  # (parameter, type)
    needs: frozenset[str]
    leaves: frozenset[str]  # what the resulting grid offers to later steps
    weight: float  # relative frequency; 1 for most primitives


PRIMITIVES: dict[str, Primitive] = {}


def primitive(*needs: str, leaves: tuple[str, ...] = (), weight: float = 1.0) -> Callable[[Function], Function]:
    """Enter the decorated function into the table under its name."""

    def enter(function: Function) -> Function:
        hints = get_type_hints(function)
        gives = hints.pop("return")
        (_, takes), *arguments = hints.items()
        special = {name for name, kind in arguments if kind is Special}
        name = function.__name__
        assert name not in PRIMITIVES, name
        needed = frozenset(needs) | special
        PRIMITIVES[name] = Primitive(name, function, takes, gives, tuple(arguments), needed, frozenset(leaves), weight)
        return function

    return enter
