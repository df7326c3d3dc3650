"""The engine over any Hugging Face causal language model with full attention: sampling, threshold search, scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from solver.config import InferSettings
from solver.errors import InputError
from solver.infer.choosing import Chooser, Sampler, Searcher
from solver.infer.decoding import Decoder, Prompted
from solver.infer.forward import Forward
from solver.infer.grammar import GridMachine
from solver.infer.pace import Pace
from solver.infer.scoring import Scorer
from solver.model.adapters import apply_adapter
from solver.model.load import Base, share
from solver.types import AdapterRef, Deadline, Request, Result, SampleRequest, ScoreRequest, SearchRequest

R = TypeVar("R", SampleRequest, SearchRequest, ScoreRequest)
Run = Callable[[Forward, list[R]], Iterator[Result]]


class HFEngine:
    """Completions and log-probabilities from `base` and adapters of it; the requests of one adapter run as one batch.

    Memory: keys and values of at most `settings.batch_tokens` positions at once (one sequence runs even if it is longer);
    running out of memory halves that and goes on. A request that cannot be served gives a "failed" result, not an exception.
    Raises ValueError for a model without full causal attention in every layer.
    """

    def __init__(self, base: Base, settings: InferSettings) -> None:
        self._base, self._settings = base, settings
        self._pace = Pace()
        self._forward = Forward(share(base.model), base.device)
        self._adapted: tuple[str, Forward] | None = None  # the adapter used last
        self._machine = GridMachine(base.codec.grammar, self._forward.vocabulary) if settings.grammar else None

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        """`n` sampled (or one greedy) completions per request, most probable first.

        A completion that reaches `max_new_tokens` (or the end of the context) is given as not finished.
        """

        def run(forward: Forward, group: list[SampleRequest]) -> Iterator[Result]:
            return self._decode(forward, group, Sampler(group, self._machine), deadline)

        return self._run(requests, run, deadline)

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        """Every completion with probability >= min_prob per request, most probable first.

        Prefixes of that probability that reach `max_new_tokens` (or the end of the context) are given too, as not finished.
        """

        def run(forward: Forward, group: list[SearchRequest]) -> Iterator[Result]:
            return self._decode(forward, group, Searcher(group, self._machine), deadline)

        return self._run(requests, run, deadline)

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        """The given completions with their log-probabilities; no grammar applies."""

        def run(forward: Forward, group: list[ScoreRequest]) -> Iterator[Result]:
            scorer = Scorer(forward, self._base.codec.end, self._settings.batch_tokens, self._pace, deadline)
            return scorer.run(group)

        return self._run(requests, run, deadline)

    def _decode(
        self, forward: Forward, group: Sequence[SampleRequest | SearchRequest], chooser: Chooser, deadline: Deadline
    ) -> Iterator[Result]:
        prompted = [Prompted(r.id, r.prompt, min(r.max_new_tokens, self._base.context - len(r.prompt))) for r in group]
        budget = self._settings.batch_tokens
        end = self._base.codec.end
        return Decoder(forward, chooser, self._machine, end, prompted, budget, self._pace, deadline).run()

    def _run(self, requests: Sequence[R], run: Run[R], deadline: Deadline) -> Iterator[Result]:
        """Refuse what cannot be served, then serve the rest, one adapter after the other."""
        groups: dict[str, list[R]] = {}
        for request in requests:
            error = self._refusal(request)
            if error:
                yield _failed(request, error)
            else:
                groups.setdefault("" if request.adapter is None else request.adapter.id, []).append(request)
        for group in groups.values():
            if deadline.expired():
                yield from (Result(request.id, "cut", (), "", len(request.prompt)) for request in group)
                continue
            try:
                forward = self._load(group[0].adapter)
            except (InputError, RuntimeError) as error:
                yield from (_failed(request, str(error).splitlines()[0]) for request in group)
                continue
            results = run(forward, group)
            while True:
                # inference mode is entered for each result, not around the loop: it must not leak to whoever takes the result
                with torch.inference_mode():
                    result = next(results, None)
                if result is None:
                    break
                yield result

    def _load(self, adapter: AdapterRef | None) -> Forward:
        """The model under an adapter; the one used last is kept."""
        if adapter is None:
            return self._forward
        if self._adapted is None or self._adapted[0] != adapter.id:
            self._adapted = None  # free the old one first
            self._adapted = adapter.id, Forward(apply_adapter(self._base, adapter), self._base.device)
        return self._adapted[1]

    def _refusal(self, request: Request) -> str:
        """Why a request cannot be served; empty if it can."""
        if not len(request.prompt):
            return "the prompt is empty"
        need = 1
        if isinstance(request, ScoreRequest):
            need = max(map(len, request.completions), default=0)
        elif request.max_new_tokens < 1:
            return f"max_new_tokens is {request.max_new_tokens}, not positive"
        if len(request.prompt) + need > self._base.context:
            return f"{len(request.prompt)} prompt tokens and {need} more do not fit the context of {self._base.context}"
        if isinstance(request, SearchRequest) and not 0 < request.min_prob < 1:
            return f"min_prob is {request.min_prob}, not between 0 and 1"
        if isinstance(request, SampleRequest) and (
            request.n < 1 or request.temperature < 0 or (request.temperature == 0 and request.n > 1)
        ):
            return f"cannot draw {request.n} samples at temperature {request.temperature}"
        return ""


def _failed(request: Request, error: str) -> Result:
    return Result(request.id, "failed", (), error, len(request.prompt))
