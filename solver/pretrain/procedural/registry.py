"""The table of primitives. A decorated function is one: annotations give the types by which programs are put together.

The first parameter is the value a step takes, the return type what it gives, the other parameters are arguments drawn
once a family. `needs` names what a scene must offer (`Scene.offers`); so does a parameter of type `Special`, by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from solver.pretrain.procedural.values import Special

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Primitive:
    """A function from value to value with typed arguments, and what it needs and leaves of the offers of a scene."""

    name: str
    function: Callable[..., Any]
    takes: Any
    gives: Any
    arguments: tuple[tuple[str, Any], ...]  # (parameter, type)
    needs: frozenset[str]
    leaves: frozenset[str]  # what the grid it gives offers to the steps that follow
    weight: float  # how often it is drawn, against 1 for most


PRIMITIVES: dict[str, Primitive] = {}


def primitive(*needs: str, leaves: tuple[str, ...] = (), weight: float = 1.0) -> Callable[[Function], Function]:
    """Enter a function into the table under its name."""

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
