"""Results that are kept up to date pass by pass equal those computed from all passes at once."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.datasets import TaskSet
from solver.arc.grid import Grid, grid_key
from solver.arc.selection import RULES, agreement, newest_scores, select
from solver.arc.submission import two_attempts
from solver.arc.tally import Tally
from solver.arc.task import Pair, Task
from solver.run.state import RunState
from solver.run.task_passes import TaskPasses
from solver.types import AdapterRef, Candidate, Fit, QueryOutcome, Score, TaskOutcome

GRIDS = [np.full((rows, columns), colour, np.uint8) for rows, columns in ((1, 1), (1, 2), (2, 2)) for colour in (1, 2)]
TASK = Task("a", (Pair(GRIDS[0], GRIDS[1]),), (Pair(GRIDS[2], None), Pair(GRIDS[3], None)))
VIEWS = st.sampled_from(["identity/0/", "rot90/0/", "rot90/1/", "flip_lr/0/"])
ADAPTERS = st.sampled_from(["", "r1i1t0", "r1i2t0"])

candidates = st.builds(
    Candidate, st.sampled_from(GRIDS), VIEWS, st.floats(-9, 0), st.sampled_from(["greedy", "search"]), ADAPTERS
)
scores = st.builds(Score, st.sampled_from(GRIDS), VIEWS, st.floats(0, 9), st.just(2), ADAPTERS)


def queries(index: int) -> st.SearchStrategy[QueryOutcome]:
    found = st.lists(candidates, max_size=6).map(tuple)
    return st.builds(QueryOutcome, st.just(index), found, st.lists(scores, max_size=6).map(tuple), st.integers(0, 8))


fits = st.builds(
    lambda steps, adapter: Fit(
        adapter, "complete", "steps", AdapterRef(adapter, Path(adapter), "lora") if steps else None, steps, 0, 0.0, 2.0, 1.0
    ),
    st.integers(0, 9),
    ADAPTERS,
)
outcomes = st.builds(
    TaskOutcome,
    st.just("a"),
    st.integers(0, 4),
    st.sampled_from(["complete", "cut", "failed"]),
    st.none() | fits,
    st.tuples(queries(0), queries(1)),
)


def keys(attempts: Iterable[Iterable[Grid]]) -> list[list[bytes]]:
    return [[grid_key(grid) for grid in pair] for pair in attempts]


@pytest.mark.parametrize("rule", RULES)
@given(stream=st.lists(outcomes, min_size=1, max_size=8))
def test_pass_by_pass_as_all_at_once(rule: str, stream: list[TaskOutcome]) -> None:
    """In whatever order waves come, and however often one is recorded again."""
    state = RunState(TaskSet("one", (TASK,)), rule)
    for outcome in stream:
        state.add(outcome)
    recorded = {outcome.wave: outcome for outcome in stream}
    passes = [recorded[wave] for wave in sorted(recorded)]
    assert state.outcomes() == passes
    shares: list[float | None] = []
    for index in range(2):
        of_query = [outcome.queries[index] for outcome in passes]
        pool = [candidate for query in of_query for candidate in query.candidates]
        newest = newest_scores(score for query in of_query for score in query.scores)
        expected = two_attempts(select(rule, Tally.of(pool), newest), TASK, index)
        assert keys([state.submission["a"][index]]) == keys([expected])
        found = [query for query in of_query if query.candidates]
        shares.append(agreement(found[-1].candidates, found[-1].views) if found else None)
    task = state.state("a")
    assert task.agreement == min(share or 0.0 for share in shares)
    known_shares = [share for share in shares if share is not None]
    assert state.agreement() == pytest.approx(sum(known_shares) / len(known_shares) if known_shares else 0.0, abs=1e-12)
    assert task.waves == max(recorded) + 1
    assert task.status == passes[-1].status
    assert task.steps == state.totals().steps == sum(one.fit.steps for one in passes if one.fit is not None)
    asked = [one for one in passes if any(query.candidates for query in one.queries)]
    assert task.views == (min(query.views for query in asked[-1].queries) if asked else 0)
    assert state.done() == any(one.status != "failed" for one in passes)
    assert list(state.adapters("a")) == [one.fit.adapter for one in passes if one.fit is not None and one.fit.adapter is not None]


@given(stream=st.lists(outcomes, min_size=1, max_size=6), before=st.integers(0, 6))
def test_known_grids_are_those_of_the_waves_before(stream: list[TaskOutcome], before: int) -> None:
    passes = TaskPasses(TASK)
    for outcome in stream:
        passes.add(outcome)
    earlier = [outcome for outcome in passes.outcomes() if outcome.wave < before]
    for index, known in enumerate(passes.known(before)):
        pool = [candidate for outcome in earlier for candidate in outcome.queries[index].candidates]
        expected: dict[bytes, list[float]] = {}
        for candidate in pool:
            expected.setdefault(grid_key(candidate.grid), []).append(candidate.logprob)
        assert {grid_key(one.grid): (one.votes, one.logprob) for one in known} == {
            key: (len(logprobs), max(logprobs)) for key, logprobs in expected.items()
        }


def test_a_pass_counts_only_its_own_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grids that are looked at for the fortieth pass are no more than those for the second one."""
    looked_at = 0

    def counted(grid: Grid) -> bytes:
        nonlocal looked_at
        looked_at += 1
        return grid_key(grid)

    for module in ("solver.arc.tally", "solver.arc.selection"):
        monkeypatch.setattr(f"{module}.grid_key", counted)
    passes, costs = TaskPasses(TASK), []
    for wave in range(40):
        adapter = f"r1i{wave}t0"
        found = tuple(Candidate(GRIDS[view % 3], f"v{view}/", -1.0, "greedy", adapter) for view in range(8))
        scored = tuple(Score(grid, f"v{view}/", 1.0, 2, adapter) for view in range(8) for grid in GRIDS[:3])
        looked_at = 0
        passes.add(TaskOutcome("a", wave, "complete", None, (QueryOutcome(0, found, scored, 8), QueryOutcome(1, (), (), 8))))
        passes.attempts(passes.choices("product_of_experts"))
        costs.append(looked_at)
    assert costs[0] > 0
    assert set(costs) == {costs[1]}
