"""The loop that steps a running core until all requests are done, the deadline comes or the core breaks."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from solver.infer.pace import Pace
from solver.infer.vllm.request_trackers import GenerationOutput, GenerationSpec, RequestTracker
from solver.infer.vllm.shim import Core, ServedLora
from solver.model.memory import is_out_of_memory, out_of_memory_line
from solver.types import AdapterRef, Deadline, Result

log = logging.getLogger(__name__)

STALLED = 60.0  # seconds of passes that give nothing, after which a core is given up,
STALLED_PASSES = 100  # and how many there must be: a pause of the whole machine is no stall

Adapters = Callable[[Core, AdapterRef], ServedLora]  # reads an adapter into the core, if it is not there


class Stalled(Exception):
    """The core returns, but makes no tokens."""


@dataclass(eq=False)
class _Running:
    """A request in the core."""

    tracker: RequestTracker
    lora: ServedLora | None
    keys: dict[int, int] = field(default_factory=dict)  # of unfinished generations: their numbers
    asked: int = 0


class StepLoop:
    """Gives requests to the core while it has room, and steps it. Requests left in `waiting` at the end were never begun."""

    def __init__(
        self, core: Core, waiting: deque[RequestTracker], adapters: Adapters, pace: Pace, deadline: Deadline, max_generations: int
    ) -> None:
        """At most `max_generations` are in the core, unless one request has more."""
        self._core, self._waiting, self._adapters = core, waiting, adapters
        self._pace, self._deadline = pace, deadline
        self._max_generations = max_generations
        self._running: dict[int, _Running] = {}  # by key
        self.completed = 0  # requests
        self.broken: Exception | None = None  # the core raised or stalled
        self.lost: list[RequestTracker] = []  # that it held then: they have no result

    def run(self) -> Iterator[Result]:
        """One result for each request that does not wait any more."""
        try:
            yield from self._run()
        finally:
            self._core.abort(list(self._running))  # nobody takes further results
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
            except Exception as error:  # whatever it was, the state of the core is unknown
                self.broken, self.lost = error, [running.tracker for running in self._in_core()]
                return
            for key, output in outputs.items():
                if key in self._running:  # else its request failed by another generation of this pass
                    yield from self._take(key, output)

    def _feed(self) -> Iterator[Result]:
        while self._waiting and len(self._running) < self._max_generations and not self._deadline.expired():
            running = _Running(self._waiting.popleft(), None)
            try:
                if running.tracker.request.adapter is not None:
                    running.lora = self._adapters(self._core, running.tracker.request.adapter)
                self._add(running, running.tracker.start())
            except Exception as error:  # of this request or adapter: nothing was computed yet
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
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
