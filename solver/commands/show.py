"""`solver show`: shows tasks, with the candidates and attempts of a run, in the terminal or as an HTML page.

solver show 0c9aba6e task.json arc2:evaluation
solver show 0c9aba6e --run runs/eval
solver show --run runs/eval --html eval.html
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from solver.arc.datasets import NAMED_SETS, Answers, load_solutions, load_tasks
from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.selection import newest_scores
from solver.arc.submission import Submission
from solver.arc.task import Pair, Task
from solver.commands.select import PastRun, pooled_submission, read_run
from solver.errors import InputError
from solver.report.gallery import ShownCandidate, ShownQuery, ShownTask, as_page, in_terminal
from solver.run.ledger import LEDGER, Ledger
from solver.types import Candidate, ProgramOutcome, Score, TaskOutcome

CANDIDATES = 8  # shown of a test input


@dataclass(frozen=True)
class ShownRun:
    """A run, its submission, and the answers that its ledger leads to."""

    past: PastRun
    submission: Submission
    answers: Answers  # from the solutions or the tasks that the run was started with; empty if they cannot be read


def show(names: Sequence[str], run: Path | None, html: Path | None, console: Console, tell: Callable[[str], None]) -> None:
    """Print the named tasks, or write them to the page `html`. With a run and without names, all of its tasks.

    A name is a file, a folder, a named set, or the id of a task of the run or of a public set. Raises InputError for what cannot
    be found or read, and if `html` cannot be written.
    """
    if not names and run is None:
        raise InputError("nothing to show: give a task (a file, a named set or an id), or --run")
    known = None if run is None else _read(run)
    tasks = find_tasks(names, known, tell) if names else list(known.past.tasks.values()) if known is not None else []
    shown = [_shown(task, known) for task in tasks]
    if html is None:
        for one in shown:
            console.print(in_terminal(one, console.width, CANDIDATES))
        return
    title = f"solver: {run.name or run}" if run is not None else "solver: tasks"
    try:
        html.write_text(as_page(title, _head(shown, known), shown, CANDIDATES), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--html {html}: cannot be written: {error.strerror}") from None
    tell(f"{html}: {len(shown)} tasks")


def find_tasks(names: Sequence[str], run: ShownRun | None, tell: Callable[[str], None]) -> list[Task]:
    """The tasks that the names stand for, in their order. Raises InputError for a name that stands for none."""
    found: list[Task] = []
    for name in names:
        if name in NAMED_SETS or Path(name).exists():
            tasks = load_tasks(name)
            for note in tasks.notes:
                tell(note)
            found += tasks
        else:
            found.append(_by_id(name, run))
    return found


def _by_id(id_: str, run: ShownRun | None) -> Task:
    if run is not None:
        if id_ in run.past.tasks:
            return run.past.tasks[id_]
        raise InputError(f"{id_}: is no file, no named set, and no task of {run.past.folder}")
    for name in NAMED_SETS:
        if (task := load_tasks(name).by_id.get(id_)) is not None:
            return task
    raise InputError(f"{id_}: is no file, no named set, and no task of {', '.join(NAMED_SETS)}")


def _read(folder: Path) -> ShownRun:
    past = read_run(folder)
    with closing(Ledger.read(folder / LEDGER)) as ledger:
        facts = ledger.facts()
    return ShownRun(past, pooled_submission([past], past.rule), _answers(facts.solutions, facts.challenges))


def _answers(*sources: str | None) -> Answers:
    """The answers of the first source that can be read; empty if none can, as a run can be shown without answers."""
    for source in filter(None, sources):
        try:
            return load_solutions(source)
        except InputError:
            continue
    return {}


def _shown(task: Task, run: ShownRun | None) -> ShownTask:
    if run is None or task.id not in run.past.tasks or run.past.tasks[task.id] != task.without_answers():
        return ShownTask(task)
    answers: Sequence[Grid | None] = run.answers.get(task.id, ())
    if len(answers) == len(task.test):
        pairs = zip(task.test, answers, strict=True)
        task = replace(task, test=tuple(Pair(pair.input, pair.output if answer is None else answer) for pair, answer in pairs))
    mine = [outcome for outcome in run.past.outcomes if outcome.task_id == task.id]
    searched = next((outcome for outcome in run.past.programs if outcome.task_id == task.id), None)
    attempts = run.submission[task.id]
    queries = tuple(
        ShownQuery(_candidates(mine, index, searched.answers[index] if searched else ()), attempts[index])
        for index in range(len(task.test))
    )
    return ShownTask(task, queries, _spent(mine, searched))


def _candidates(outcomes: Sequence[TaskOutcome], index: int, programs: Sequence[Candidate]) -> tuple[ShownCandidate, ...]:
    """The distinct candidates of a query: those of exact programs first, then by votes, then by probability."""
    found: dict[bytes, list[Candidate]] = {}
    scores: list[Score] = []
    for outcome in sorted(outcomes, key=lambda outcome: outcome.wave):
        for query in outcome.queries:
            if query.index == index:
                scores += query.scores
                for candidate in query.candidates:
                    found.setdefault(grid_key(candidate.grid), []).append(candidate)
    by_program = {grid_key(one.grid): one.program for one in reversed(programs)}
    for one in programs:
        found.setdefault(grid_key(one.grid), [])
    nlls: dict[bytes, list[float]] = {}
    for score in newest_scores(scores):
        nlls.setdefault(grid_key(score.grid), []).append(score.nll)
    shown = [
        ShownCandidate(
            grid_from_key(key),
            tuple(candidate.view for candidate in group),
            max((candidate.logprob for candidate in group), default=-math.inf),
            sum(nlls[key]) / len(nlls[key]) if key in nlls else None,
            by_program.get(key),
        )
        for key, group in found.items()
    ]
    return tuple(sorted(shown, key=lambda one: (one.program is None or not one.program.exact, -len(one.views), -one.logprob)))


def _spent(outcomes: Sequence[TaskOutcome], searched: ProgramOutcome | None) -> str:
    steps = sum(outcome.fit.steps for outcome in outcomes if outcome.fit is not None)
    seconds = sum(sum(outcome.seconds.values()) for outcome in outcomes)
    passes = [f"{len(outcomes)} passes, {steps} steps, {seconds:.1f} s"] if outcomes else []
    programs = [f"programs searched for {searched.seconds:.1f} s"] if searched is not None else []
    return "; ".join([*passes, *programs]) or "no pass: the fallback answer"


def _head(shown: Sequence[ShownTask], run: ShownRun | None) -> list[str]:
    if run is None:
        return [f"{len(shown)} tasks"]
    solved = [one for task in shown for one in task.solved() if one is not None]
    known = f"; {sum(solved)} of {len(solved)} test inputs solved" if solved else "; no answers are known"
    return [f"{run.past.folder}: {len(shown)} tasks, selected by {run.past.rule}{known}"]
