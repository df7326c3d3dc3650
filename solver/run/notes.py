"""The lines for people that tell what happens in a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from solver.messages import WorkerFacts
from solver.report.results import exact_queries
from solver.types import ProgramOutcome, TaskOutcome


def describe_ready(worker: int, seconds: float, facts: WorkerFacts) -> str:
    """A worker that has started."""
    return f"worker {worker} ready after {seconds:.1f} s: " + ", ".join(
        f"{name} {value}" for name, value in facts.to_json().items()
    )


def describe_outcome(outcome: TaskOutcome, agreement: float) -> str:
    """The outcome of a pass, and the agreement of its task after it (0 to 1)."""
    fit = outcome.fit
    fitted = f"{fit.steps} steps to loss {fit.final_loss:.3f}" if fit is not None and fit.steps else "no fit"
    candidates = sum(len(query.candidates) for query in outcome.queries)
    seconds = sum(outcome.seconds.values())
    name = f"{outcome.task_id} wave {outcome.wave + 1}"
    return f"{name}: {outcome.status}, {fitted}, {candidates} candidates, agreement {agreement:.0%}, {seconds:.1f} s"


def describe_programs(outcome: ProgramOutcome) -> str:
    """The outcome of a search in one line."""
    found = [one for answers in outcome.answers for one in answers]
    tests = len(outcome.answers)
    return (
        f"{outcome.task_id} programs: {outcome.status}, {len(found)} answers, exact for {exact_queries(outcome)} of {tests}"
        f" test input{'s' * (tests != 1)}, {outcome.seconds:.1f} s"
    )


def activities(workers: Sequence[str], programs: str) -> Iterator[str]:
    """What is going on: the activity of each worker and that of program search, where they are not empty."""
    for number, activity in enumerate(workers):
        if activity:
            yield activity if len(workers) == 1 else f"{number}: {activity}"
    if programs:
        yield programs
