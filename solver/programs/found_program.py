"""A program that was found on the demonstrations, and its answers to the test inputs: a candidate for all queries of a task."""

from __future__ import annotations

from dataclasses import dataclass

from solver.arc.grid import Grid


@dataclass(frozen=True, eq=False)
class FoundProgram:
    """A program and the grids that it gives for the test inputs."""

    grids: tuple[Grid, ...]  # in the order of the test inputs
    program: str  # readable: the functions, first to last
    cost: float  # lower is simpler
    right: float  # share of the demonstrations that the program reproduces

    @property
    def exact(self) -> bool:
        """Whether the program reproduces every demonstration."""
        return self.right >= 1
