"""Reads runs for people: every task with what its ledger says of candidates, attempts, passes and events."""

from __future__ import annotations

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from solver.arc.datasets import Answers, load_solutions
from solver.arc.grid import Grid, grid_from_key, grid_key
from solver.arc.selection import agreement, newest_scores
from solver.arc.submission import Attempts, Submission
from solver.arc.task import Pair, Task
from solver.commands.select import PastRun, pooled_submission, read_run
from solver.errors import InputError
from solver.report.shown import ShownCandidate, ShownPass, ShownQuery, ShownTask, ViewAnswers
from solver.run.ledger import BEFORE, ENDED, LEDGER, PROGRAMS, RESUMED, SHARED, Event, Ledger, Planned
from solver.run.ledger_work import WorkDone
from solver.types import Candidate, Fit, ProgramOutcome, QueryOutcome, Score, TaskOutcome

Key = tuple[str, int]  # task and wave; of a program search (task, BEFORE), of the shared fit (SHARED, BEFORE)


@dataclass(frozen=True, eq=False)
class ShownRun:
    """A run, its submission, and the answers that its ledger leads to."""

    past: PastRun
    submission: Submission
    answers: Answers  # from the solutions or the tasks that the run was started with; empty if they cannot be read
    plans: Mapping[Key, Planned]
    events: Sequence[Event]
    work_log: Sequence[WorkDone]
    seconds: Mapping[Key, Mapping[str, float]]  # of workers and program processes, by phase
    starts: Sequence[float]  # when each process of the supervisor began, in seconds since 1970

    def process_of(self, at: float) -> int:
        """The number, from 0, of the supervisor's process that ran at a time."""
        return max((number for number, start in enumerate(self.starts) if start <= at), default=0)


def read_shown_run(folder: Path) -> ShownRun:
    """A run from its output folder, with attempts that are selected anew. Raises InputError if there is no sound ledger."""
    with damage_told(folder):
        past = read_run(folder)
        with closing(Ledger.read(folder / LEDGER)) as ledger:
            facts, plans, events, work_log = ledger.facts(), ledger.plans(), ledger.events(), ledger.work_log()
            shared, processes = ledger.shared_fit(), ledger.processes()
        seconds = _seconds(past, shared)
        return ShownRun(
            past=past,
            submission=pooled_submission([past], past.rule),
            answers=_answers(facts.solutions, facts.challenges),
            plans=plans,
            events=events,
            work_log=work_log,
            seconds=seconds,
            starts=_starts(events, work_log, seconds, processes),
        )


@contextmanager
def damage_told(folder: Path) -> Iterator[None]:
    """Turn what goes wrong inside, where rows of a ledger make no sense, into an InputError that names the ledger."""
    try:
        yield
    except (ValueError, LookupError, TypeError, sqlite3.Error) as error:
        raise InputError(f"{folder / LEDGER}: the ledger is damaged: {type(error).__name__}: {error}") from None


def shown_tasks(run: ShownRun, ids: Iterable[str]) -> dict[str, ShownTask]:
    """Tasks of a run, by id, with what the run made of them. All of `ids` have to be among `run.past.tasks`."""
    outcomes: dict[str, list[TaskOutcome]] = defaultdict(list)
    for outcome in run.past.outcomes:
        outcomes[outcome.task_id].append(outcome)
    programs = {outcome.task_id: outcome for outcome in run.past.programs}
    events: dict[str, list[Event]] = defaultdict(list)
    for event in run.events:
        events[event.task].append(event)
    done = {(one.task, one.wave): one for one in run.work_log}
    shown = {}
    for id_ in ids:
        mine, searched = sorted(outcomes[id_], key=lambda outcome: outcome.wave), programs.get(id_)
        waves = {outcome.wave for outcome in mine}
        attempts = run.submission[id_]
        answered = searched.answers if searched is not None else ((),) * len(attempts)
        shown[id_] = ShownTask(
            task=_with_answers(run.past.tasks[id_], run.answers.get(id_, ())),
            queries=tuple(_query(mine, index, answered[index], attempts[index]) for index in range(len(attempts))),
            note=_spent(mine, searched),
            passes=tuple(_pass(outcome, run, done.get((id_, outcome.wave)), events[id_]) for outcome in mine),
            events=tuple(_text(event) for event in events[id_] if event.wave not in waves),
        )
    return shown


def _answers(*sources: str | None) -> Answers:
    """The answers of the first source that can be read; empty if none can, as a run can be shown without answers."""
    for source in filter(None, sources):
        try:
            return load_solutions(source)
        except InputError:
            continue
    return {}


