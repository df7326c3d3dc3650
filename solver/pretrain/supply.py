"""Batches made ahead by other processes, so that the device never waits for them."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from solver.pretrain.sampler import Batch, Sampler

_sampler: Sampler | None = None  # of a worker process


def supply(sampler: Sampler, block: int, batch: int, workers: int) -> Iterator[tuple[int, int, Batch]]:
    """`sampler.batches(block, batch)`, the same batches in the same order, made by `workers` processes; 0: by this one.

    A block is a function of its number alone, so processes make different blocks at the same time, two ahead each.
    """
    if not workers:
        yield from sampler.batches(block, batch)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch in any state
    with ProcessPoolExecutor(workers, context, _keep, (sampler,)) as pool:
        ahead: deque[Future[list[Batch]]] = deque(pool.submit(_block, block + n) for n in range(2 * workers))
        try:
            while True:
                made = ahead.popleft().result()
                ahead.append(pool.submit(_block, block + 2 * workers))
                for place in range(batch, len(made)):
                    yield (block + 1, 0, made[place]) if place + 1 == len(made) else (block, place + 1, made[place])
                block, batch = block + 1, 0
        finally:
            pool.shutdown(cancel_futures=True)


def _keep(sampler: Sampler) -> None:
    global _sampler
    _sampler = sampler
    for number in (signal.SIGINT, signal.SIGTERM):  # the process that trains decides when to end
        signal.signal(number, signal.SIG_IGN)


def _block(number: int) -> list[Batch]:
    assert _sampler is not None
    return _sampler.block(number)
