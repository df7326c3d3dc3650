"""Token sequences -> batches: which sequences make an optimizer step, and their right-padded tensors.

Padding goes right and there is no attention mask: under causal attention no token sees what comes after it, so padding
changes nothing before it, and attention keeps its fast causal kernel. Every row holds one sequence, so none sees another.
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
    """One sequence of an optimizer batch: whose it is, and what its loss is divided by."""

    slot: int
    sequence: TokenSequence
    normaliser: float  # sum of the loss weights over the slot's whole optimizer batch

    @property
    def length(self) -> int:
        """Tokens that have to be read: nothing after the last weighted token bears on the loss."""
        weighted = np.flatnonzero(self.sequence.weights)
        return int(weighted[-1]) if len(weighted) else 0


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The tensors of one forward pass over (rows, tokens)."""

    ids: Tensor  # (rows, tokens) int64, right-padded
    slots: Tensor  # (rows,) int64
    places: Tensor  # (predictions,) int64: where in rows * tokens a weighted prediction is made
    targets: Tensor  # (predictions,) int64
    weights: Tensor  # (predictions,) float32, already divided by the normaliser
    owners: Tensor  # (predictions,) int64: the slot of each prediction

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        return MicroBatch(*(getattr(self, name).to(device, non_blocking=True) for name in MicroBatch.__dataclass_fields__))


def optimizer_batches(lengths: Sequence[int], steps: int, size: int, seed: int) -> Iterator[tuple[int, ...]]:
    """`steps` batches of `size` sequence indices, sequences taken in order and round again.

    Within each round, sequences of like length share a batch and the batches come in an order drawn from `seed`.
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
    """The rows in groups of like length that hold at most `tokens` padded tokens each, or one row."""
    groups: list[list[BatchRow]] = []
    for row in sorted(rows, key=lambda row: -row.length):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].length <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def padded_tokens(rows: Sequence[BatchRow], tokens: int) -> int:
    """Tokens, padding included, that the micro-batches of `rows` read."""
    return sum(len(group) * group[0].length for group in micro_batches(rows, tokens))


def collate(rows: Sequence[BatchRow], pad: int) -> MicroBatch:
    """The tensors of one micro-batch, on the CPU. Rows without a weighted token add nothing."""
    width = max(1, *(row.length for row in rows)) if len(rows) > 1 else max(1, rows[0].length)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    places, targets, weights, owners = [], [], [], []
    for r, row in enumerate(rows):
        sequence = row.sequence
        ids[r, : row.length] = sequence.ids[: row.length]
        at = np.flatnonzero(sequence.weights[1:])  # predicting token at + 1 happens at `at`
        places.append(r * width + at)
        targets.append(sequence.ids[at + 1].astype(np.int64))
        weights.append((sequence.weights[at + 1] / row.normaliser).astype(np.float32))
        owners.append(np.full(len(at), row.slot))
    joined = (np.concatenate(part) for part in (places, targets, weights, owners))
    slots = np.array([row.slot for row in rows])
    return MicroBatch(torch.from_numpy(ids), torch.from_numpy(slots), *map(torch.from_numpy, joined))
