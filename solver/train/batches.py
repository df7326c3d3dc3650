"""Token sequences -> batches: which sequences make an optimizer step, and their right-padded tensors.

Sequences are padded on the right, and there is no attention mask: under causal attention no token sees what comes after it.
So padding does not change the states of real tokens, and attention can use its fast causal kernel. Every row holds one
sequence, so sequences do not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solver.types import TokenSequence


@dataclass(frozen=True, eq=False)
class BatchRow:
    """One sequence of an optimizer batch: the slot (the adapter) that it trains, and what its loss is divided by."""

    slot: int
    sequence: TokenSequence
    normaliser: float  # sum of the loss weights over the slot's whole optimizer batch
    value_normaliser: float = 1.0  # number of value targets in it

    @property
    def length(self) -> int:
        """Tokens that have to be read."""
        return tokens_to_read(self.sequence)


def tokens_to_read(sequence: TokenSequence) -> int:
    """Tokens of a sequence that have to be read: up to the last one whose value, or whose next token, counts in the loss."""
    weighted, valued = np.flatnonzero(sequence.weights), value_places(sequence)
    return max(int(weighted[-1]) if len(weighted) else 0, int(valued[-1]) + 1 if len(valued) else 0)


def value_places(sequence: TokenSequence) -> NDArray[np.int64]:
    """The tokens of a sequence that have a value target, in order."""
    if sequence.values is None:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(~np.isnan(sequence.values))


@dataclass(frozen=True, eq=False)
class ValueTargets:
    """The value targets of one forward pass, as tensors (values,)."""

    places: Tensor  # int64: indices into the flattened rows * tokens
    values: Tensor  # float32
    weights: Tensor  # float32: 1 / normaliser
    owners: Tensor  # int64: the slot of each

    def to(self, device: torch.device) -> ValueTargets:
        """The same targets on a device."""
        return ValueTargets(*(to_device(getattr(self, field.name), device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The tensors of one forward pass over (rows, tokens). A prediction is a position whose next token has a loss weight."""

    ids: Tensor  # (rows, tokens) int64, right-padded
    places: Tensor  # (predictions,) int64: indices into the flattened rows * tokens
    targets: Tensor  # (predictions,) int64
    weights: Tensor  # (predictions,) float32, already divided by the normaliser
    owners: Tensor  # (predictions,) int64: the slot of each prediction
    values: ValueTargets | None = None  # None: no row has any

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        tensors = {f.name: to_device(getattr(self, f.name), device) for f in fields(self) if f.name != "values"}
        return MicroBatch(**tensors, values=None if self.values is None else self.values.to(device))


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
    tensors = map(torch.from_numpy, (ids, *joined))
    return MicroBatch(*tensors, values=_collate_values(rows, width))  # type: ignore[misc, arg-type]


def _collate_values(rows: Sequence[BatchRow], width: int) -> ValueTargets | None:
    """The value targets of rows that are padded to `width` tokens."""
    places, values, weights, owners = [], [], [], []
    for r, row in enumerate(rows):
        at = value_places(row.sequence)
        if row.sequence.values is None or not len(at):
            continue
        places.append(r * width + at)
        values.append(row.sequence.values[at].astype(np.float32))
        weights.append(np.full(len(at), 1 / row.value_normaliser, np.float32))
        owners.append(np.full(len(at), row.slot))
    if not places:
        return None
    return ValueTargets(*(torch.from_numpy(np.concatenate(part)) for part in (places, values, weights, owners)))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`. It goes to a CUDA device through pinned memory, and the host does not wait for it."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
