"""Token sequences -> batches: which sequences make an optimizer step, and their right-padded tensors.

Sequences are padded on the right, and there is no attention mask: under causal attention no token sees what comes after it.
So padding does not change the states of real tokens, and attention can use its fast causal kernel. Every row holds one
sequence, so sequences do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from solver.types import TokenSequence


@dataclass(frozen=True, eq=False)
class BatchRow:
    """One sequence of an optimizer batch: the slot (the adapter) that it trains, and what its loss is divided by."""

    slot: int
    sequence: TokenSequence
    normaliser: float  # sum of the loss weights over the slot's whole optimizer batch

    @property
    def length(self) -> int:
        """Tokens that have to be read. Tokens from the last weighted one on are only predicted, or not needed at all."""
        weighted = np.flatnonzero(self.sequence.weights)
        return int(weighted[-1]) if len(weighted) else 0


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The tensors of one forward pass over (rows, tokens). A prediction is a position whose next token has a loss weight."""

    ids: Tensor  # (rows, tokens) int64, right-padded
    slots: Tensor  # (rows,) int64
    places: Tensor  # (predictions,) int64: indices into the flattened rows * tokens
    targets: Tensor  # (predictions,) int64
    weights: Tensor  # (predictions,) float32, already divided by the normaliser
    owners: Tensor  # (predictions,) int64: the slot of each prediction

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        return MicroBatch(*(getattr(self, name).to(device, non_blocking=True) for name in MicroBatch.__dataclass_fields__))


def optimizer_batches(lengths: Sequence[int], steps: int, size: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Yield `steps` batches of `size` sequence indices. The sequences are taken in order, again and again.

    Within each round over them, sequences of similar length share a batch, and the order of the batches is drawn from `seed`.
    """
    rng = np.random.default_rng(seed)
    count = len(lengths)
    round_batches = -(-count // size)
    for first in range(0, steps, round_batches):
        batches = min(round_batches, steps - first)
        stream = (first * size + np.arange(batches * size)) % count
        stream = rng.permutation(stream)
        by_length = stream[np.argsort(np.asarray(lengths)[stream], kind="stable")].reshape(batches, size)
        for i in rng.permutation(batches):
            yield tuple(int(index) for index in by_length[i])


def micro_batches(rows: Sequence[BatchRow], tokens: int) -> list[list[BatchRow]]:
    """Group rows of similar length. A group has at most `tokens` tokens, padding included, or is one row that has more."""
    groups: list[list[BatchRow]] = []
    for row in sorted(rows, key=lambda row: -row.length):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].length <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def padded_tokens(rows: Sequence[BatchRow], tokens: int) -> int:
    """Tokens, padding included, in all micro-batches of `rows`."""
    return sum(len(group) * group[0].length for group in micro_batches(rows, tokens))


def collate(rows: Sequence[BatchRow], pad: int) -> MicroBatch:
    """The tensors of one micro-batch, on the CPU. A row without weighted tokens adds no predictions."""
    width = max(1, *(row.length for row in rows)) if len(rows) > 1 else max(1, rows[0].length)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    places, targets, weights, owners = [], [], [], []
    for r, row in enumerate(rows):
        sequence = row.sequence
        ids[r, : row.length] = sequence.ids[: row.length]
        at = np.flatnonzero(sequence.weights[1:])  # the state of token `at` predicts token `at + 1`
        places.append(r * width + at)
        targets.append(sequence.ids[at + 1].astype(np.int64))
        weights.append((sequence.weights[at + 1] / row.normaliser).astype(np.float32))
        owners.append(np.full(len(at), row.slot))
    joined = (np.concatenate(part) for part in (places, targets, weights, owners))
    slots = np.array([row.slot for row in rows])
    return MicroBatch(torch.from_numpy(ids), torch.from_numpy(slots), *map(torch.from_numpy, joined))
