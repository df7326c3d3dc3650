"""Random numbers and draws as in `solver.infer.token_choice`, by operations of a device alone.

For the few rows of a CPU, the numpy of that module takes less time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from solver.infer.token_choice import SPLITMIX64

# as signed numbers: products of int64 wrap around like those of uint64
_STEP, _FIRST, _SECOND = (number - (1 << 64) for number in SPLITMIX64)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """Float64 numbers in [0, 1): output `counters` of a splitmix64 generator seeded with `keys`, both int64 of one shape.

    Keys are the bits of unsigned numbers. The numbers are those of the host's generator.
    """
    z = keys + (counters + 1) * _STEP
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    z = z ^ _shifted(z, 31)
    return _shifted(z, 11).double() * 2.0**-53


def draw(logprobs: Tensor, temperature: Tensor, numbers: Tensor) -> Tensor:
    """(slots, width): the column drawn from each row of `logprobs`, (slots, width, columns); the largest at temperature 0.

    `temperature` and `numbers`, in [0, 1), are float64 (slots, 1) and (slots, width). Inverse-transform sampling.
    """
    warm = temperature > 0
    scale = torch.where(warm, temperature, 1.0)
    cumulative = torch.softmax(logprobs.double() / scale[..., None], -1).cumsum(-1)
    goal = numbers[..., None] * cumulative[..., -1:]
    return torch.where(warm, (cumulative <= goal).sum(-1), logprobs.argmax(-1))


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills up with zeros, as for unsigned numbers."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
