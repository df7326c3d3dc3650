"""Batches for many tasks in one step: the sequences of a task lie together, in tensors of few shapes.

A pass holds (tasks, rows, width) tokens. All its tasks have as many rows, so layers can apply the adapter of each task to all
tokens of that task by one batched product. Widths come from a ladder (`width_of`), so that few shapes occur in a run. Sequences
are right-padded without an attention mask, as in `train.batches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from solver.train.batches import MicroBatch, to_device, tokens_to_read
from solver.types import TokenSequence

MIN_WIDTH = 32  # tokens
PADDING_SHARE = 1 / 16  # of the tokens of a full pass: padding that a pass may have for saving another pass


@dataclass(frozen=True, eq=False)
class PackedSequence:
    """A training sequence as rows of a batch hold it."""

    columns: np.ndarray  # (3, tokens) int32: ids, the tokens that follow them, and the loss weights of those as bits of float32
    weight: float  # the sum of the loss weights

    @classmethod
    def of(cls, sequence: TokenSequence) -> Self:
        """Pack a sequence."""
        read = tokens_to_read(sequence)
        ids = sequence.ids.astype(np.int32)
        weights = sequence.weights[1 : read + 1].astype(np.float32).view(np.int32)
        return cls(np.stack([ids[:read], ids[1 : read + 1], weights]), float(sequence.weights.sum(dtype="float64")))

    @property
    def read(self) -> int:
        """Tokens that have to be read."""
        return self.columns.shape[1]


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """What one task brings to an optimizer step."""

    slot: int
    sequences: tuple[PackedSequence, ...]
    normaliser: float  # that the sum of the weighted losses is divided by

    @classmethod
    def of(cls, slot: int, sequences: Sequence[PackedSequence]) -> Self:
        """The batch of a task; its loss is the mean over the weights of all its sequences."""
        return cls(slot, tuple(sequences), sum(sequence.weight for sequence in sequences) or 1.0)

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        return width_of(max(sequence.read for sequence in self.sequences))


@dataclass(frozen=True, eq=False)
class TaskPass:
    """The tasks of one forward and backward pass. All have as many rows."""

    batches: tuple[TaskBatch, ...]
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(tasks, rows, width)."""
        return len(self.batches), len(self.batches[0].sequences), self.width

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return int(np.prod(self.shape))


def width_of(tokens: int) -> int:
    """The smallest width of the ladder that holds so many tokens: 4, 5, 6 or 7 times a power of two, at least `MIN_WIDTH`.

    So at most a fifth of a row that fills its width is padding, and there are four widths from a length to its double.
    """
    if tokens <= MIN_WIDTH:
        return MIN_WIDTH
    unit = 1 << ((tokens - 1).bit_length() - 3)
    return -(-tokens // unit) * unit


def task_passes(batches: Sequence[TaskBatch], tokens: int) -> list[TaskPass]:
    """Distribute tasks over passes of at most `tokens` tokens, padding included, or of one row that has more.

    Tasks of similar width share a pass. A narrower task joins a pass as long as the padding in it stays below `PADDING_SHARE`
    of a full pass. A task that is too large for one pass gets several, each with some of its rows.
    """
    passes: list[TaskPass] = []
    group: list[TaskBatch] = []
    padding = 0

    def close() -> None:
        if group:
            passes.append(TaskPass(tuple(group), group[0].width))
            group.clear()

    for batch in sorted(batches, key=lambda batch: (-batch.width, -len(batch.sequences), batch.slot)):
        rows = len(batch.sequences)
        if rows * batch.width > tokens:
            passes.extend(_split(batch, tokens))
            continue
        if group:
            padding += rows * (group[0].width - batch.width)
            full = (len(group) + 1) * rows * group[0].width > tokens
            if full or padding > PADDING_SHARE * tokens or rows != len(group[0].sequences):
                close()
        if not group:
            padding = 0
        group.append(batch)
    close()
    return passes


def _split(batch: TaskBatch, tokens: int) -> list[TaskPass]:
    """Passes with some rows of a task each, rows of similar length together."""
    left = sorted(batch.sequences, key=lambda sequence: -sequence.read)
    passes = []
    while left:
        width = width_of(left[0].read)
        rows = max(1, tokens // width)
        part = TaskBatch(batch.slot, tuple(left[:rows]), batch.normaliser)
        passes.append(TaskPass((part,), width))
        left = left[rows:]
    return passes


@dataclass(frozen=True, eq=False)
class PassTensors:
    """The tensors of a pass."""

    columns: Tensor  # (3, tasks, rows, width) int32, see `PackedSequence`
    slots: Tensor  # (tasks,) int64
    share: Tensor  # (tasks,) float32: what the sum of the weighted losses of a task is multiplied by

    @classmethod
    def of(cls, one: TaskPass, pad: int) -> Self:
        """The tensors of a pass, on the CPU."""
        columns = np.zeros((3, *one.shape), dtype=np.int32)
        columns[:2] = pad
        for task, batch in enumerate(one.batches):
            for row, sequence in enumerate(batch.sequences):
                columns[:, task, row, : sequence.read] = sequence.columns
        slots = np.array([batch.slot for batch in one.batches])
        share = np.array([1.0 / batch.normaliser for batch in one.batches], dtype=np.float32)
        return cls(torch.from_numpy(columns), torch.from_numpy(slots), torch.from_numpy(share))

    @classmethod
    def example(cls, shape: tuple[int, int, int], pad: int) -> Self:
        """A pass of this shape that holds nothing but padding, for the task in slot 0. Its losses and gradients are 0."""
        columns = torch.zeros(3, *shape, dtype=torch.int32)
        columns[:2] = pad
        return cls(columns, torch.zeros(shape[0], dtype=torch.long), torch.zeros(shape[0]))

    def to(self, device: torch.device) -> PassTensors:
        """The same tensors on a device. The host does not wait for the copies to a CUDA device."""
        return PassTensors(*(to_device(one, device) for one in (self.columns, self.slots, self.share)))

    @property
    def ids(self) -> Tensor:
        """(tasks * rows, width) int32."""
        return self.columns[0].flatten(0, 1)

    @property
    def targets(self) -> Tensor:
        """(tasks * rows * width,) int64: the token after each token."""
        return self.columns[1].flatten().long()

    @property
    def weights(self) -> Tensor:
        """(tasks * rows * width,) float32: the loss weight of each target."""
        return self.columns[2].view(torch.float32).flatten()

    def predictions(self) -> MicroBatch:
        """Only the predictions with a loss weight, on the CPU, with the position of a task in the pass as its slot."""
        tasks, rows, width = self.columns.shape[1:]
        weights = self.weights * self.share.repeat_interleave(rows * width)
        places = self.weights.nonzero().flatten()
        owners = torch.arange(tasks).repeat_interleave(rows * width)[places]
        return MicroBatch(self.ids.long(), places, self.targets[places], weights[places], owners)
