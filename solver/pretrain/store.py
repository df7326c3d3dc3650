"""Pairs of grids packed into a few flat arrays: a corpus of hundreds of thousands of pairs is small in memory and loads fast."""

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
    """Families of pairs. Family f has the pairs `starts[f]:starts[f + 1]`, the name `names[f]` and the source `sources[f]`."""

    cells: NDArray[np.uint8]  # (cells of all grids,)
    # (pairs, 5): offset of the input in `cells`, the output follows; rows and columns of the input, of the output
    pairs: NDArray[np.int32]
    starts: NDArray[np.int32]  # (families + 1,)
    names: tuple[str, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def pair(self, index: int) -> tuple[Grid, Grid]:
        """Input and output of pair `index`, as views of `cells`."""
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
        """(pairs,) the tokens of each pair in the grid codec."""
        rows, columns, out_rows, out_columns = self.pairs[:, 1:].T
        return (rows * (columns + 1) + out_rows * (out_columns + 1) + 2).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write a compressed .npz file without pickles."""
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
        """Read a file that `save` wrote.

        Raises OSError, ValueError, KeyError, EOFError, BadZipFile or zlib.error if it is damaged.
        """
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
    """A store of families given as (name, source, pairs). Every pair has an output."""
    cells = bytearray()  # one buffer: an array for each of millions of small grids would take far more memory
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
