"""Log-probabilities of given completions. Every prompt is read once; its completions are rows that are read in short pieces."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from solver.infer.cache import Index, SharedPrefixCache, positions
from solver.infer.decoding import MIN_PROMPT_RATIO
from solver.infer.forward import Forward
from solver.infer.pace import Pace
from solver.model.memory import is_out_of_memory, out_of_memory_line
from solver.types import Completion, Deadline, Result, ScoreRequest

log = logging.getLogger(__name__)


class Scorer:
    """Scores a batch of requests with at most `budget` key/value positions in memory, though one request always runs."""

    def __init__(
        self, forward: Forward, number: Callable[[ScoreRequest], int], end: int, budget: int, pace: Pace, deadline: Deadline
    ) -> None:
        """`number` gives the number of a request's adapter in the stack of `forward`; `end` is the token that ends an answer."""
        self._forward, self._number, self._end, self._budget = forward, number, end, budget
        self._pace, self._deadline = pace, deadline

    def run(self, requests: Sequence[ScoreRequest]) -> Iterator[Result]:
        """Yield one result per request."""
        waiting = deque(sorted(requests, key=lambda request: -len(request.prompt)))
        tried_alone = ""
        while waiting:
            batch = self._batch(waiting)
            try:
                results = self._score(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._forward.forget()
                if len(batch) > 1:
                    self._budget = max(1, min(self._budget, self._need(batch)) // 2)
                    log.warning("out of memory: scoring now holds at most %d positions", self._budget)
                    continue
                if tried_alone != batch[0].id:  # the prompts that were kept are dropped now, so a second try may succeed
                    tried_alone = batch[0].id
                    log.warning("out of memory: a request does not fit by itself; it is tried once more")
                    continue
                waiting.popleft()
                yield Result(batch[0].id, "failed", (), out_of_memory_line(error), len(batch[0].prompt))
                continue
            if results is None:
                break
            for _ in batch:
                waiting.popleft()
            yield from results
        for request in waiting:
            yield Result(request.id, "cut", (), "", len(request.prompt))

    def _batch(self, waiting: deque[ScoreRequest]) -> list[ScoreRequest]:
        """As many requests from the head of the queue as fit one prefill pass and the budget."""
        longest = len(waiting[0].prompt)
        batch: list[ScoreRequest] = []
        for request in waiting:
            larger = [*batch, request]
            if batch and (
                len(larger) * longest > self._forward.prefill_tokens
                or len(request.prompt) < MIN_PROMPT_RATIO * longest
                or self._need(larger) > self._budget
            ):
                break
            batch = larger
        return batch

    @staticmethod
    def _need(batch: Sequence[ScoreRequest]) -> int:
        lengths = [len(completion) for request in batch for completion in request.completions]
        return positions(len(batch), max(len(request.prompt) for request in batch), len(lengths), max(lengths, default=0))

    def _score(self, batch: Sequence[ScoreRequest]) -> list[Result] | None:
        """The results of a batch, or None if the deadline comes first."""
        cache, clock = SharedPrefixCache(self._forward.device, self._budget), self._deadline.clock
        prompts, adapters = [request.prompt for request in batch], [self._number(request) for request in batch]
        tokens = len(batch) * max(map(len, prompts))
        kind = "prefill" if self._forward.unread(prompts, adapters) else "copy"
        if self._deadline.expired(self._pace.reach(kind, tokens)):
            return None
        with self._pace.measure(kind, tokens, clock):
            roots = torch.log_softmax(self._forward.prefill(cache, prompts, adapters).float(), -1)
        owner = np.array([n for n, request in enumerate(batch) for _ in request.completions], dtype=np.int64)
        given = [completion for request in batch for completion in request.completions]
        lengths = np.array([len(completion) for completion in given], dtype=np.int64)
        ids = np.zeros((len(given), int(lengths.max(initial=0))), dtype=np.int64)
        for row, completion in zip(ids, given, strict=True):
            row[: len(completion)] = completion
        logprobs = np.zeros(ids.shape, dtype=np.float32)
        if ids.size:
            logprobs[:, 0] = _gather(roots[torch.from_numpy(owner).to(roots.device)][:, None], ids[:, :1])[:, 0]
            cache.add_rows(owner)
        piece = self._forward.piece(cache)
        for start in range(0, ids.shape[1] - 1, piece):
            read = ids[:, start : start + piece]
            read = read[:, : ids.shape[1] - 1 - start]
            size = read.size
            if self._deadline.expired(self._pace.reach("piece", size)):
                return None
            with self._pace.measure("piece", size, clock):
                logits = self._forward.extend(cache, 0, read)
                gained = _gather(torch.log_softmax(logits.float(), -1), ids[:, start + 1 : start + 1 + read.shape[1]])
            logprobs[:, start + 1 : start + 1 + read.shape[1]] = gained
        done = iter(zip(given, lengths, logprobs, strict=True))
        results = []
        for request in batch:
            scored = [next(done) for _ in request.completions]
            if not all(np.isfinite(f[:n]).all() for _, n, f in scored):
                error = "the model gave a log-probability that is not finite"
                results.append(Result(request.id, "failed", (), error, len(request.prompt)))
                continue
            completions = tuple(
                Completion(np.asarray(c, dtype=np.int32), f[:n].copy(), bool(n) and c[-1] == self._end) for c, n, f in scored
            )
            results.append(Result(request.id, "complete", completions, "", len(request.prompt), sum(len(c) for c, *_ in scored)))
        return results


def _gather(logprobs: torch.Tensor, ids: Index) -> np.ndarray:
    """The log-probabilities of `ids`, (rows, tokens), out of (rows, tokens, vocabulary)."""
    return logprobs.gather(-1, torch.from_numpy(np.ascontiguousarray(ids)).to(logprobs.device)[..., None])[..., 0].cpu().numpy()
