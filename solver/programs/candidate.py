"""A candidate: what a program, found on the demonstrations, answers to the test inputs."""

from __future__ import annotations

from dataclasses import dataclass

from solver.arc.grid import Grid


@dataclass(frozen=True, eq=False)
class Candidate:
    """Grids for the test inputs in their order."""

    grids: tuple[Grid, ...]
    program: str
    cost: float
    right: float  # share of the demonstrations that the program reproduces

    @property
    def exact(self) -> bool:
        """Whether the program reproduces every demonstration."""
        return self.right >= 1
