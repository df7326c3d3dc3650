"""The summary of a run, and its result for each task, from its ledger and its submission."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from solver.arc.grid import Grid, grid_key
from solver.arc.submission import Submission
from solver.types import ProgramOutcome, TaskOutcome


@dataclass(frozen=True)
class TaskResult:
    """One task of a run. `solved` counts test inputs that either attempt answers; None where no answer is known."""

    id: str
    tests: int
    waves: int  # finished or cut passes
    steps: int  # optimizer steps
    seconds: float
    candidates: int
    distinct: int  # different grids among the candidates, over all test inputs
    solved: int | None
    programs: int | None = None  # answers of programs, over all test inputs; None: not searched
    exact: int = 0  # test inputs for which a program was found that reproduces every demonstration


@dataclass(frozen=True)
class Summary:
    """The contents of `summary.json`, in seconds, tokens and bytes. `scores` is empty unless solutions are known."""

    exit_code: int
    reason: str  # why the run stopped, in words
    tasks: int
    queries: int
    done: int
    failed: int
    waves: int
    seconds: float  # wall clock since `started`
    budget: float
    trainer: str
    engine: str
    dtype: str
    device: str
    steps: int
    trained_tokens: int
    prompt_tokens: int
    sampled_tokens: int
    trained_rate: float
    sampled_rate: float
    peak_memory_worker: int
    peak_memory_supervisor: int
    phases: dict[str, dict[str, float]]  # phase -> {"planned": seconds, "used": seconds, "error": share}
    agreement: float
    events: dict[str, int]  # kind -> count
    scores: dict[str, Any]
    model: str
    recipe: str
    machine: str
    settings: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    commit: str
    programs_searched: int = 0  # tasks
    programs_exact: int = 0  # tasks with a program that reproduces every demonstration, for every test input
    programs_seconds: float = 0.0  # of all processes
    results: tuple[TaskResult, ...] = ()  # one per task, in file order

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def summary_from_json(value: Any) -> Summary:
    """The summary from the parsed `summary.json`. Raises TypeError or ValueError if it is none of this version."""
    if not isinstance(value, dict) or not isinstance(results := value.get("results"), list):
        raise ValueError("its results are missing")
    names = {field.name for field in fields(Summary)} - {"results"}
    plain = {name: one for name, one in value.items() if name in names}
    return Summary(**plain, results=tuple(TaskResult(**result) for result in results))


def task_results(
    outcomes: Iterable[TaskOutcome],
    submission: Submission,
    answers: Mapping[str, Sequence[Grid | None]],
    programs: Mapping[str, ProgramOutcome] | None = None,
) -> list[TaskResult]:
    """One result for every task of the submission, in its order. `answers` and `programs` may lack tasks."""
    passes: dict[str, list[TaskOutcome]] = {id_: [] for id_ in submission}
    for outcome in outcomes:
        passes.setdefault(outcome.task_id, []).append(outcome)
    return [_result(id_, passes[id_], submission, answers.get(id_), (programs or {}).get(id_)) for id_ in submission]


def exact_queries(outcome: ProgramOutcome) -> int:
    """Test inputs for which a program was found that reproduces every demonstration."""
    return sum(any(one.program is not None and one.program.exact for one in answers) for answers in outcome.answers)


def _result(
    id_: str,
    passes: list[TaskOutcome],
    submission: Submission,
    answers: Sequence[Grid | None] | None,
    programs: ProgramOutcome | None,
) -> TaskResult:
    candidates = [(query.index, grid_key(c.grid)) for outcome in passes for query in outcome.queries for c in query.candidates]
    solved = None
    if answers is not None and any(answer is not None for answer in answers):
        pairs = zip(submission[id_], answers, strict=True)
        solved = sum(any(np.array_equal(attempt, answer) for attempt in two) for two, answer in pairs if answer is not None)
    return TaskResult(
        id=id_,
        tests=len(submission[id_]),
        waves=len(passes),
        steps=sum(outcome.fit.steps for outcome in passes if outcome.fit is not None),
        seconds=sum(sum(outcome.seconds.values()) for outcome in passes),
        candidates=len(candidates),
        distinct=len(set(candidates)),
        solved=solved,
        programs=None if programs is None else sum(map(len, programs.answers)),
        exact=0 if programs is None else exact_queries(programs),
    )
