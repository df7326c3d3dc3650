"""Search with a verifier under a deadline: draw samples, score them, answer by the best ones. How many follows the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from solver.types import Deadline
from solver.verify.ranking import Judged, vote_of_top
from solver.verify.samples import Problem

SAMPLES = 100  # of a problem, where the time is enough; the paper's number
_FIRST = 4  # samples of a round by which the first problem's pace is measured
_EXPONENT, _AT_100 = 0.58, 4.0


def votes_for(samples: int) -> int:
    """How many of the best of `samples` samples vote: 1 of up to 18, 4 of 100, 30 of 3,200.

    A power law through what Cobbe et al. 2021 (arXiv 2110.14168, section 4.3) found best: 3 to 5 of 100, about 30 of 3,200.
    """
    return max(1, round(_AT_100 * (samples / 100) ** _EXPONENT))


class Draw(Protocol):
    """Draws samples of a problem and scores them."""

    def __call__(self, problem: Problem, first: int, count: int, deadline: Deadline) -> Sequence[Judged]:
        """Samples number `first` to `first + count - 1`; fewer if the deadline comes first."""
        ...


@dataclass(frozen=True)
class Found:
    """The answer to one problem."""

    problem: Problem
    chosen: Judged | None  # None: no sample has an answer
    samples: int  # N
    votes: int  # k


def search(
    problems: Sequence[Problem], draw: Draw, deadline: Deadline, samples: int = SAMPLES, votes: Callable[[int], int] = votes_for
) -> Iterator[Found]:
    """Answer the problems in order, and give each as soon as it is known.

    A problem may take an equal share of the time that is left. It gets `samples` samples, or as many as fit its share at the pace
    of the problems before it. `votes` says how many of the best of N samples vote. After the deadline, problems have no samples.
    """
    pace = 0.0  # seconds a sample, the mean so far
    drawn = 0
    seconds = 0.0
    for number, problem in enumerate(problems):
        share = max(0.0, deadline.remaining()) / (len(problems) - number)
        mine = Deadline(deadline.clock() + share, deadline.clock)
        judged: list[Judged] = []
        while len(judged) < samples and not mine.expired(pace):
            room = mine.remaining() / max(pace, 1e-9) if drawn else _FIRST
            wanted = max(1, int(min(samples - len(judged), room)))
            began = deadline.clock()
            got = draw(problem, len(judged), wanted, deadline)
            judged += got
            drawn, seconds = drawn + len(got), seconds + deadline.clock() - began
            pace = seconds / max(1, drawn)
            if len(got) < wanted:
                break
        k = votes(len(judged)) if judged else 0
        yield Found(problem, vote_of_top(judged, k) if k else None, len(judged), k)
