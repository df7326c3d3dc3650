"""Breadth-first search over values: what the functions make of all inputs of a task, cheapest programs first.

A node is one value for every pair of the task, demonstrations and test inputs together: a grid each, or a list of grids each. Two
programs that give the same values everywhere are one node, found by a hash over all pairs, and the cheaper program stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from solver.arc.grid import Grid
from solver.programs.batch import Batch, Ints, Lists
from solver.programs.pool import Column, GridLists, Grids, Numbers, row_keys
from solver.programs.primitive import Primitive
from solver.types import Deadline

CHUNK_CELLS = 30_000  # cells that one call of a function sees: they fit the cache, and a call is short
# A search ends when it exceeds one of these; the last call of a function may exceed them.
MAX_CELLS = 40_000_000  # of all grids, a byte each
MAX_VALUES = 150_000  # grids, and lists: a number of 4 bytes for the result of every function on each of them
MAX_NODES = 150_000
MAX_MEMBERS = 4_000_000  # of all lists


@dataclass
class Nodes:
    """Nodes of one kind: `rows` (nodes, pairs) numbers of grids or lists; how each was made."""

    pairs: int
    _flat: Column[np.int64] = field(default_factory=lambda: Column(np.int64))
    cost: Column[np.int64] = field(default_factory=lambda: Column(np.int64))
    parent: Column[np.int64] = field(default_factory=lambda: Column(np.int64))  # number of a node of the kind the function takes
    function: Column[np.int64] = field(default_factory=lambda: Column(np.int64))  # -1: the input
    known: Numbers = field(default_factory=Numbers)

    def __len__(self) -> int:
        return self.cost.length

    @property
    def rows(self) -> Ints:
        """Numbers of the values, (nodes, pairs)."""
        return self._flat.array.reshape(-1, self.pairs)

    def add(self, rows: Ints, cost: int, parent: Ints, function: int) -> None:
        """Add those rows that are new and have a value for every pair."""
        whole = np.flatnonzero((rows >= 0).all(1))
        if not len(whole):
            return
        _, new = self.known.add(row_keys(rows[whole]))
        if len(new):
            which = whole[new]
            self._flat.extend(rows[which].ravel())
            self.cost.extend(np.full(len(which), cost))
            self.parent.extend(parent[which])
            self.function.extend(np.full(len(which), function))


class Search:
    """The values that `functions` make of the inputs. `run` grows them; `nodes` may be read at any time."""

    def __init__(self, inputs: Sequence[Grid], functions: Sequence[Primitive]) -> None:
        self.functions = tuple(functions)
        self.pairs = len(inputs)
        self.grids, self.lists = Grids(), GridLists()
        self.nodes = {"grid": Nodes(self.pairs), "list": Nodes(self.pairs)}
        # of each function the number of each value's result; -1: no result, -2: not yet computed
        self._results = [Column(np.int32) for _ in self.functions]
        self._given: tuple[tuple[str, bytes], Batch | Lists | None] = (("", b""), None)
        self._leaf = np.array([*(f.leaf for f in self.functions), False])  # the last for function -1
        self._starts: dict[int, str] = {}  # names of the nodes that no function made
        self.start("input", inputs)

    def start(self, name: str, grids: Sequence[Grid]) -> None:
        """Let programs also start from these grids, one for each pair, at no cost."""
        nodes = self.nodes["grid"]
        self._starts[len(nodes)] = name
        nodes.add(self.grids.add(Batch.of(grids))[None, :], 0, np.array([-1]), -1)

    @property
    def full(self) -> bool:
        """Whether the search has as many values as it may hold."""
        nodes = len(self.nodes["grid"]) + len(self.nodes["list"])
        values = max(len(self.grids), len(self.lists))
        return self.grids.cells > MAX_CELLS or values > MAX_VALUES or nodes > MAX_NODES or self.lists.members > MAX_MEMBERS

    def run(self, max_cost: int, deadline: Deadline) -> Iterator[int]:
        """Make all programs of cost 1, 2, ... `max_cost`; gives each cost when it is done. Ends at the deadline or when full."""
        for cost in range(1, max_cost + 1):
            for _ in self._level(cost):
                if deadline.expired() or self.full:
                    return
            yield cost

    def program(self, node: int, kind: str = "grid") -> str:
        """The functions that made a node, first to last, with ">" between them."""
        names = []
        while (f := int(self.nodes[kind].function.array[node])) >= 0:
            function = self.functions[f]
            names.append(function.name)
            parent = int(self.nodes[kind].parent.array[node])
            # a function on grids that was applied to the grids of a list
            kind = "list" if kind == "list" and function.lifts else function.takes
            node = parent
        if not names or node:
            names.append(self._starts[node])
        return " > ".join(reversed(names))

    def _level(self, cost: int) -> Iterator[None]:
        for kind in ("grid", "list"):
            costs = self.nodes[kind].cost.array
            for step in sorted({f.cost for f in self.functions}, reverse=True):  # few values first
                nodes = np.flatnonzero((costs == cost - step) & ~self._leaf[self.nodes[kind].function.array[: len(costs)]])
                for chunk in self._chunks(kind, nodes):
                    for number, function in enumerate(self.functions):
                        fits = function.takes == kind or function.lifts
                        if function.cost == step and fits and (cost == step or not function.first):
                            self._apply(kind, chunk, number, cost)
                            yield

    def _chunks(self, kind: str, nodes: Ints) -> Iterator[Ints]:
        """Nodes in groups of about CHUNK_CELLS cells."""
        if not len(nodes):
            return
        rows = self.nodes[kind].rows[nodes]
        size = self.grids.height.array * self.grids.width.array
        if kind == "grid":
            cells = size[rows].sum(1)
        else:
            items, count = self.lists.items(rows.ravel())
            ends = np.cumsum(count)
            sums = np.concatenate([[0], np.cumsum(size[items])])
            cells = (sums[ends] - sums[ends - count]).reshape(rows.shape).sum(1)
        group = np.cumsum(cells) // CHUNK_CELLS
        yield from np.split(nodes, np.flatnonzero(np.diff(group)) + 1)

    def _apply(self, kind: str, nodes: Ints, number: int, cost: int) -> None:
        function = self.functions[number]
        rows = self.nodes[kind].rows[nodes]
        if kind == "list" and function.takes == "grid":
            items, count = self.lists.items(rows.ravel())
            mapped = self._results_of(number, items)
            kept = mapped >= 0
            owner = np.repeat(np.arange(len(count)), count)
            results = self.lists.add(mapped[kept], np.bincount(owner[kept], minlength=len(count)))
            gives = "list"
        else:
            results = self._results_of(number, rows.ravel())
            gives = function.gives
        self.nodes[gives].add(results.reshape(rows.shape), cost, nodes, number)

    def _results_of(self, number: int, values: Ints) -> Ints:
        """The results of a function on values (numbers of grids or lists): from memory, or computed now."""
        function, column = self.functions[number], self._results[number]
        missing = len(self.grids if function.takes == "grid" else self.lists) - column.length
        column.extend(np.full(missing, -2, np.int32))
        known = column.array
        todo = np.unique(values[known[values] == -2])
        if len(todo):
            known[todo] = self._compute(function, todo)
        return known[values].astype(np.int64)

    def _compute(self, function: Primitive, values: Ints) -> Ints:
        key = (function.takes, values.tobytes())
        if key != self._given[0]:  # the functions of a chunk mostly work on the same values, and so share what these remember
            self._given = key, self.grids.batch(values) if function.takes == "grid" else self.lists.lists(values, self.grids)
        result = function.apply(self._given[1])
        if function.gives == "grid":
            return self.grids.add(result)
        return self.lists.add(self.grids.add(result.grids), result.count)
