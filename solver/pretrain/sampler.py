"""The training data: sequences of a few pairs of one family under a random view, in batches of about equal size.

Batches are drawn in blocks. A block is a pure function of the seed and its number, so two integers (block, batch) are enough for
a training to resume at its exact position in the data. Any change in the order of random draws breaks that for old checkpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from solver.arc.task import Pair, Task
from solver.arc.view import TRANSFORMS, Transform, random_colours, transform_grid
from solver.codec import Codec
from solver.errors import InputError
from solver.pretrain.store import PairStore
from solver.types import TokenSequence

Side = Literal["both", "input", "output"]

MAX_DRAWS = 10_000  # of a family with its pairs, for one sequence


@dataclass(frozen=True)
class SamplerSettings:
    """Sizes of batches and sequences, and how the pairs of a sequence are changed.

    A view (a dihedral transform and a colour permutation) is drawn for each sequence and applied to all of its pairs. Applied to
    `both` inputs and outputs it shows the same family differently. Applied to the `input` or the `output` alone it makes another
    family, whose rule is the old rule with the view before or after it. Akyurek et al. 2024 (arXiv 2411.07279) use all three for
    the fine-tuning before test-time training.
    """

    batch_tokens: int = 4096  # padded tokens of a batch, at most
    block_batches: int = 16  # batches of a block: its sequences are sorted by length, then cut into batches
    max_tokens: int = 1024  # tokens of a sequence, at most
    min_pairs: int = 2
    max_pairs: int = 6
    permute_all: float = 0.3  # probability that the colour permutation includes 0, the ground
    output_transform: float = 0.1  # probability of another dihedral transform of the outputs alone, which makes a new family
    sides: tuple[Side, ...] = ("both",)  # what the view changes; one is drawn evenly for each sequence


def parse_sides(text: str) -> tuple[Side, ...]:
    """The sides in a comma-separated list. Raises InputError for an unknown one."""
    for name in text.split(","):
        if name not in get_args(Side):
            raise InputError(f"unknown side {name!r} of transforms; there are: {', '.join(get_args(Side))}")
    return cast(tuple[Side, ...], tuple(text.split(",")))


def parse_mixture(text: str, usual: Mapping[str, float]) -> dict[str, float]:
    """The shares in a list like `rearc=0.5,procedural=0`; sources that it leaves out keep their usual shares.

    Raises InputError for any other text, and if all shares are 0.
    """
    shares = dict(usual)
    for part in text.split(","):
        source, _, number = map(str.strip, part.partition("="))
        try:
            shares[source] = float(number)
        except ValueError:
            raise InputError(f"--mixture: {part.strip()!r} is not SOURCE=SHARE") from None
        if not source or not 0 <= shares[source] < float("inf"):
            raise InputError(f"--mixture: {part.strip()!r} is not SOURCE=SHARE with a share of 0 or more")
    if not any(shares.values()):
        raise InputError("--mixture: all shares are 0")
    return shares


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded sequences; weights are 0 on padding."""

    ids: NDArray[np.int64]  # (sequences, tokens)
    weights: NDArray[np.float32]  # (sequences, tokens)
    tokens: int  # without padding
    by_source: Mapping[str, int] = field(default_factory=dict)  # the same, for each source


class Drawn(NamedTuple):
    """A training sequence and the name of its source."""

    source: str
    sequence: TokenSequence


class EndlessSource(Protocol):
    """A source that makes families as needed."""

    def pairs(self, rng: np.random.Generator, count: int) -> list[Pair]:
        """Up to `count` pairs of one family. They depend on the state of `rng` alone."""
        ...


class BatchSource(Protocol):
    """Endless batches in blocks."""

    @property
    def sources(self) -> Sequence[str]:
        """The names that `Batch.by_source` may have."""
        ...

    def block(self, block: int) -> list[Batch]:
        """The batches of a block, which depend on its number alone."""
        ...

    def batches(self, block: int, batch: int) -> Iterator[tuple[int, int, Batch]]:
        """All batches from a position on, each with the position after it."""
        ...


