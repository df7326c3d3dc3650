"""Training sequences without end: a few pairs of one family under a random view, in batches of equal cost.

Block b is a pure function of (seed, b), so a training run resumes at its exact data position from two integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, Transform, random_colours, transform_grid
from solver.codec import Codec
from solver.pretrain.store import PairStore
from solver.types import TokenSequence


@dataclass(frozen=True)
class SamplerSettings:
    """What sequences look like. Shares are probabilities."""

    batch_tokens: int = 4096  # padded tokens a batch
    block_batches: int = 16  # batches drawn together and cut by length
    max_tokens: int = 1024  # tokens a sequence
    min_pairs: int = 2
    max_pairs: int = 6
    permute_all: float = 0.3  # colours permuted with the background; else 0 stays 0
    output_transform: float = 0.1  # outputs alone are turned: a family nobody has seen


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded sequences; weights are 0 on padding."""

    ids: NDArray[np.int64]  # (sequences, tokens)
    weights: NDArray[np.float32]  # (sequences, tokens)
    tokens: int  # unpadded


class Sampler:
    """Draws blocks of batches from a store, sources in proportion to `mixture`."""

    def __init__(self, store: PairStore, mixture: Mapping[str, float], codec: Codec, settings: SamplerSettings, seed: int):
        self._store, self._codec, self._settings, self._seed = store, codec, settings, seed
        self._cost = store.tokens()
        self._families: list[NDArray[np.int64]] = []
        weights = []
        for source in sorted(set(store.sources)):
            usable = [f for f in range(len(store)) if store.sources[f] == source and self._usable(f)]
            if usable and mixture.get(source, 1.0) > 0:
                self._families.append(np.array(usable))
                weights.append(mixture.get(source, 1.0))
        if not weights:
            raise ValueError("no family of the corpora has two pairs that fit a sequence")
        self._weights = np.array(weights) / sum(weights)

    def batches(self, block: int, batch: int) -> Iterator[tuple[int, int, Batch]]:
        """Batches from position (block, batch) on, each with the position that follows it."""
        while True:
            made = self.block(block)
            for place in range(batch, len(made)):
                last = place + 1 == len(made)
                yield (block + 1, 0, made[place]) if last else (block, place + 1, made[place])
            block, batch = block + 1, 0

    def sequence(self, rng: np.random.Generator) -> TokenSequence:
        """One training sequence."""
        settings = self._settings
        families = self._families[int(rng.choice(len(self._weights), p=self._weights))]
        pool = self._store.family(int(families[rng.integers(len(families))]))
        wanted = int(rng.integers(settings.min_pairs, settings.max_pairs + 1))
        chosen: list[int] = []
        room = settings.max_tokens - len(self._codec.begin)
        # more draws than wanted: in a family of mixed sizes small pairs are to be found
        for index in rng.permutation(len(pool))[: 3 * wanted]:
            cost = int(self._cost[pool[int(index)]])
            if cost <= room and len(chosen) < wanted:
                chosen.append(pool[int(index)])
                room -= cost
        if len(chosen) < settings.min_pairs:
            return self.sequence(rng)
        return self._write(chosen, rng)

    def _write(self, chosen: list[int], rng: np.random.Generator) -> TokenSequence:
        settings = self._settings
        colours = np.array(
            random_colours(rng, "permute" if rng.random() < settings.permute_all else "permute_nonzero"), dtype=np.uint8
        )
        transform: Transform = TRANSFORMS[int(rng.integers(8))]
        turned: Transform = TRANSFORMS[int(rng.integers(8))] if rng.random() < settings.output_transform else "identity"
        pairs = []
        for index in chosen:
            shown, output = self._store.pair(index)
            output = transform_grid(transform_grid(output, turned), transform)
            pairs.append(Pair(colours[transform_grid(shown, transform)], colours[output]))
        return self._codec.sequence(Task("", tuple(pairs[:-1]), (pairs[-1],)), settings.max_tokens)

    def _usable(self, family: int) -> bool:
        cost = np.sort(self._cost[self._store.family(family)])
        return len(cost) >= self._settings.min_pairs and int(cost[: self._settings.min_pairs].sum()) < self._settings.max_tokens

    def block(self, block: int) -> list[Batch]:
        """The batches drawn together as number `block`, a function of it and the seed alone."""
        rng = np.random.default_rng([self._seed, block])
        room = self._settings.batch_tokens * self._settings.block_batches
        sequences: list[TokenSequence] = []
        while room > 0:
            sequences.append(self.sequence(rng))
            room -= len(sequences[-1])
        sequences.sort(key=len)
        batches: list[Batch] = []
        group: list[TokenSequence] = []
        for sequence in sequences:
            if group and len(sequence) * (len(group) + 1) > self._settings.batch_tokens:
                batches.append(_pad(group, self._codec.pad))
                group = []
            group.append(sequence)
        batches.append(_pad(group, self._codec.pad))
        return [batches[int(i)] for i in rng.permutation(len(batches))]


def _pad(sequences: list[TokenSequence], pad: int) -> Batch:
    width = max(map(len, sequences))
    ids = np.full((len(sequences), width), pad, dtype=np.int64)
    weights = np.zeros((len(sequences), width), dtype=np.float32)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        weights[row, : len(sequence)] = sequence.weights
    return Batch(ids, weights, sum(map(len, sequences)))
