"""The contract of inference engines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from solver.errors import ProcessBroken
from solver.infer.vllm.state import VllmState
from solver.types import Deadline, Result, SampleRequest, ScoreRequest, SearchRequest


class EngineLost(ProcessBroken):
    """The engine broke and cannot be started again. Requests without a result so far get none."""


class Engine(Protocol):
    """Turns token ids into completions and log-probabilities. Results stream, one per request as it completes.

    A request that cannot be served gives a "failed" result. EngineLost is raised if the engine can serve no request any more.
    """

    def start(self, rank: int) -> None:
        """Get ready for LoRA adapters of at most this rank, so that the first request need not wait. Raises if that fails."""
        ...

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        """`n` sampled completions per request, or a greedy one, most probable first."""
        ...

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        """Every completion with probability >= min_prob per request, most probable first."""
        ...

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        """The given completions with their log-probabilities."""
        ...


@dataclass(eq=False)
class EngineState:
    """What a process remembers about the engines of its base model after one is replaced by another."""

    vllm_given_up: str = ""  # why "auto" does not choose vllm any more; empty: it may
    static_given_up: str = ""  # why hf does not decode in static batches any more; empty: it may
    vllm: VllmState = field(default_factory=VllmState)
