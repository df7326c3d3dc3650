"""The engine over Hugging Face causal language models with full attention: sampling, threshold search, scoring."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from solver.config import InferSettings
from solver.errors import InputError, ProcessBroken, one_line
from solver.infer.base import EngineState
from solver.infer.checks import refusal
from solver.infer.decoding import Decoder, DecodeRequest
from solver.infer.forward import Forward
from solver.infer.grammar import GridMachine
from solver.infer.pace import Pace
from solver.infer.scoring import Scorer
from solver.infer.token_choice import SMALL_VOCABULARY, Chooser, Searcher, TokenSampler
from solver.infer.trial import check_model
from solver.model.adapters import apply_adapter
from solver.model.device import ModelShape, affordable_positions
from solver.model.load import Base, share
from solver.model.lora import load_stack, read_shape
from solver.model.memory import broken, is_out_of_memory, out_of_memory_line
from solver.types import AdapterRef, Deadline, Request, Result, SampleRequest, ScoreRequest, SearchRequest

if TYPE_CHECKING:
    from solver.infer.static.store import BatchStore

log = logging.getLogger(__name__)

R = TypeVar("R", SampleRequest, SearchRequest, ScoreRequest)
D = TypeVar("D", SampleRequest, SearchRequest)
STACKED_DEVICES = ("cuda",)  # here rows of different LoRA adapters share a batch; elsewhere merged weights are faster
STATIC_DEVICES = ("cuda",)  # here static batches decode (not measured yet); on a CPU they are slower


@dataclass(frozen=True, eq=False)
class _Batch(Generic[R]):
    """Requests that run as one batch, and the model that serves all of them."""

    forward: Forward
    requests: list[R]
    adapters: dict[str, int]  # adapter id -> its number in the stack of `forward`

    def number(self, request: Request) -> int:
        """The number of the request's adapter in the stack of `forward`; 0 without an adapter."""
        return 0 if request.adapter is None else self.adapters[request.adapter.id]


