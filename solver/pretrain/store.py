"""Pairs of grids, packed: hundreds of thousands of pairs as one flat array of cells, so that a corpus loads in a blink."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solver.arc.grid import Grid
from solver.arc.task import Pair


@dataclass(frozen=True, eq=False)
class PairStore:
    """Families of pairs. Family f holds the pairs `starts[f]:starts[f+1]`; sources name the corpus of each family."""

    cells: NDArray[np.uint8]  # (all cells,)
    pairs: NDArray[np.int32]  # (pairs, 5): offset of the input (the output follows), rows, columns, output rows, columns
    starts: NDArray[np.int32]  # (families + 1,)
    names: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def pair(self, index: int) -> tuple[Grid, Grid]:
        """Input and output of pair `index`, without copying."""
        at, rows, columns, out_rows, out_columns = (int(v) for v in self.pairs[index])
        middle = at + rows * columns
        return (
            self.cells[at:middle].reshape(rows, columns),
            self.cells[middle : middle + out_rows * out_columns].reshape(out_rows, out_columns),
        )

    def family(self, index: int) -> range:
        """The pair indices of a family."""
        return range(int(self.starts[index]), int(self.starts[index + 1]))

    def tokens(self) -> NDArray[np.int32]:
        """(pairs,) tokens each pair takes in the grid codec."""
        rows, columns, out_rows, out_columns = self.pairs[:, 1:].T
        return (rows * (columns + 1) + out_rows * (out_columns + 1) + 2).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write a compressed .npz (no pickles)."""
        np.savez_compressed(
            path,
            cells=self.cells,
            pairs=self.pairs,
            starts=self.starts,
            names=np.array(self.names),
            sources=np.array(self.sources),
        )

    @staticmethod
    def load(path: Path) -> PairStore:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return PairStore(
                data["cells"], data["pairs"], data["starts"], tuple(map(str, data["names"])), tuple(map(str, data["sources"]))
            )

    def select(self, keep: Sequence[bool]) -> PairStore:
        """The families for which `keep` is true."""
        return pack((self.names[f], self.sources[f], self._pairs_of(f)) for f in range(len(self)) if keep[f])

    def _pairs_of(self, family: int) -> list[Pair]:
        return [Pair(*self.pair(i)) for i in self.family(family)]


def pack(families: Iterable[tuple[str, str, Sequence[Pair]]]) -> PairStore:
    """A store of (name, source, pairs) families; every pair has an output."""
    cells = bytearray()  # millions of pairs: arrays of their own would take ten times their cells
    index = array("i")
    starts = [0]
    names: list[str] = []
    sources: list[str] = []
    for name, source, pairs in families:
        for pair in pairs:
            assert pair.output is not None
            index.extend((len(cells), *pair.input.shape, *pair.output.shape))
            cells += pair.input.tobytes() + pair.output.tobytes()
        starts.append(len(index) // 5)
        names.append(name)
        sources.append(source)
    table = np.array(index, dtype=np.int32).reshape(-1, 5)
    return PairStore(np.frombuffer(cells, np.uint8), table, np.array(starts, dtype=np.int32), tuple(names), tuple(sources))
