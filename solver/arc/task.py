"""Tasks: demonstration pairs and one or more test inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from solver.arc.grid import Grid, grid_json, grid_key


@dataclass(frozen=True, eq=False)
class Pair:
    """An input grid with its output grid; the output of a test pair may be unknown (None)."""

    input: Grid
    output: Grid | None

    def key(self) -> bytes:
        """Hashable identity of both grids."""
        head = grid_key(self.input)
        return bytes([len(head) % 256, len(head) // 256]) + head + (grid_key(self.output) if self.output is not None else b"")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pair) and self.key() == other.key()

    def __hash__(self) -> int:
        return hash(self.key())


@dataclass(frozen=True)
class Task:
    """One ARC task. Every demonstration (`train`) has an output; test pairs may lack theirs."""

    id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def without_answers(self) -> Task:
        """The same task with every test output removed: what a solver may see."""
        return replace(self, test=tuple(Pair(pair.input, None) for pair in self.test))

    def query(self, index: int) -> Task:
        """The task with the single test pair `index`."""
        return replace(self, test=(self.test[index],))

    def grid_tokens(self) -> int:
        """Cells plus one separator for each row, over all known grids: the tokens of the 16-token codec without its markers."""
        grids = [g for pair in (*self.train, *self.test) for g in (pair.input, pair.output) if g is not None]
        return sum(g.size + g.shape[0] for g in grids)

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """The task in the field's JSON form, unknown test outputs left out."""
        return {"train": [_pair_json(p) for p in self.train], "test": [_pair_json(p) for p in self.test]}


def _pair_json(pair: Pair) -> dict[str, Any]:
    known = {"output": grid_json(pair.output)} if pair.output is not None else {}
    return {"input": grid_json(pair.input), **known}
