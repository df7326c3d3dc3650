"""Training on several devices: one process for each, with batches of its own and gradients averaged over all processes.

    torchrun --nproc-per-node 4 -m solver pretrain --corpus DIR --minutes 60 --out runs/pretrain --device cuda

A process that was started without torchrun is a group of one and exchanges nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

_TIMEOUT = timedelta(hours=1)  # how long the others wait while the first process reads corpora, validates and saves


@dataclass(frozen=True)
class Group:
    """The processes that train one model together: the rank of this one, their number, and the device of this one."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process validates, saves and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            distributed.barrier()

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the processes, in one exchange. A missing gradient counts as zero."""
        if self.size == 1:
            return
        shared = list(parameters)
        for p in shared:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in shared if p.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(joined)
        joined /= self.size
        for gradient, mean in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sum of each number over the processes."""
        return self._exchanged(values, distributed.ReduceOp.SUM)

    def maxima(self, values: Sequence[float]) -> list[float]:
        """The maximum of each number over the processes."""
        return self._exchanged(values, distributed.ReduceOp.MAX)

    def _exchanged(self, values: Sequence[float], how: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        joined = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(joined, how)
        return [float(value) for value in joined]


ALONE = Group()


@contextmanager
def joined_group(device: str) -> Iterator[Group]:
    """The group described by torchrun's environment variables, or this process alone.

    With the device "cuda" each process uses the GPU of its local rank.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device=torch.device(device))
        return
    mine = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if mine.type == "cuda":
        torch.cuda.set_device(mine)
    distributed.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Group(distributed.get_rank(), size, mine)
    finally:
        distributed.destroy_process_group()