class Sampler:
    """Draws blocks of batches from the sources of a store and from endless sources, each by its share in `mixture`.

    A source that `mixture` does not name has the share 1.
    """

    def __init__(
        self,
        store: PairStore,
        mixture: Mapping[str, float],
        codec: Codec,
        settings: SamplerSettings,
        seed: int,
        endless: Mapping[str, EndlessSource] | None = None,
    ):
        """Raises InputError if no family has enough short pairs for a sequence."""
        self._store, self._codec, self._settings, self._seed = store, codec, settings, seed
        self._markers = len(codec.input_marker) + len(codec.output_marker)
        # the store counts tokens of the grid codec, in which the two markers and the end are one token each
        self._cost = store.tokens() + self._markers - 2 + len(codec.closing) - 1
        sources: dict[str, NDArray[np.int64] | EndlessSource] = {}  # of a store: the usable families
        for source in set(store.sources):
            usable = [f for f in range(len(store)) if store.sources[f] == source and self._usable(f)]
            if usable:
                sources[source] = np.array(usable)
        sources |= endless or {}
        drawn = [source for source in sorted(sources) if mixture.get(source, 1.0) > 0]
        if not drawn:
            raise InputError(
                f"no family of the corpora has {settings.min_pairs} pairs that fit a sequence of {settings.max_tokens} tokens"
            )
        self._sources = [(source, sources[source]) for source in drawn]
        weights = np.array([mixture.get(source, 1.0) for source in drawn])
        self._weights = weights / weights.sum()

    @property
    def sources(self) -> list[str]:
        """The names of the sources with a share, in alphabetical order."""
        return [name for name, _ in self._sources]

    def batches(self, block: int, batch: int) -> Iterator[tuple[int, int, Batch]]:
        """The batches from position (block, batch) on, each with the position after it: (next block, next batch, batch)."""
        while True:
            made = self.block(block)
            for place in range(batch, len(made)):
                last = place + 1 == len(made)
                yield (block + 1, 0, made[place]) if last else (block, place + 1, made[place])
            block, batch = block + 1, 0

    def draw(self, rng: np.random.Generator) -> Drawn:
        """A random training sequence. Raises InputError if MAX_DRAWS draws give none that fits."""
        for _ in range(MAX_DRAWS):
            drawn = self._try_draw(rng)
            if drawn is not None:
                return drawn
        raise InputError(
            f"{', '.join(self.sources)}: in {MAX_DRAWS:,} draws no family had {self._settings.min_pairs} pairs that fit a "
            f"sequence of {self._settings.max_tokens} tokens"
        )

    def _try_draw(self, rng: np.random.Generator) -> Drawn | None:
        """A sequence of a random family; None if too few of its drawn pairs fit."""
        settings = self._settings
        name, source = self._sources[int(rng.choice(len(self._weights), p=self._weights))]
        pool = self._store.family(int(source[rng.integers(len(source))])) if isinstance(source, np.ndarray) else source
        wanted = int(rng.integers(settings.min_pairs, settings.max_pairs + 1))
        chosen: list[Pair] = []
        room = settings.max_tokens - len(self._codec.begin)
        # three times as many as wanted: in a family of mixed sizes some of them may be short enough
        offered = self._stored(pool, rng, 3 * wanted) if isinstance(pool, range) else pool.pairs(rng, wanted)
        for pair in offered:
            assert pair.output is not None
            cost = self._codec.answer_tokens(pair.input) + self._codec.answer_tokens(pair.output) + self._markers
            if cost <= room and len(chosen) < wanted:
                chosen.append(pair)
                room -= cost
        if len(chosen) < settings.min_pairs:
            return None
        return Drawn(name, self._write(chosen, rng))

    def _stored(self, pool: range, rng: np.random.Generator, count: int) -> Iterable[Pair]:
        """Up to `count` random pairs of a stored family."""
        return (Pair(*self._store.pair(pool[int(index)])) for index in rng.permutation(len(pool))[:count])

    def _write(self, chosen: list[Pair], rng: np.random.Generator) -> TokenSequence:
        """The sequence of pairs under a random view; the last pair is the query."""
        settings = self._settings
        colours = np.array(
            random_colours(rng, "permute" if rng.random() < settings.permute_all else "permute_nonzero"), dtype=np.uint8
        )
        transform: Transform = TRANSFORMS[int(rng.integers(8))]
        turned: Transform = TRANSFORMS[int(rng.integers(8))] if rng.random() < settings.output_transform else "identity"
        sides = settings.sides
        side = sides[int(rng.integers(len(sides)))] if len(sides) > 1 else sides[0]
        pairs = []
        for pair in chosen:
            assert pair.output is not None
            shown, output = pair.input, transform_grid(pair.output, turned)
            if side != "output":
                shown = colours[transform_grid(shown, transform)]
            if side != "input":
                output = colours[transform_grid(output, transform)]
            pairs.append(Pair(shown, output))
        return self._codec.sequence(Task("", tuple(pairs[:-1]), (pairs[-1],)), settings.max_tokens)

    def _usable(self, family: int) -> bool:
        """Whether the shortest `min_pairs` pairs of a stored family fit a sequence."""
        cost = np.sort(self._cost[self._store.family(family)])
        return len(cost) >= self._settings.min_pairs and int(cost[: self._settings.min_pairs].sum()) < self._settings.max_tokens

    def block(self, block: int) -> list[Batch]:
        """The batches of a block, in random order. They depend on the seed and the number of the block alone."""
        rng = np.random.default_rng([self._seed, block])
        room = self._settings.batch_tokens * self._settings.block_batches
        drawn: list[Drawn] = []
        while room > 0:
            drawn.append(self.draw(rng))
            room -= len(drawn[-1].sequence)
        batches = batches_by_length(drawn, self._settings.batch_tokens, self._codec.pad)
        return [batches[int(i)] for i in rng.permutation(len(batches))]


def batches_by_length(drawn: Iterable[Drawn], batch_tokens: int, pad: int) -> list[Batch]:
    """Batches of sequences of similar length, each of at most `batch_tokens` tokens, padding included, or of one sequence."""
    groups: list[list[Drawn]] = []
    for one in sorted(drawn, key=lambda one: len(one.sequence)):
        if not groups or len(one.sequence) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(one)
    return [_pad(group, pad) for group in groups]


def _pad(group: list[Drawn], pad: int) -> Batch:
    """A batch of sequences, padded on the right to the longest of them."""
    sequences = [one.sequence for one in group]
    width = max(map(len, sequences))
    ids = np.full((len(sequences), width), pad, dtype=np.int64)
    weights = np.zeros((len(sequences), width), dtype=np.float32)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        weights[row, : len(sequence)] = sequence.weights
    tokens: Counter[str] = Counter()
    for one in group:
        tokens[one.source] += len(one.sequence)
    return Batch(ids, weights, tokens.total(), dict(tokens))
