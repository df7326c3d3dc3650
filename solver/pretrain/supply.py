"""Batches made in advance by other processes, so that the training does not wait for them."""

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
from solver.pretrain.sampler import Batch, BatchSource

# The sampler of a worker process. It is a module global because a process pool offers no other place: the result of its
# initializer cannot be passed on, and the arguments of a task are pickled for every task, which here means all corpora.
_sampler: BatchSource | None = None


def supply(sampler: BatchSource, block: int, batch: int, workers: int, group: Group = ALONE) -> Iterator[tuple[int, int, Batch]]:
    """The same as `sampler.batches(block, batch)`, made by `workers` processes; 0: by this process.

    In a group of n processes, each takes its own of every n consecutive blocks. They all go on to the next n blocks when the
    shortest of the n is finished. So all processes are at the same position, and a group of the same size resumes exactly.
    """
    if group.size == 1 and not workers:
        yield from sampler.batches(block, batch)
        return
    for made in _blocks(sampler, block + group.rank, group.size, workers):
        length = -int(group.maxima([-len(made)])[0])  # of the shortest block
        for place in range(batch, length):
            yield (block + group.size, 0, made[place]) if place + 1 == length else (block, place + 1, made[place])
        block, batch = block + group.size, 0


def _blocks(sampler: BatchSource, block: int, stride: int, workers: int) -> Iterator[list[Batch]]:
    """Every `stride`-th block from number `block` on. A block depends on its number alone, so several can be made at a time."""
    numbers = itertools.count(block, stride)
    if not workers:
        yield from map(sampler.block, numbers)
        return
    context = multiprocessing.get_context("spawn")  # fork is not safe in a process with threads, which torch has
    with ProcessPoolExecutor(workers, context, _start_worker, (sampler, os.getpid())) as pool:
        ahead: deque[Future[list[Batch]]] = deque(pool.submit(_block, next(numbers)) for _ in range(2 * workers))
        try:
            while True:
                made = ahead.popleft().result()
                ahead.append(pool.submit(_block, next(numbers)))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(sampler: BatchSource, parent: int) -> None:
    """Run at the start of a worker process: keep the sampler, and leave the end of the process to its parent."""
    global _sampler
    _sampler = sampler
    die_with(parent)  # needed if the parent is killed, because this process ignores the signals below
    for number in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C reaches all processes; the one that trains decides when to end
        signal.signal(number, signal.SIG_IGN)


def _block(number: int) -> list[Batch]:
    assert _sampler is not None
    return _sampler.block(number)
