"""The loop that steps a running core until all requests are done, the deadline comes, or the core breaks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from solver.errors import one_line
from solver.infer.pace import Pace
from solver.infer.vllm.request_trackers import GenerationOutput, GenerationSpec, RequestTracker
from solver.infer.vllm.shim import Core, ServedLora
from solver.model.memory import is_out_of_memory, out_of_memory_line
from solver.types import AdapterRef, Deadline, Result

log = logging.getLogger(__name__)

# A core has stalled if it made no token in more than STALLED seconds and in more than STALLED_PASSES passes. Seconds alone do not
# show a stall: the whole machine may have been paused.
STALLED = 60.0
STALLED_PASSES = 100

Adapters = Callable[[Core, AdapterRef], ServedLora]  # reads an adapter into the core unless the core has it


class Stalled(Exception):
    """The core's steps return, but make no tokens."""


@dataclass(eq=False)
class _Running:
    """A request that the core works on."""

    tracker: RequestTracker
    lora: ServedLora | None
    keys: dict[int, int] = field(default_factory=dict)  # of unfinished generations: the core's key -> the tracker's number
    asked: int = 0  # generations so far


class StepLoop:
    """Gives requests to the core while it has room, and steps the core. Requests that are left in `waiting` were not begun."""

    def __init__(
        self, core: Core, waiting: deque[RequestTracker], adapters: Adapters, pace: Pace, deadline: Deadline, max_generations: int
    ) -> None:
        """No request is begun while the core holds `max_generations` or more."""
        self._core, self._waiting, self._adapters = core, waiting, adapters
        self._pace, self._deadline = pace, deadline
        self._max_generations = max_generations
        self._running: dict[int, _Running] = {}  # by key
        self.completed = 0  # requests
        self.broken: Exception | None = None  # the error if the core raised or stalled
        self.lost: list[RequestTracker] = []  # what a broken core was working on: these requests have no result

    def run(self) -> Iterator[Result]:
        """Yield one result for each request that leaves `waiting`, except for those in `lost`."""
        try:
            yield from self._run()
        finally:
            self._core.abort(list(self._running))  # there are some if the caller stops before the end
            self._running.clear()

    def _run(self) -> Iterator[Result]:
        silent, since = 0, time.monotonic()
        while self._waiting or self._running:
            yield from self._feed()
            if self._deadline.expired(self._pace.reach("step", 1)):
                yield from self._cut()
                return
            if not self._running:
                continue
            try:
                with self._pace.measure("step", 1, self._deadline.clock):
                    outputs = self._core.step()
                silent, since = (0, time.monotonic()) if outputs else (silent + 1, since)
                if silent > STALLED_PASSES and time.monotonic() - since > STALLED:
                    raise Stalled(f"vLLM made no token in {STALLED:.0f} s")
            except Exception as error:  # after any error the state of the core is unknown
                self.broken, self.lost = error, [running.tracker for running in self._in_core()]
                return
            for key, output in outputs.items():
                if key in self._running:  # it is not if another generation of its request failed in this pass
                    yield from self._take(key, output)

    def _feed(self) -> Iterator[Result]:
        while self._waiting and len(self._running) < self._max_generations and not self._deadline.expired():
            running = _Running(self._waiting.popleft(), None)
            try:
                if running.tracker.request.adapter is not None:
                    running.lora = self._adapters(self._core, running.tracker.request.adapter)
                self._add(running, running.tracker.start())
            except Exception as error:  # caused by this request or its adapter, as nothing was computed yet
                yield self._failed(running, error)
                continue
            if not running.keys:
                yield self._complete(running)

    def _take(self, key: int, output: GenerationOutput) -> Iterator[Result]:
        running = self._running[key]
        try:
            update = running.tracker.take(running.keys[key], output)
            if update.abort:
                self._core.abort([key])
            if update.abort or output.finished:
                del self._running[key], running.keys[key]
            self._add(running, update.specs)
        except Exception as error:
            yield self._failed(running, error)
            return
        if not running.keys:
            yield self._complete(running)

    def _add(self, running: _Running, specs: Sequence[GenerationSpec]) -> None:
        for spec in specs:
            key = self._core.add(spec, running.lora)
            self._running[key] = running
            running.keys[key] = running.asked
            running.asked += 1

    def _complete(self, running: _Running) -> Result:
        self.completed += 1
        return running.tracker.result("complete")

    def _failed(self, running: _Running, error: Exception) -> Result:
        self._core.abort(list(running.keys))
        for key in running.keys:
            del self._running[key]
        return running.tracker.result("failed", line_of(error))

    def _cut(self) -> Iterator[Result]:
        cut = [running.tracker for running in self._in_core()] + list(self._waiting)
        self._waiting.clear()
        self._core.abort(list(self._running))
        self._running.clear()
        yield from (tracker.result("cut") for tracker in cut)

    def _in_core(self) -> list[_Running]:
        return list({id(running): running for running in self._running.values()}.values())


def line_of(error: BaseException) -> str:
    """One line of an error."""
    if is_out_of_memory(error):
        return out_of_memory_line(error)
    return one_line(error)
