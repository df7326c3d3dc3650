"""The shapes of static batches, rounded up to a few sizes, so that the passes that were captured for one serve many batches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple, dataclass

COLUMN_BLOCK = 64  # columns of keys and values; kernels of attention want multiples of 8
LANE_COST = 1.0  # of one more lane, in slots: its adapter's weights have to be read, too; assumed


@dataclass(frozen=True)
class BatchShape:
    """The size of a static batch.

    A slot is for one prompt, with `width` rows that continue it. A lane is `lane_slots` neighbouring slots, whose rows use the
    same adapter. So rows are sorted by adapter, and products with all adapters are one batched product over lanes.
    """

    lanes: int
    lane_slots: int  # slots in a lane
    width: int  # rows in a slot
    columns: int  # keys and values of a slot: its prompt, and every new token of every row
    tokens: int  # new tokens of a row, at most
    completions: int  # finished completions of a slot, at most

    @property
    def slots(self) -> int:
        """The number of slots of all lanes."""
        return self.lanes * self.lane_slots

    @property
    def rows(self) -> int:
        """The number of rows of all slots."""
        return self.slots * self.width

    @property
    def positions(self) -> int:
        """The number of key/value positions (per layer)."""
        return self.slots * self.columns

    def covers(self, other: BatchShape) -> bool:
        """Whether a batch of this shape can take the place of one of the shape `other`."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return self.width == other.width and all(mine >= theirs for mine, theirs in pairs)


def rounded(count: int) -> int:
    """The smallest of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... that is at least `count`: four sizes an octave."""
    step = 1 << max(0, count.bit_length() - 3)
    return max(1, -(-count // step) * step)


def rounded_columns(count: int) -> int:
    """The same in blocks of COLUMN_BLOCK columns."""
    return COLUMN_BLOCK * rounded(-(-count // COLUMN_BLOCK))


def choose_lanes(counts: Collection[int], max_slots: int) -> tuple[int, int]:
    """(lanes, slots in a lane) for adapters with `counts` prompts each, with at most `max_slots` slots.

    An adapter may have several lanes. The fewest slots for all prompts are best, and each lane counts LANE_COST slots more. If
    not all prompts fit, lanes are reused.
    """
    most, fewest = max(counts), max(1, max_slots)
    sizes = {rounded(size) for size in range(1, most + 1) if rounded(size) <= fewest}

    def lanes(size: int) -> int:
        needed = rounded(sum(-(-count // size) for count in counts))
        return min(needed, max(1, fewest // size))

    def cost(size: int) -> tuple[float, int]:
        rounds = sum(-(-count // size) for count in counts) / lanes(size)
        return max(1.0, rounds) * lanes(size) * (size + LANE_COST), lanes(size)

    best = min(sorted(sizes), key=cost)
    return lanes(best), best
