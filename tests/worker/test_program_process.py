"""One work item of the process that searches for programs: whether the clock cut its search, and what an error leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from run_helpers import make_tasks

from solver.arc.task import Task
from solver.programs.solve import RESERVE, ProgramAnswer
from solver.types import Deadline, ProgramWork
from solver.worker.programs import search


@dataclass
class Spending:
    """A search that spends some seconds of a clock that it moves."""

    seconds: float
    error: str = ""
    now: float = 0.0

    def clock(self) -> float:
        return self.now

    def __call__(self, task: Task, deadline: Deadline) -> Sequence[ProgramAnswer]:
        self.now += self.seconds
        if self.error:
            raise ValueError(self.error)
        return [ProgramAnswer(0, task.test[0].input, "the input", 1.0, True, 1.0)]


WORK = ProgramWork("p1", make_tasks(1).tasks[0].without_answers(), seconds=2.0, deadline_at=100.0)


@pytest.mark.parametrize(("seconds", "status"), [(1.0, "complete"), (2.0 - RESERVE / 2, "cut"), (2.5, "cut")])
def test_a_search_that_used_all_of_its_time_is_cut(seconds: float, status: str) -> None:
    """The search stops a reserve before its deadline."""
    spending = Spending(seconds)
    outcome = search(WORK, spending, spending.clock)
    assert (outcome.status, outcome.seconds, outcome.most) == (status, seconds, 2.0)
    assert [len(answers) for answers in outcome.answers] == [1] + [0] * (len(WORK.task.test) - 1)


def test_an_error_leaves_no_answers() -> None:
    spending = Spending(1.0, error="no good")
    outcome = search(WORK, spending, spending.clock)
    assert outcome.status == "failed"
    assert "no good" in outcome.error
    assert not any(outcome.answers)