def _seconds(past: PastRun, shared: Fit | None) -> dict[Key, Mapping[str, float]]:
    """Seconds of all work by phase. The shared fit counts as a fit; selection is left out, because the supervisor does it."""
    seconds: dict[Key, Mapping[str, float]] = {
        (outcome.task_id, outcome.wave): {phase: used for phase, used in outcome.seconds.items() if phase != "select"}
        for outcome in past.outcomes
    }
    seconds |= {(outcome.task_id, BEFORE): {PROGRAMS: outcome.seconds} for outcome in past.programs}
    if shared is not None:
        seconds[SHARED, BEFORE] = {"fit": shared.seconds}
    return seconds


def _starts(
    events: Sequence[Event],
    work_log: Sequence[WorkDone],
    seconds: Mapping[Key, Mapping[str, float]],
    processes: Mapping[int, float],
) -> list[float]:
    """When each process began: its end less the seconds it took, or its first sign if it did not come to its end by itself."""
    signs = [event.at for event in events]
    signs += [done.at - sum(seconds.get((done.task, done.wave), {}).values()) for done in work_log]
    starts = [min(signs, default=0.0), *(event.at for event in events if event.kind == RESUMED)]
    for number, following in enumerate([*starts[1:], math.inf], 1):
        ends = [event.at for event in events if event.kind == ENDED and event.at < following]
        if ends and number in processes:
            starts[number - 1] = ends[-1] - processes[number]
    return starts


def _with_answers(task: Task, answers: Sequence[Grid | None]) -> Task:
    if len(answers) != len(task.test):
        return task
    pairs = zip(task.test, answers, strict=True)
    return replace(task, test=tuple(Pair(pair.input, pair.output if answer is None else answer) for pair, answer in pairs))


def _query(outcomes: Sequence[TaskOutcome], index: int, programs: Sequence[Candidate], attempts: Attempts) -> ShownQuery:
    queries = [(outcome.wave, query) for outcome in outcomes for query in outcome.queries if query.index == index]
    candidates = _candidates([query for _, query in queries], programs)
    places = {grid_key(candidate.grid): place for place, candidate in enumerate(candidates)}
    views: dict[tuple[int, str], dict[int, list[float]]] = {}
    for wave, query in queries:
        for one in query.candidates:
            of_view = views.setdefault((wave, one.view), {})
            of_view.setdefault(places[grid_key(one.grid)], []).append(one.logprob)
    by_view = tuple(
        ViewAnswers(wave, view, tuple((place, len(found), max(found)) for place, found in sorted(answers.items())))
        for (wave, view), answers in views.items()
    )
    return ShownQuery(candidates, attempts, by_view)


def _candidates(queries: Sequence[QueryOutcome], programs: Sequence[Candidate]) -> tuple[ShownCandidate, ...]:
    """The distinct candidates of a query: those of exact programs first, then by votes, then by probability."""
    found: dict[bytes, list[Candidate]] = {}
    scores: list[Score] = []
    for query in queries:
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


def _pass(outcome: TaskOutcome, run: ShownRun, done: WorkDone | None, events: Sequence[Event]) -> ShownPass:
    planned = run.plans.get((outcome.task_id, outcome.wave))
    plan, fit = "", ""
    if planned is not None:
        samples = f", {planned.plan.samples} samples each" if planned.plan.samples > 1 else ""
        plan = f"{planned.plan.steps} steps, {planned.plan.views} views{samples}"
    if outcome.fit is not None:
        loss = f", loss {outcome.fit.first_loss:.3f} to {outcome.fit.final_loss:.3f}" if outcome.fit.steps else ""
        fit = f"{outcome.fit.steps} steps{loss}, stopped by {outcome.fit.reason}"
    return ShownPass(
        wave=outcome.wave,
        status=outcome.status,
        plan=plan,
        reason=planned.reason if planned is not None else "",
        planned=planned.seconds if planned is not None and 0 < planned.seconds < math.inf else None,
        seconds=outcome.seconds,
        fit=fit,
        views=tuple(query.views for query in outcome.queries),
        agreement=tuple(agreement(query.candidates, query.views) for query in outcome.queries if query.candidates),
        tokens=outcome.tokens,
        worker=done.process if done is not None else None,
        ended=done.at - run.starts[run.process_of(done.at)] if done is not None else None,
        events=tuple(_text(event) for event in events if event.wave == outcome.wave),
    )


def _text(event: Event) -> str:
    return f"{event.kind}: {event.detail}"


def _spent(outcomes: Sequence[TaskOutcome], searched: ProgramOutcome | None) -> str:
    steps = sum(outcome.fit.steps for outcome in outcomes if outcome.fit is not None)
    seconds = sum(sum(outcome.seconds.values()) for outcome in outcomes)
    passes = [f"{len(outcomes)} passes, {steps} steps, {seconds:.1f} s"] if outcomes else []
    programs = [f"programs searched for {searched.seconds:.1f} s"] if searched is not None else []
    return "; ".join([*passes, *programs]) or "no pass: the fallback answer"
