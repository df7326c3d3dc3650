"""The contract of inference engines."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from solver.types import Deadline, Result, SampleRequest, ScoreRequest, SearchRequest, TokenIds

# Guesses at the completions of the request with this id, best first; None: ask again when another result is out.
Drafts = Callable[[str], Sequence[TokenIds] | None]


class Engine(Protocol):
    """Turns token ids into completions and log-probabilities. Results stream, one per request as it completes.

    `drafts` is asked before a request starts. Good drafts make `sample` and `search` faster, bad ones slower; neither
    changes a result. An engine may do without.
    """

    def sample(self, requests: Sequence[SampleRequest], deadline: Deadline, drafts: Drafts | None = None) -> Iterator[Result]:
        """`n` sampled (or one greedy) completions per request."""
        ...

    def search(self, requests: Sequence[SearchRequest], deadline: Deadline, drafts: Drafts | None = None) -> Iterator[Result]:
        """Every completion with probability >= min_prob per request, most probable first."""
        ...

    def score(self, requests: Sequence[ScoreRequest], deadline: Deadline) -> Iterator[Result]:
        """The given completions with their log-probabilities."""
        ...
