"""`solver select`: selects attempts again from the ledgers of one or several runs and from other submissions, without a model.

Candidates of the same task are pooled over the runs, those of the network and those of programs, whether one run has both or
different runs do. Runs of different tasks are put together into one submission.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.selection import RULES, newest_scores, select
from solver.arc.submission import Submission, load_submission, two_attempts, write_submission
from solver.arc.tally import Tally
from solver.arc.task import Task
from solver.errors import InputError
from solver.run.ledger import LEDGER, Ledger
from solver.types import NEVER, Candidate, ProgramOutcome, Score, TaskOutcome

if TYPE_CHECKING:
    from solver.verify.grids import GridJudge

Found = tuple[list[Candidate], list[Score]]

SUBMISSION = "submission.json"  # its name in the folder of a run
FIRST, SECOND = 2, 1  # votes of the first and the second attempt of a submission
JUDGED_VIEWS = 8  # under which a verifier judges a candidate: all dihedral ones
VERIFIER = "verifier"  # the rule that asks a model, beside those of arc.selection


@dataclass(frozen=True)
class PastRun:
    """What selection needs of a run, from its ledger."""

    folder: Path
    rule: str
    model: str  # fingerprint of the base model
    tests: dict[str, int]  # test inputs of every task, bad ones included, in file order
    tasks: dict[str, Task]  # the good ones
    outcomes: tuple[TaskOutcome, ...]
    programs: tuple[ProgramOutcome, ...] = ()


def reselect(sources: Sequence[Path], rule: str | None, out: Path, verifier: Path | None = None) -> str:
    """Select from all sources by `rule` (default: that of the first run) and write the submission to `out`; gives a line to show.

    The rule "verifier" ranks candidates by that in the folder `verifier`, under JUDGED_VIEWS views. No other rule uses it.

    A source is the folder of a run, a submission file, or a folder that holds a submission and no ledger. Candidates and scores
    of a task are pooled over runs; attempts of submissions are counted by `merged`. Raises InputError if a source cannot be read,
    two sources hold different tasks of the same id, the rule is unknown, the verifier is missing or of another model, or `out`
    cannot be written.
    """
    if rule is not None and rule not in (*RULES, VERIFIER):
        raise InputError(f"--rule: unknown rule {rule!r}; there are: {', '.join((*RULES, VERIFIER))}")
    if (rule == VERIFIER) != (verifier is not None):
        raise InputError("--rule verifier and --verifier DIR go together: one of them is missing")
    runs = [read_run(source) for source in sources if not _is_submission(source)]
    others = {path: load_submission(path) for path in map(_submission_file, filter(_is_submission, sources))}
    chosen = rule or (runs[0].rule if runs else "")
    judge = None if verifier is None else load_judge(verifier, runs, JUDGED_VIEWS)
    submission = pooled_submission(runs, chosen, others, judge)
    try:
        write_submission(out, submission)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}") from None
    parts = [f"selected by {chosen} from {', '.join(str(run.folder) for run in runs)}"] if runs else []
    parts += [f"merged with {', '.join(map(str, others))}"] if others else []
    return f"{out}: {len(submission)} tasks, {', '.join(parts)}"


def load_judge(verifier: Path, runs: Sequence[PastRun], views: int) -> GridJudge:
    """The verifier of a folder, which has to be one for the base model of every run. Raises InputError."""
    from solver.config import ModelSettings
    from solver.verify.grids import GridJudge
    from solver.verify.verifier import load_verifier, read_facts

    generator = read_facts(verifier).generator
    for run in runs:
        if run.model != generator:
            raise InputError(
                f"{verifier}: a verifier of another generator: it judges {generator}, {run.folder} is of {run.model}"
            )
    return GridJudge(load_verifier(verifier, ModelSettings()), views)


def _is_submission(source: Path) -> bool:
    return source.is_file() or (not (source / LEDGER).exists() and (source / SUBMISSION).is_file())


def _submission_file(source: Path) -> Path:
    return source / SUBMISSION if source.is_dir() else source


def read_run(folder: Path) -> PastRun:
    """A run from its output folder. Raises InputError if there is no sound ledger, or only the beginning of one."""
    with closing(Ledger.read(folder / LEDGER)) as ledger:
        facts = ledger.facts()
        if facts.all_settings is None:
            raise InputError(f"{folder / LEDGER}: its run ended before any work began")
        return PastRun(
            folder=folder,
            rule=facts.all_settings["select"]["rule"],
            model=ledger.identity().model,
            tests=ledger.test_counts(),
            tasks={task.id: task for task in ledger.tasks()},
            outcomes=tuple(ledger.outcomes()),
            programs=tuple(ledger.program_outcomes()),
        )


def pooled_submission(
    runs: Sequence[PastRun], rule: str, others: Mapping[Path, Submission] | None = None, judge: GridJudge | None = None
) -> Submission:
    """Two attempts for every test input of every source.

    `rule` selects from the candidates and newest scores of all runs; the result is merged with the attempts of the submissions
    `others`. Where there is neither, the fallback fills in. The rule "verifier" needs a `judge`.

    Raises InputError if two sources hold different tasks of the same id.
    """
    others = others or {}
    tasks = _tasks(runs)
    by_run = [by_query(run, str(number)) for number, run in enumerate(runs)]
    submission: Submission = {}
    for id_, tests in _test_counts(runs, tasks, others).items():
        attempts = []
        for index in range(tests):
            candidates, scores = pooled([run[id_, index] for run in by_run if (id_, index) in run])
            ranked = list(ranking(rule, tasks.get(id_), index, candidates, scores, judge)) if candidates else []
            said = [other[id_][index] for other in others.values() if id_ in other]
            attempts.append(two_attempts(merged(ranked, said), tasks.get(id_), index))
        submission[id_] = tuple(attempts)
    return submission


def pooled(parts: Sequence[Found]) -> Found:
    """The candidates, and the newest scores of each run, of one test input in several runs."""
    candidates = [candidate for part in parts for candidate in part[0]]
    return candidates, [score for part in parts for score in newest_scores(part[1])]


def ranking(
    rule: str, task: Task | None, index: int, candidates: Sequence[Candidate], scores: Sequence[Score], judge: GridJudge | None
) -> Sequence[Grid]:
    """The best two grids of a test input, or all of them, best first."""
    tally = Tally.of(candidates)
    if judge is None or task is None:
        return select(rule, tally, scores)
    from solver.verify.grids import all_grids, by_scores

    return by_scores(tally, judge.scores(task, index, list(all_grids(tally).values()), NEVER))


def merged(ranked: Sequence[Grid], others: Sequence[Sequence[Grid]]) -> list[Grid]:
    """The grids of a ranking and of other pairs of attempts, best first.

    The first two grids of the ranking count as one more pair. A first attempt has two votes, a second one has one; ties go to the
    grid that comes first. Without `others` the ranking stays as it is.
    """
    if not others:
        return list(ranked)
    points: Counter[bytes] = Counter()
    for attempts in (ranked[:2], *others):
        for grid, worth in zip(attempts, (FIRST, SECOND), strict=False):
            points[grid_key(grid)] += worth
    return [grid_from_key(key) for key, _ in points.most_common()]


def _tasks(runs: Sequence[PastRun]) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    origin: dict[str, Path] = {}
    for run in runs:
        for id_, task in run.tasks.items():
            if tasks.setdefault(id_, task) != task:
                raise InputError(f"{run.folder}: task {id_}: differs from the task of this id in {origin[id_]}")
            origin.setdefault(id_, run.folder)
    return tasks


def _test_counts(runs: Sequence[PastRun], tasks: Mapping[str, Task], others: Mapping[Path, Submission]) -> dict[str, int]:
    """The test inputs of every task, in the order of the sources. A task that no run could read has as many as were answered."""
    counts: dict[str, int] = {}
    for path, other in others.items():
        for id_, entries in other.items():
            known = len(tasks[id_].test) if id_ in tasks else counts.get(id_, len(entries))
            if len(entries) != known:
                raise InputError(f"{path}: task {id_}: has {len(entries)} entries, another source has {known} test inputs")
            counts[id_] = known
    of_runs = {id_: counts.get(id_, tests) for run in runs for id_, tests in run.tests.items()}
    return {**of_runs, **{id_: len(task.test) for id_, task in tasks.items()}, **counts}


def by_query(run: PastRun, name: str) -> dict[tuple[str, int], Found]:
    """Candidates and scores by query, in the order of waves. `name` is put before adapter ids, which repeat between runs."""
    found: dict[tuple[str, int], Found] = {}
    for outcome in sorted(run.outcomes, key=lambda outcome: outcome.wave):
        for query in outcome.queries:
            candidates, scores = found.setdefault((outcome.task_id, query.index), ([], []))
            candidates += (replace(candidate, adapter=f"{name}/{candidate.adapter}") for candidate in query.candidates)
            scores += (replace(score, adapter=f"{name}/{score.adapter}") for score in query.scores)
    for searched in run.programs:
        for index, answers in enumerate(searched.answers):
            candidates, _ = found.setdefault((searched.task_id, index), ([], []))
            candidates += answers
    return found