class HFEngine:
    """Completions and log-probabilities from `base` and adapters of it. The requests under one adapter run as one batch.

    Memory: keys and values of at most `settings.batch_tokens` positions at once, on CUDA fewer if the device is too small for
    them (but one sequence always runs, however long).
    Besides, as many positions of the prompts that were sampled or searched last are kept, so that scoring with the same adapter
    need not read them again. If memory runs out, the engine goes on with half of that. A request that cannot be served gives a
    "failed" result, not an exception. On STATIC_DEVICES static batches decode (`solver.infer.static`) if they can compute the
    model. If they fail, `Decoder` takes over, with a warning. Raises InputError for a model whose attention is not computed here
    as transformers does, see `check_model`.
    """

    def __init__(self, base: Base, settings: InferSettings, state: EngineState | None = None) -> None:
        """`state` is what the process remembers across engines."""
        check_model(base)
        self._state = state or EngineState()
        self._base, self._settings = base, settings
        self._pace = Pace()
        self._max_positions = _max_positions(base, settings.batch_tokens)
        self._forward = Forward(share(base.model), base.device, None, self._max_positions)
        self._adapted: tuple[tuple[str, ...], Forward] | None = None  # ids of the adapters used last, and their model
        self._machine = GridMachine(base.codec.grammar, self._forward.vocabulary) if settings.grammar else None
        self._static = self._static_batches() if base.device.type in STATIC_DEVICES else None

    def start(self, rank: int) -> None:
        """Nothing to do: adapters of any rank are applied when requests name them."""

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        """`n` sampled completions per request, or a greedy one, most probable first.

        A completion that reaches `max_new_tokens` or the end of the context is returned as not finished.
        """

        def run(group: _Batch[SampleRequest]) -> Iterator[Result]:
            return self._decode(group, lambda left: TokenSampler(left, self._machine), deadline)

        return self._run(requests, run, deadline)

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        """Every completion with probability >= min_prob per request, most probable first.

        Prefixes of that probability that reach `max_new_tokens` or the end of the context are returned as not finished.
        """

        def run(group: _Batch[SearchRequest]) -> Iterator[Result]:
            return self._decode(group, lambda left: Searcher(left, self._machine), deadline)

        return self._run(requests, run, deadline)

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        """The given completions with their log-probabilities; no grammar applies."""

        def run(group: _Batch[ScoreRequest]) -> Iterator[Result]:
            end, budget = self._base.codec.end, self._max_positions
            return Scorer(group.forward, group.number, end, budget, self._pace, deadline).run(group.requests)

        return self._run(requests, run, deadline)

    def _decode(self, group: _Batch[D], chooser: Callable[[Sequence[D]], Chooser], deadline: Deadline) -> Iterator[Result]:
        left = {request.id: request for request in group.requests}
        for result in self._decode_static(group, deadline):
            del left[result.request]
            yield result
        if not left:
            return
        room = self._base.context
        requests = [
            DecodeRequest(r.id, r.prompt, min(r.max_new_tokens, room - len(r.prompt)), group.number(r)) for r in left.values()
        ]
        end, budget, choose = self._base.codec.end, self._max_positions, chooser(list(left.values()))
        yield from Decoder(group.forward, choose, self._machine, end, requests, budget, self._pace, deadline).run()

    def _static_batches(self) -> BatchStore | None:
        """Where static batches are made and kept; None if they cannot serve this base."""
        from solver.infer.static.one_token_pass import unsupported
        from solver.infer.static.store import BatchStore

        grammar = self._base.codec.grammar if self._settings.grammar else None
        model, vocabulary = self._forward.model, self._forward.vocabulary
        if unsupported(model) or (grammar is None and vocabulary > SMALL_VOCABULARY):
            return None
        return BatchStore(model, grammar, self._base.codec.end, vocabulary, self._base.device)

    def _decode_static(self, group: _Batch[D], deadline: Deadline) -> Iterator[Result]:
        """The results of those requests that static batches serve: all, or fewer where they cannot, or if they fail."""
        if self._static is None or self._state.static_given_up:
            return
        from solver.infer.static.decoder import StaticDecoder
        from solver.infer.static.requests import servable

        requests = [request for request in group.requests if servable(request)]
        if not requests:
            return
        numbers, budget = [group.number(request) for request in requests], self._max_positions
        try:
            yield from StaticDecoder(
                group.forward, self._static, requests, numbers, self._base.context, budget, self._pace, deadline
            ).run()
            return
        except Exception as error:  # a capture may fail in any way
            failure = error.with_traceback(None)  # whose frames hold the buffers
        self._static.clear()
        if why := broken(self._base.device):
            raise ProcessBroken(why) from failure
        reason = one_line(failure)
        if not is_out_of_memory(failure):  # which may be otherwise at the next call
            self._state.static_given_up = reason
        log.warning("engine: static batches failed, and the decoder with buffers that grow takes over: %s", reason)

    def _run(self, requests: Sequence[R], run: Callable[[_Batch[R]], Iterator[Result]], deadline: Deadline) -> Iterator[Result]:
        """Refuse requests that cannot be served, then serve the others, one batch after the other."""
        groups: dict[str, list[R]] = {}
        for request in requests:
            error = refusal(request, self._base.context)
            if error:
                yield _failed(request, error)
            else:
                groups.setdefault(self._group(request.adapter), []).append(request)
        for group in groups.values():
            if deadline.expired():
                yield from (Result(request.id, "cut", (), "", len(request.prompt)) for request in group)
                continue
            adapters = {r.adapter.id: r.adapter for r in group if r.adapter is not None}
            try:
                forward = self._load(list(adapters.values()))
            except (InputError, MemoryError, RuntimeError) as error:
                reason = out_of_memory_line(error) if is_out_of_memory(error) else one_line(error)
                yield from (_failed(request, reason) for request in group)
                continue
            results = run(_Batch(forward, group, {id_: number for number, id_ in enumerate(adapters)}))
            while True:
                # inference mode is entered for each result, not around the loop, so that the caller does not run in it
                with torch.inference_mode():
                    result = next(results, None)
                if result is None:
                    break
                yield result

    def _group(self, adapter: AdapterRef | None) -> str:
        """The name of the batch for requests under this adapter."""
        if adapter is None:
            return ""
        if adapter.kind == "lora" and self._base.device.type in STACKED_DEVICES:
            try:
                return f"stack of {read_shape(adapter.path)}"
            except InputError:
                pass  # loading it will fail for this adapter alone, and say why
        return f"adapter {adapter.id}"

    def _load(self, adapters: Sequence[AdapterRef]) -> Forward:
        """The model under the adapters of one batch. The last one is kept. If memory runs out, there is a second try."""
        if not adapters:
            return self._forward
        ids = tuple(adapter.id for adapter in adapters)
        if self._adapted is None or self._adapted[0] != ids:
            self._adapted = None  # free the last one first
            try:
                forward = self._adapt(adapters)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("out of memory: applying adapters is tried once more")
                forward = None
            if forward is None:  # outside the except block, so that the error's references are gone, except for cycles
                gc.collect()
                if self._base.device.type == "cuda":
                    torch.cuda.empty_cache()
                forward = self._adapt(adapters)
            self._adapted = ids, forward
        return self._adapted[1]

    def _adapt(self, adapters: Sequence[AdapterRef]) -> Forward:
        if len(adapters) == 1:
            return Forward(apply_adapter(self._base, adapters[0]), self._base.device, None, self._max_positions)
        stack = load_stack(self._base, adapters)
        return Forward(stack.model, self._base.device, stack, self._max_positions)


def _max_positions(base: Base, wanted: int) -> int:
    """Of keys and values, in a batch: `wanted`, or as many as the memory of the device allows."""
    if base.device.type != "cuda":
        return wanted
    free, _ = torch.cuda.mem_get_info(base.device)
    return affordable_positions(ModelShape.of(base.model.config.get_text_config()), base.dtype.itemsize, wanted, free)


def _failed(request: Request, error: str) -> Result:
    return Result(request.id, "failed", (), error, len(request.prompt))
