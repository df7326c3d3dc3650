"""The decoding loop: the completions of many requests advance together, by one token per forward pass.

Sampling and threshold search differ only in how rows continue (see `token_choice`). The search is breadth-first and exact, and
it stays narrow: the unfinished prefixes of a request are disjoint events of probability >= min_prob, so there are at most
1 / min_prob of them at a time.

The number of key/value positions is limited. Rows that do not fit are parked: their tokens are kept, their keys and values are
dropped, and computed again when there is room. So the limit changes the time that results take, never the results.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solver.infer.cache import ROW_BLOCK, SUFFIX_BLOCK, Index, SharedPrefixCache, arrangement, positions
from solver.infer.decode_rows import DecodeRows
from solver.infer.forward import Forward
from solver.infer.grammar import GridMachine
from solver.infer.pace import OutOfTime, Pace
from solver.infer.token_choice import Choice, Chooser
from solver.model.memory import is_out_of_memory, out_of_memory_line
from solver.types import Completion, Deadline, Result, Status, TokenIds

log = logging.getLogger(__name__)

EXPECTED_NEW = 64  # tokens that a row is expected to take, until a completion is longer
MIN_PROMPT_RATIO = 0.9  # prompts share a prefill if none is shorter than this share of the longest: padding is wasted work


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """What the decoding loop needs to know about a request."""

    id: str
    prompt: TokenIds
    limit: int  # new tokens at most, for the request and within the context
    adapter: int  # the number of its adapter in the stack of the forward pass


@dataclass(eq=False)
class _DecodeJob:
    """A request while it is decoded. It is resident while its prompt is in the cache."""

    number: int
    request: DecodeRequest
    parked: list[DecodeRows] = field(default_factory=list)  # single rows without keys and values; the last one is resumed first
    root: Tensor | None = None  # (vocabulary,) log-probabilities after the prompt
    tried_alone: bool = False  # whether memory ran out once while this was the only sequence
    slot: int = -1  # of its prompt in the cache; -1: not resident
    done: list[Completion] = field(default_factory=list)
    error: str = ""

    @property
    def prompt(self) -> TokenIds:
        return self.request.prompt


class Decoder:
    """Decodes a batch of requests with at most `budget` key/value positions in memory, though one row always runs."""

    def __init__(
        self,
        forward: Forward,
        chooser: Chooser,
        machine: GridMachine | None,
        end: int,
        requests: Sequence[DecodeRequest],
        budget: int,
        pace: Pace,
        deadline: Deadline,
    ) -> None:
        self._forward, self._chooser, self._machine, self._end = forward, chooser, machine, end
        self._budget, self._pace, self._deadline = budget, pace, deadline
        self._prefill_tokens = forward.prefill_tokens
        self._jobs = [_DecodeJob(n, request) for n, request in enumerate(requests)]
        self._limit = np.array([request.limit for request in requests], dtype=np.int64)
        self._new_tokens = np.zeros(len(requests), dtype=np.int64)
        for job in self._jobs:
            job.parked = [DecodeRows.start(job.number, key) for key in self._chooser.keys(job.number)[::-1, None]]
        # longest first: most memory is needed at the start, and neighbours in the queue have prompts of similar lengths
        self._waiting = deque(sorted(self._jobs, key=lambda job: -len(job.prompt)))
        self._resident: list[_DecodeJob] = []  # by slot
        self._rows = DecodeRows.start(0, np.zeros(0, dtype=np.uint64))
        self._cache = SharedPrefixCache(forward.device, budget)
        self._expected = EXPECTED_NEW
        self._in_flight = 0  # sequences in the present pass
        self._ready: deque[Result] = deque()

    def run(self) -> Iterator[Result]:
        """Yield one result per request, as soon as it is complete."""
        while self._waiting or self._resident:
            try:
                self._admit()
                self._step()
            except OutOfTime:
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._back_off(error)
            while self._ready:
                yield self._ready.popleft()
        yield from self._ready
        for job in (*self._resident, *self._waiting):
            yield self._result(job, "cut")

    def _result(self, job: _DecodeJob, status: Status) -> Result:
        best_first = tuple(sorted(job.done, key=lambda completion: -completion.logprob))
        new_tokens = int(self._new_tokens[job.number])
        return Result(job.request.id, status, best_first, job.error, len(job.prompt), new_tokens)

    # -- forward passes ------------------------------------------------------------------------------------------------

    def _begin_pass(self, kind: str, size: int, sequences: int) -> None:
        """Raise OutOfTime if the deadline leaves too little time for a pass of this kind and size."""
        self._pace.check(kind, size, self._deadline)
        self._in_flight = sequences

    def _step(self) -> None:
        """Advance every row by one token."""
        self._make_room()
        rows = self._rows
        if not len(rows):
            return
        ids = rows.tokens[np.arange(len(rows)), rows.length - 1][:, None].astype(np.int64)
        self._begin_pass("step", ids.size, len(rows))
        with self._pace.measure("step", ids.size, self._deadline.clock):
            logprobs = _log_softmax(self._forward.extend(self._cache, 0, ids)[:, -1])
        self._advance(0, logprobs)

    def _admit(self) -> None:
        """Resume parked rows of resident requests, then prefill waiting requests, while there is room."""
        while True:
            job = next((job for job in self._resident if job.parked), None)
            if job is None:
                if not self._waiting or self._has_to_wait(self._waiting[0]) or not self._fits(1, len(self._waiting[0].prompt), 1):
                    return
                self._prefill()
            elif self._fits(0, 0, 1, int(job.parked[-1].length[0])):
                self._resume(job)
            else:
                return

    def _has_to_wait(self, job: _DecodeJob) -> bool:
        """Whether the request should wait for the present rows: their prompts are longer, and they keep the device busy."""
        return self._cache.rows >= self._forward.busy_rows and len(job.prompt) < MIN_PROMPT_RATIO * self._cache.longest_prefix

    def _prefill(self) -> None:
        """Write prompts from the head of the queue into the cache, as many as one pass takes."""
        longest = len(self._waiting[0].prompt)
        batch: list[_DecodeJob] = []
        rows = 0
        for job in self._waiting:
            size, rows = len(batch) + 1, rows + len(job.parked)
            if batch and (
                size * longest > self._prefill_tokens
                or len(job.prompt) < MIN_PROMPT_RATIO * longest
                or self._need(size, longest, rows) > self._budget
            ):
                break
            batch.append(job)
        tokens = len(batch) * longest
        self._begin_pass("prefill", tokens, len(self._rows) + len(batch))
        prompts, adapters = [job.prompt for job in batch], [job.request.adapter for job in batch]
        with self._pace.measure("prefill", tokens, self._deadline.clock):
            roots = _log_softmax(self._forward.prefill(self._cache, prompts, adapters, keep=True))
        for job, root in zip(batch, roots, strict=True):
            self._waiting.popleft()
            job.slot, job.root = len(self._resident), root
            self._resident.append(job)
        for job in batch:
            if self._fits(0, 0, 1, int(job.parked[-1].length[0])):
                self._resume(job)

    def _resume(self, job: _DecodeJob) -> None:
        """Resume parked rows of a resident request: as many of the same length as fit."""
        first, length = len(self._rows), int(job.parked[-1].length[0])
        count = 1
        while (
            count < len(job.parked)
            and job.parked[-1 - count].length[0] == length
            and (count + 1) * length <= self._prefill_tokens
            and self._fits(0, 0, count + 1, length)
        ):
            count += 1
        if length:
            self._begin_pass("resume", count * length, first + count)
        self._rows.extend(*(job.parked.pop() for _ in range(count)))
        self._cache.add_rows(np.full(count, job.slot))
        if length:
            ids = self._rows.tokens[first:, :length].astype(np.int64)
            with self._pace.measure("resume", count * length, self._deadline.clock):
                logprobs = _log_softmax(self._forward.extend(self._cache, first, ids)[:, -1])
        else:
            assert job.root is not None
            logprobs = job.root.expand(count, -1)
        self._advance(first, logprobs)

    # -- rows after a pass ---------------------------------------------------------------------------------------------

    def _advance(self, first: int, logprobs: Tensor) -> None:
        """Continue the rows from `first` on with the tokens of the chooser: append, branch, finish or drop.

        `logprobs`, (rows, vocabulary), are the log-probabilities of the next token of each of these rows.
        """
        rows = self._rows.take(slice(first, None)) if first else self._rows
        choice = self._choose(rows, logprobs)
        owner = rows.job[choice.rows]
        ended = choice.tokens == self._end
        closed = ended | (rows.length[choice.rows] + 1 >= self._limit[owner])
        self._new_tokens += np.bincount(owner, minlength=len(self._jobs))
        if not first and not closed.any() and np.array_equal(choice.rows, np.arange(len(rows))):
            self._append(rows, choice.tokens, choice.logprobs)
            return
        for at in np.flatnonzero(closed):
            completion = rows.completion(choice.rows[at], choice.tokens[at], choice.logprobs[at], bool(ended[at]))
            self._jobs[owner[at]].done.append(completion)
            self._expected = max(self._expected, len(completion.ids))
        touched = np.unique(self._rows.job)
        source = choice.rows[~closed]
        rows = rows.take(source)
        self._append(rows, choice.tokens[~closed], choice.logprobs[~closed])
        self._place(first, rows, source + first)
        self._settle(touched)

    def _choose(self, rows: DecodeRows, logprobs: Tensor) -> Choice:
        """The chooser's tokens for these rows. Requests with NaN log-probabilities fail."""
        choice = self._chooser.choose(rows, logprobs)
        broken = torch.isnan(logprobs[:, 0]).cpu().numpy()
        if not broken.any():
            return choice
        for number in np.unique(rows.job[broken]):
            self._jobs[number].error = "the model gave NaN"
            self._jobs[number].parked.clear()
        sound = self._sound(rows)[choice.rows]
        return Choice(choice.rows[sound], choice.tokens[sound], choice.logprobs[sound])

    def _sound(self, rows: DecodeRows) -> NDArray[np.bool_]:
        """(rows,): whether the row's request has not failed."""
        return np.array([not self._jobs[number].error for number in rows.job], dtype=bool)

    def _append(self, rows: DecodeRows, tokens: Index, logprobs: NDArray[np.float32]) -> None:
        rows.append(tokens, logprobs)
        if self._machine is not None:
            self._machine.advance(rows.state, tokens)

    def _place(self, first: int, continued: DecodeRows, source: Index) -> None:
        """Replace the rows from `first` on by `continued`; `source` are the rows that these came from. Park what does not fit."""
        rows = self._rows.take(slice(0, first))
        rows.extend(continued)
        sources = np.concatenate([np.arange(first), source])
        sound = self._sound(rows)
        rows, sources = rows.take(sound), sources[sound]
        order = arrangement(sources)
        rows, sources = rows.take(order), sources[order]
        longest = int(rows.length.max(initial=1)) - 1  # tokens in the cache, where the newest one of a row is not yet
        staying = max(len(np.unique(sources)), self._rows_that_fit(longest))
        for row in range(staying, len(rows)):
            self._park(rows, row)
        # the cache comes last: if memory runs out there, the rows are complete and can be parked
        self._rows = rows.take(slice(0, staying))
        self._cache.set_rows(sources[:staying])

    def _park(self, rows: DecodeRows, row: int) -> None:
        self._jobs[rows.job[row]].parked.append(rows.take(np.array([row])))

    def _settle(self, numbers: Index) -> None:
        """Finish those of the requests `numbers` that have no rows any more, and free their slots."""
        idle = [self._jobs[number] for number in numbers if number not in self._rows.job]
        over = [job for job in idle if not job.parked]
        for job in over:
            self._finish(job)
        self._evict(over)

    def _finish(self, job: _DecodeJob) -> None:
        self._ready.append(self._result(job, "failed" if job.error else "complete"))

    # -- memory --------------------------------------------------------------------------------------------------------

    def _need(self, slots: int, prompt: int, rows: int, length: int = 0) -> int:
        """The positions for the present contents, for this much more, and for some growth of every row.

        Without room for growth, a row that was just resumed could be parked again in the next step.
        """
        cache = self._cache
        suffix = max(cache.longest_suffix + SUFFIX_BLOCK, length + SUFFIX_BLOCK, self._expected)
        return positions(cache.slots + slots, max(cache.longest_prefix, prompt), cache.rows + rows, suffix)

    def _fits(self, slots: int, prompt: int, rows: int, length: int = 0) -> bool:
        """Whether this much more fits the budget. One row alone always fits, so that there is progress."""
        alone = not self._cache.rows and rows == 1 and (not slots or not self._cache.slots)
        return alone or self._need(slots, prompt, rows, length) <= self._budget

    def _rows_that_fit(self, longest: int) -> int:
        """How many rows the budget holds if the longest has this many tokens and each gets one more; at least 1."""
        prompts = positions(self._cache.slots, self._cache.longest_prefix, 0, 0)
        block = positions(0, 0, ROW_BLOCK, longest + 1)
        return max(1, (self._budget - prompts) // block * ROW_BLOCK)

    def _make_room(self) -> None:
        """Park rows until the budget has room for one more token of each; rows of the newest requests go first."""
        cache = self._cache
        while len(self._rows) > (fit := self._rows_that_fit(cache.longest_suffix)):
            newest = np.flatnonzero(cache.slot_of == cache.slot_of.max())
            alone = len(newest) == len(self._rows)
            victims = newest[fit:] if alone else newest
            for row in victims:
                self._park(self._rows, int(row))
            job = self._resident[int(cache.slot_of.max())]
            kept = np.setdiff1d(np.arange(len(self._rows)), victims)
            kept = kept[arrangement(kept)]
            self._rows = self._rows.take(kept)
            cache.set_rows(kept)
            if not alone:
                self._waiting.appendleft(job)
                self._evict([job])

    def _evict(self, jobs: Sequence[_DecodeJob]) -> None:
        """Drop the prompts of requests that have no rows in the cache."""
        if not jobs:
            return
        holes, movers = self._cache.remove_slots(np.array([job.slot for job in jobs]))
        for job in jobs:
            job.slot, job.root = -1, None
        count = self._cache.slots
        for hole, mover in zip(holes, movers, strict=True):
            self._resident[hole] = self._resident[mover]
            self._resident[hole].slot = int(hole)
        del self._resident[count:]

    def _back_off(self, error: Exception) -> None:
        """After memory ran out: park all rows and halve the budget. A sequence that runs out alone fails at the second try."""
        held = self._cache.used()
        self._cache.clear()
        self._forward.forget()
        alone = self._in_flight <= 1 and len(self._resident) <= 1
        for row in range(len(self._rows)):
            self._park(self._rows, row)
        self._rows = self._rows.take(slice(0, 0))
        for job in reversed(self._resident):
            job.slot, job.root = -1, None
            if job.parked:
                self._waiting.appendleft(job)
            else:
                self._finish(job)
        self._resident.clear()
        if self._forward.device.type == "cuda":
            torch.cuda.empty_cache()
        if alone and self._waiting:
            job = self._waiting[0]
            if job.tried_alone:
                self._waiting.popleft()
                job.error = out_of_memory_line(error)
                self._finish(job)
            else:  # the prompts that were kept are dropped now, so a second try may succeed
                job.tried_alone = True
                log.warning("out of memory: a sequence does not fit by itself; it is tried once more")
        else:
            self._budget = self._cache.limit = max(1, min(self._budget, held) // 2)
            self._prefill_tokens = max(1, self._prefill_tokens // 2)
            log.warning("out of memory: decoding now holds at most %d positions", self._budget)


def _log_softmax(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), -1)
