"""The contract of inference engines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from solver.errors import ProcessBroken
from solver.infer.vllm.state import VllmState
from solver.types import Deadline, Result, SampleRequest, ScoreRequest, SearchRequest


class EngineLost(ProcessBroken):
    """The engine broke and cannot be started again. Requests without a result were not answered."""


class Engine(Protocol):
    """Turns token ids into completions and log-probabilities. Results stream, one per request as it completes.

    A request that cannot be served gives a "failed" result; EngineLost is raised when none can be any more.
    """

    def start(self, rank: int) -> None:
        """Be ready for LoRA adapters of at most this rank, so that no request has to wait for that. Raises if it cannot be."""
        ...

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline) -> Iterator[Result]:
        """`n` sampled (or one greedy) completions per request."""
        ...

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline) -> Iterator[Result]:
        """Every completion with probability >= min_prob per request, most probable first."""
        ...

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        """The given completions with their log-probabilities."""
        ...


@dataclass(eq=False)
class EngineState:
    """What a process remembers of the engines of its base model from one to the next."""

    vllm_given_up: str = ""  # why "auto" takes vllm no more
    vllm: VllmState = field(default_factory=VllmState)
