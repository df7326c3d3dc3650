"""The host's side of static decoding: which request takes which slot, when the host looks, and what is done with results.

Requests are served in rounds. A round has prompts of similar lengths, because every slot has the columns of the longest. In a
round, slots whose rows have ended are filled with the next prompts of the adapter of their lane, and lanes that ran empty get
the next adapter. Results do not depend on slots or rounds: random numbers belong to samples, and a request that needs more rows
or columns than a slot has begins anew in a later round.
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from solver.infer.cache import SharedPrefixCache
from solver.infer.decoding import MIN_PROMPT_RATIO
from solver.infer.forward import Forward
from solver.infer.pace import OutOfTime, Pace
from solver.infer.static.batch import Report, StaticBatch
from solver.infer.static.requests import Part, parts_of
from solver.infer.static.shapes import BatchShape, choose_lanes, rounded, rounded_columns
from solver.infer.static.step import Mode
from solver.infer.static.store import BatchStore
from solver.model.memory import is_out_of_memory
from solver.types import Completion, Deadline, Result, SampleRequest, SearchRequest, Status

log = logging.getLogger(__name__)

LOOK_EVERY = 16  # steps
ROUND_RATIO = 0.5  # prompts of a round are at least this share of its longest one, unless there are few
MIN_ROUND = 64  # parts that a round takes whatever their lengths, if it holds so many at once
MAX_ROWS = 4096  # of a batch
NO_ADAPTER = -1
REFILL_SHARE = 1 / 8  # of the slots: free ones wait until so many can be filled at once


@dataclass(eq=False)
class _Job:
    """A request while it is served."""

    id: str
    prompt_tokens: int
    parts: int  # that are not finished
    done: list[Completion] = field(default_factory=list)
    new_tokens: int = 0
    error: str = ""

    def result(self, status: Status) -> Result:
        best_first = tuple(sorted(self.done, key=lambda completion: -completion.logprob))
        return Result(self.id, status, best_first, self.error, self.prompt_tokens, self.new_tokens)


class StaticDecoder:
    """Decodes a batch of requests with at most `budget` key/value positions, though one slot always runs.

    Raises what the device raises. Requests without a result by then were not served. Memory that runs out is raised only if one
    slot alone does not fit.
    """

    def __init__(
        self,
        forward: Forward,
        store: BatchStore,
        requests: Sequence[SampleRequest | SearchRequest],
        numbers: Sequence[int],
        context: int,
        budget: int,
        pace: Pace,
        deadline: Deadline,
    ) -> None:
        """`numbers` are those of the requests' adapters in the stack of `forward`; `context` is in tokens."""
        self._forward, self._store, self._budget, self._pace, self._deadline = forward, store, budget, pace, deadline
        self._prefill_tokens = forward.prefill_tokens
        self._mode: Mode = "greedy"
        if any(isinstance(request, SearchRequest) for request in requests):
            self._mode = "search"
        elif any(isinstance(request, SampleRequest) and request.temperature for request in requests):
            self._mode = "sample"
        self._jobs: list[_Job] = []
        self._waiting: list[Part] = []
        for number, (request, adapter) in enumerate(zip(requests, numbers, strict=True)):
            limit = min(request.max_new_tokens, context - len(request.prompt))
            parts = parts_of(number, request, limit, adapter)
            self._jobs.append(_Job(request.id, len(request.prompt), len(parts)))
            self._waiting += parts
        self._running: dict[int, Part] = {}  # by slot
        self._open = set(range(len(self._jobs)))  # jobs without a result
        self._failed_alone = False  # whether memory ran out with one slot

    def run(self) -> Iterator[Result]:
        """Yield one result per request, as soon as it is complete."""
        while self._waiting:
            self._waiting.sort(key=lambda part: -len(part.prompt))
            parts = self._next_round()
            shape = self._shape(parts)
            failure: Exception | None = None
            try:
                yield from self._round(parts, shape)
            except OutOfTime:
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)  # whose frames hold the buffers
            if failure is not None:
                self._back_off(parts, shape, failure)
        self._store.trim()
        for number in sorted(self._open):
            yield self._jobs[number].result("cut")

    # -- rounds --------------------------------------------------------------------------------------------------------

    def _next_round(self) -> list[Part]:
        """Take the parts of the next round from the queue, longest prompt first."""
        first = self._waiting[0]
        longest = len(first.prompt)
        alike = sum(len(part.prompt) >= ROUND_RATIO * longest for part in self._waiting)
        fitting = self._budget // rounded_columns(longest + first.columns)
        count = max(alike, min(MIN_ROUND, fitting))
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _shape(self, parts: Sequence[Part]) -> BatchShape:
        """The shape of a batch for these parts."""
        longest = len(parts[0].prompt)
        width = rounded(max(part.width for part in parts))
        columns = rounded_columns(longest + max(part.max_columns for part in parts))
        if len(parts) * columns > self._budget:  # not all could have all columns that they might need: begin with fewer
            columns = rounded_columns(longest + max(part.columns for part in parts))
        counts: dict[int, int] = {}
        for part in parts:
            counts[part.adapter] = counts.get(part.adapter, 0) + 1
        slots = max(1, min(self._budget // columns, MAX_ROWS // width))
        lanes, lane_slots = choose_lanes(counts.values(), slots)
        tokens, completions = max(part.limit for part in parts), max(part.completions for part in parts)
        return BatchShape(lanes, lane_slots, width, columns, rounded(tokens), rounded(completions))

    def _round(self, parts: list[Part], shape: BatchShape) -> Iterator[Result]:
        """Serve parts in a batch of this shape. Those that are finished leave the list."""
        batch = self._store.get(self._forward.model, shape, self._mode, self._budget)
        lanes = _Lanes(batch.shape)
        self._running.clear()
        report: Report | None = None
        try:
            while parts:
                self._refill(batch, lanes, parts)
                steps = self._steps(report)
                kind = "burst" if batch.captured(steps) else "capture"
                self._pace.check(kind, steps, self._deadline)
                with self._pace.measure(kind, steps, self._deadline.clock):
                    batch.run(steps)
                    report = batch.look()
                yield from self._collect(batch, report, parts)
        except OutOfTime:
            self._take(batch, batch.look(), list(self._running))
            raise

    def _steps(self, report: Report | None) -> int:
        """Steps until the next look: no more than a row can need."""
        rest = [
            part.limit - (0 if report is None else int(report.length[slot]) * (report.live[slot] > 0))
            for slot, part in self._running.items()
        ]
        return int(max(1, min(LOOK_EVERY, max(rest))))

    def _collect(self, batch: StaticBatch, report: Report, parts: list[Part]) -> Iterator[Result]:
        """Take the completions of slots whose rows have ended."""
        over = [slot for slot in self._running if not report.live[slot]]
        self._take(batch, report, [slot for slot in over if not report.crowded[slot]])
        for slot in over:
            part = self._running.pop(slot)
            parts.remove(part)
            if report.crowded[slot]:
                if (part.width, part.columns) == (part.completions, part.max_columns):
                    raise RuntimeError("a slot had too little room for all that a request can need")
                part.enlarge()
                self._waiting.append(part)
                continue
            job = self._jobs[part.request]
            job.parts -= 1
            if report.broken[slot]:
                job.error = "the model gave NaN"
            if not job.parts:
                self._open.discard(part.request)
                yield job.result("failed" if job.error else "complete")

    def _take(self, batch: StaticBatch, report: Report, slots: Sequence[int]) -> None:
        """Give the finished completions of some running slots to their requests."""
        sound = [slot for slot in slots if not report.crowded[slot]]
        for slot, completions in zip(sound, batch.read(sound), strict=True):
            job = self._jobs[self._running[slot].request]
            job.done += completions
            job.new_tokens += int(report.used[slot] + report.done[slot])

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _refill(self, batch: StaticBatch, lanes: _Lanes, parts: Sequence[Part]) -> None:
        """Fill free slots with waiting prompts, if that are enough of them."""
        running = {id(part) for part in self._running.values()}
        waiting = [part for part in parts if id(part) not in running]
        if not waiting:
            return
        before = list(lanes.adapters)
        chosen = lanes.assign(waiting, self._running)
        worth = max(1, int(REFILL_SHARE * batch.shape.slots))
        if self._running and len(chosen) < min(worth, len(waiting)):
            lanes.adapters = before
            return
        if lanes.adapters != before:
            batch.load(self._forward.model, [max(0, number) for number in lanes.adapters])
        chosen.sort(key=lambda one: -len(one[1].prompt))
        while chosen:
            longest = len(chosen[0][1].prompt)
            count = 1
            while (
                count < len(chosen)
                and (count + 1) * longest <= self._prefill_tokens
                and len(chosen[count][1].prompt) >= MIN_PROMPT_RATIO * longest
            ):
                count += 1
            self._prefill(batch, chosen[:count])
            del chosen[:count]

    def _prefill(self, batch: StaticBatch, chosen: Sequence[tuple[int, Part]]) -> None:
        """Read prompts, each once, and start parts in their slots."""
        slots, parts = [slot for slot, _ in chosen], [part for _, part in chosen]
        first = {part.request: part for part in reversed(parts)}
        asked = [part for part in parts if first[part.request] is part]
        place = {part.request: n for n, part in enumerate(asked)}
        tokens = len(asked) * len(parts[0].prompt)
        self._pace.check("prefill", tokens, self._deadline)
        with self._pace.measure("prefill", tokens, self._deadline.clock):
            cache = SharedPrefixCache(self._forward.device, 0)
            prompts, adapters = [part.prompt for part in asked], [part.adapter for part in asked]
            logits = self._forward.prefill(cache, prompts, adapters, keep=True)
            batch.admit(slots, parts, cache, logits, [place[part.request] for part in parts])
            if self._forward.device.type == "cuda":
                torch.cuda.synchronize(self._forward.device)  # so that the pace is that of the device
        self._running.update(chosen)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _back_off(self, parts: Sequence[Part], shape: BatchShape, error: Exception) -> None:
        """After memory ran out: begin anew with half of the memory what the round has not finished. Raises if that is no use."""
        self._running.clear()
        self._waiting += parts
        self._store.clear()
        self._forward.forget()
        gc.collect()
        if self._forward.device.type == "cuda":
            torch.cuda.empty_cache()
        if shape.slots == 1:
            if self._failed_alone:
                raise error
            self._failed_alone = True
        self._budget = max(1, min(self._budget, shape.positions) // 2)
        self._prefill_tokens = max(1, self._prefill_tokens // 2)
        log.warning("out of memory: decoding now holds at most %d positions", self._budget)


class _Lanes:
    """Which adapter each lane of a batch serves: its number, or NO_ADAPTER as long as the lane was not needed."""

    def __init__(self, shape: BatchShape) -> None:
        self._shape = shape
        self.adapters = [NO_ADAPTER] * shape.lanes

    def assign(self, waiting: Sequence[Part], running: dict[int, Part]) -> list[tuple[int, Part]]:
        """Slots and the parts to start in them. Lanes without running rows may get another adapter."""
        queues: dict[int, deque[Part]] = {}
        for part in waiting:
            queues.setdefault(part.adapter, deque()).append(part)
        size = self._shape.lane_slots
        slots = [range(lane * size, (lane + 1) * size) for lane in range(self._shape.lanes)]
        free = [[slot for slot in some if slot not in running] for some in slots]
        chosen: list[tuple[int, Part]] = []

        def fill(lane: int) -> None:
            queue = queues[self.adapters[lane]]
            for slot in free[lane]:
                if not queue:
                    break
                chosen.append((slot, queue.popleft()))

        empty = [lane for lane, some in enumerate(free) if len(some) == size]
        for lane in range(self._shape.lanes):
            if lane not in empty and self.adapters[lane] in queues:
                fill(lane)
        for lane in empty:
            longest = max(queues, key=lambda adapter: len(queues[adapter]))
            if not queues[longest]:
                break
            own = self.adapters[lane]
            # an adapter stays in its lane if it has enough left to fill it
            if len(queues.get(own, ())) < min(size, len(queues[longest])):
                self.adapters[lane] = longest
            fill(lane)
        return chosen
