"""The lines for people that tell what happens in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from solver.messages import WorkerFacts
from solver.report.observer import Progress
from solver.report.results import exact_queries
from solver.run.state import RunState
from solver.types import ProgramOutcome, TaskOutcome

MANY = 16  # workers


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


def progress_of(run_state: RunState, searched: bool, wave: int, seconds_left: float, activity: str) -> Progress:
    """How far a run is; with `searched`, a task is done once programs were searched for it."""
    totals = run_state.totals()
    return Progress(
        tasks=len(run_state.states()),
        done=len(run_state.program_outcomes()) if searched else run_state.done(),
        failed=run_state.failed(),
        wave=wave,
        steps=totals.steps,
        trained_rate=totals.trained_rate,
        sampled_rate=totals.sampled_rate,
        agreement=run_state.agreement(),
        seconds_left=seconds_left,
        activity=activity,
    )


def activities(workers: Sequence[str], programs: str) -> Iterator[str]:
    """What is going on: the activity of each worker and that of program search, where they are not empty.

    Of more than `MANY` workers, how many do each kind of work.
    """
    if len(workers) > MANY:
        counts = Counter(activity.split()[0] for activity in workers if activity)
        yield from (f"{count} {kind}" for kind, count in counts.most_common())
        workers = ()
    for number, activity in enumerate(workers):
        if activity:
            yield activity if len(workers) == 1 else f"{number}: {activity}"
    if programs:
        yield programs
