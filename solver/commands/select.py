"""Choose the attempts anew from the ledgers of one or several runs of the same tasks, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from solver.arc.selection import RULES, newest_scores, select
from solver.arc.submission import Submission, two_attempts, write_submission
from solver.arc.task import Task
from solver.errors import InputError
from solver.run.ledger import LEDGER, Ledger
from solver.types import Candidate, Score, TaskOutcome

Found = tuple[list[Candidate], list[Score]]


@dataclass(frozen=True)
class PastRun:
    """What a ledger holds of a run, as far as selection needs it."""

    folder: Path
    fingerprint: str  # of its task set
    rule: str
    tests: dict[str, int]  # test inputs of every task, bad ones included, in file order
    tasks: dict[str, Task]  # the good ones
    outcomes: tuple[TaskOutcome, ...]


def reselect(folders: Sequence[Path], rule: str | None, out: Path) -> str:
    """Write the submission that `rule` (default: that of the first run) makes of all runs to `out`; gives a line for people.

    Votes and likelihoods pool over the runs. Raises InputError if a ledger cannot be read, the runs are not of the same
    tasks, the rule is unknown, or `out` cannot be written.
    """
    if rule is not None and rule not in RULES:
        raise InputError(f"--rule: unknown rule {rule!r}; there are: {', '.join(RULES)}")
    runs = [read_run(folder) for folder in folders]
    first = runs[0]
    for other in runs[1:]:
        if other.fingerprint != first.fingerprint:
            raise InputError(f"{other.folder}: holds a run of another task set than {first.folder}")
    chosen = rule or first.rule
    submission = pooled_submission(runs, chosen)
    try:
        write_submission(out, submission)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    return f"{out}: {len(submission)} tasks, selected by {chosen} from {', '.join(str(run.folder) for run in runs)}"


def read_run(folder: Path) -> PastRun:
    """A run from its output folder. Raises InputError if there is no sound ledger, or only the beginning of one."""
    with closing(Ledger.read(folder / LEDGER)) as ledger:
        facts = ledger.facts()
        if "all_settings" not in facts:
            raise InputError(f"{folder / LEDGER}: its run ended before it began to work")
        return PastRun(
            folder=folder,
            fingerprint=facts["tasks"],
            rule=json.loads(facts["all_settings"])["select"]["rule"],
            tests=ledger.test_counts(),
            tasks={task.id: task for task in ledger.tasks()},
            outcomes=tuple(ledger.outcomes()),
        )


def pooled_submission(runs: Sequence[PastRun], rule: str) -> Submission:
    """The attempts that `rule` chooses from the candidates and newest scores of all runs; the fallback where there are none."""
    found = [_by_query(run.outcomes, str(number)) for number, run in enumerate(runs)]
    submission: Submission = {}
    for id_, tests in runs[0].tests.items():
        attempts = []
        for index in range(tests):
            parts = [part[id_, index] for part in found if (id_, index) in part]
            candidates = [candidate for part in parts for candidate in part[0]]
            scores = [score for part in parts for score in newest_scores(part[1])]
            attempts.append(two_attempts(select(rule, candidates, scores), runs[0].tasks.get(id_), index))
        submission[id_] = tuple(attempts)
    return submission


def _by_query(outcomes: Iterable[TaskOutcome], run: str) -> dict[tuple[str, int], Found]:
    """Candidates and scores by query, waves in order. Adapter ids are unique within a run only, so `run` is put before them."""
    found: dict[tuple[str, int], Found] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.wave):
        for query in outcome.queries:
            candidates, scores = found.setdefault((outcome.task_id, query.index), ([], []))
            candidates += (replace(candidate, adapter=f"{run}/{candidate.adapter}") for candidate in query.candidates)
            scores += (replace(score, adapter=f"{run}/{score.adapter}") for score in query.scores)
    return found
