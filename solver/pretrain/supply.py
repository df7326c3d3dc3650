"""Batches made ahead by other processes, so that the device never waits for them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from solver.child_process import die_with
from solver.pretrain.group import ALONE, Group
from solver.pretrain.sampler import Batch, Sampler

_sampler: Sampler | None = None  # of a worker process


def supply(sampler: Sampler, block: int, batch: int, workers: int, group: Group = ALONE) -> Iterator[tuple[int, int, Batch]]:
    """`sampler.batches(block, batch)`, the same batches in the same order, made by `workers` processes; 0: by this one.

    Of a group, each process gets a block of its own of as many consecutive ones, and all leave their blocks when the first
    of them is at its end. So positions are the same for all, and a group of the same size resumes exactly.
    """
    if group.size == 1 and not workers:
        yield from sampler.batches(block, batch)
        return
    for made in _blocks(sampler, block + group.rank, group.size, workers):
        length = -int(group.most([-len(made)])[0])
        for place in range(batch, length):
            yield (block + group.size, 0, made[place]) if place + 1 == length else (block, place + 1, made[place])
        block, batch = block + group.size, 0


def _blocks(sampler: Sampler, block: int, stride: int, workers: int) -> Iterator[list[Batch]]:
    """Every block of that distance. A block is a function of its number alone, so processes make different ones at a time."""
    numbers = itertools.count(block, stride)
    if not workers:
        yield from map(sampler.block, numbers)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch in any state
    with ProcessPoolExecutor(workers, context, _keep, (sampler, os.getpid())) as pool:
        ahead: deque[Future[list[Batch]]] = deque(pool.submit(_block, next(numbers)) for _ in range(2 * workers))
        try:
            while True:
                made = ahead.popleft().result()
                ahead.append(pool.submit(_block, next(numbers)))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)


def _keep(sampler: Sampler, parent: int) -> None:
    global _sampler
    _sampler = sampler
    die_with(parent)  # nobody else would end a process that ignores signals
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that trains decides when to end
        signal.signal(number, signal.SIG_IGN)


def _block(number: int) -> list[Batch]:
    assert _sampler is not None
    return _sampler.block(number)
