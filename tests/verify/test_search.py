from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from solver.types import NEVER, Deadline
from solver.verify.ranking import Judged, vote_of_top
from solver.verify.samples import Problem
from solver.verify.search import search, votes_for


class Source:
    """Draws samples that take time on a clock of its own. The answers of a problem are "0", "1", "2" in turn; "2" is right."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        self.asked: list[tuple[str, int, int]] = []

    def clock(self) -> float:
        return self.now

    def __call__(self, problem: Problem, first: int, count: int, deadline: Deadline) -> Sequence[Judged]:
        self.asked.append((problem.id, first, count))
        drawn = []
        for number in range(first, first + count):
            if deadline.expired(self.seconds):
                break
            self.now += self.seconds
            drawn.append(Judged(str(number % 3), number % 3 == 2, float(number % 3), -1.0))
        return drawn


def problems(count: int) -> list[Problem]:
    return [Problem(str(number), (1,), "2") for number in range(count)]


def test_without_haste_every_problem_gets_all_samples() -> None:
    source = Source(1.0)
    found = list(search(problems(3), source, Deadline(float("inf"), source.clock), samples=30))
    assert [(one.samples, one.votes) for one in found] == [(30, 2)] * 3
    assert all(one.chosen is not None and one.chosen.answer == "2" for one in found)


@given(st.integers(1, 12), st.floats(0.01, 400), st.floats(0.01, 3))
def test_samples_follow_the_time_left(count: int, budget: float, seconds: float) -> None:
    source = Source(seconds)
    found = list(search(problems(count), source, Deadline(budget, source.clock), samples=50))
    assert [one.problem.id for one in found] == [str(number) for number in range(count)]
    assert source.now <= budget
    for one in found:
        assert one.votes == (votes_for(one.samples) if one.samples else 0)
        assert (one.chosen is None) == (one.samples == 0)
    if budget > 60 * seconds * count:  # more than all samples take
        assert [one.samples for one in found] == [50] * count
    elif budget > 6 * seconds * count:  # the first round of the first problem takes 4
        assert min(one.samples for one in found) >= budget / seconds / count / 2


def test_votes_grow_with_samples_as_published() -> None:
    assert [votes_for(n) for n in (1, 18, 100, 400, 3200)] == [1, 1, 4, 9, 30]
    counts = [votes_for(n) for n in range(1, 500)]
    assert counts == sorted(counts)
    assert all(1 <= k <= n for n, k in enumerate(counts, 1))


def test_the_answer_is_the_vote_of_the_top() -> None:
    source = Source(1.0)
    (found,) = search(problems(1), source, NEVER, samples=7, votes=lambda n: n)
    everything = Source(1.0)(problems(1)[0], 0, 7, NEVER)
    assert (found.chosen, found.votes) == (vote_of_top(everything, 7), 7)
