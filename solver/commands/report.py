"""`solver report`: one HTML page about one or several runs, from their ledgers, submissions and summaries.

solver report runs/eval --html eval.html
solver report runs/before runs/after --html comparison.html
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from solver.arc.datasets import Answers, load_solutions
from solver.arc.jsonfile import compact_json, read_json
from solver.arc.selection import agreement
from solver.arc.submission import Submission, load_submission
from solver.arc.task import Task
from solver.commands.shown_runs import ShownRun, damage_told, read_shown_run, shown_tasks
from solver.errors import InputError
from solver.report.html_page import write_page
from solver.report.results import summary_from_json, task_results
from solver.report.run_report import ReportedRun, WaveAgreement, report_page
from solver.report.scores import hardware_text
from solver.report.tables import summary_facts, summary_head
from solver.report.time_line import Mark, TimeLine, Work, merged
from solver.run.ledger import ENDED, LEDGER, SHARED, Ledger
from solver.run.pipeline import SUBMISSION, SUMMARY
from solver.run.summary import known_scores, phase_seconds
from solver.types import TaskOutcome


def report(folders: Sequence[Path], solutions: str | None, html: Path, tell: Callable[[str], None]) -> str:
    """Write the page about the runs in `folders` to `html`. Gives a line to show; of several runs `tell` gets a line each.

    The answers are those of `solutions`, else of the solutions or the task set that the runs were started with. Raises InputError
    if a run or `solutions` cannot be read, two runs hold different tasks of the same id, or the page cannot be written.
    """
    given = load_solutions(solutions) if solutions is not None else {}
    runs = []
    for folder in folders:
        runs.append(read_shown_run(folder))
        if len(folders) > 1:
            tell(f"{folder}: {len(runs[-1].past.tests)} tasks")
    _check_same_tasks(runs)
    known = {id_: answer for run in reversed(runs) for id_, answer in run.answers.items()}
    reported = [_reported(run, name, known, given) for run, name in zip(runs, _names(folders), strict=True)]
    size = write_page(html, report_page(reported), "--html")
    return f"{html}: {len(runs)} run{'s' * (len(runs) > 1)}, {size / 1e6:.2f} MB"


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole paths if two end alike."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _check_same_tasks(runs: Sequence[ShownRun]) -> None:
    first: dict[str, tuple[Path, Task]] = {}
    for run in runs:
        for id_, task in run.past.tasks.items():
            folder, other = first.setdefault(id_, (run.past.folder, task))
            if other != task:
                raise InputError(f"{run.past.folder}: task {id_}: differs from the task of this id in {folder}")


def _reported(run: ShownRun, name: str, known: Answers, given: Answers) -> ReportedRun:
    """What the page shows of a run; `given` answers have to fit its tasks, `known` ones that do not are left out with a note."""
    folder, notes = run.past.folder, []
    answers, note = _answers(run, known, given)
    notes += note
    submission, note = _submission(run)
    notes += note
    run = replace(run, submission=submission, answers=answers)
    with damage_told(folder), closing(Ledger.read(folder / LEDGER)) as ledger:
        phases, identity, of_run = phase_seconds(ledger), ledger.identity(), ledger.facts()
        facts, note = _facts(folder, of_run.starts in ledger.processes())
        notes += note
        bad = sorted(id_ for id_, status in ledger.statuses().items() if status == "bad")
    if bad:
        notes.append(f"Tasks that could not be read and got fallback answers: {', '.join(bad)}.")
    programs = {outcome.task_id: outcome for outcome in run.past.programs}
    return ReportedRun(
        name=name,
        facts=[("folder", str(folder)), *facts, ("selected by", run.past.rule)],
        settings={
            "model": identity.model,
            "recipe": identity.recipe,
            "machine": of_run.machine or "",
            "budget": f"{of_run.budget:g}" if of_run.budget is not None else "",
            **dict(_flat(of_run.all_settings or {})),
        },
        scores=known_scores(submission, answers),
        results=task_results(run.past.outcomes, submission, answers, programs),
        phases=phases,
        passes=list(_pass_seconds(run)),
        waves=list(_waves(run.past.outcomes)),
        time_lines=list(_time_lines(run)),
        tasks=shown_tasks(run, run.past.tasks),
        notes=notes,
    )


def _answers(run: ShownRun, known: Answers, given: Answers) -> tuple[Answers, list[str]]:
    """The answers to the tasks of a run. Raises InputError if there are `given` ones for another number of test inputs."""
    tests = run.past.tests
    for id_ in tests:
        if id_ in given and len(given[id_]) != tests[id_]:
            raise InputError(f"{run.past.folder}: task {id_}: --solutions has answers for another number of test inputs")
    answers = {id_: outputs for id_, outputs in {**known, **given}.items() if id_ in tests}
    strange = [id_ for id_, outputs in answers.items() if len(outputs) != tests[id_]]
    left = {id_: outputs for id_, outputs in answers.items() if id_ not in strange}
    notes = [f"Answers for another number of test inputs are left out: {', '.join(strange)}."] if strange else []
    return left, notes


def _submission(run: ShownRun) -> tuple[Submission, list[str]]:
    """What the run submitted; if that cannot be read, the attempts that follow from its ledger, with a note."""
    path = run.past.folder / SUBMISSION
    try:
        written = load_submission(path)
    except InputError as error:
        return run.submission, [f"{error}; the attempts were selected again from the ledger."]
    if {id_: len(entries) for id_, entries in written.items()} != run.past.tests:
        return run.submission, [f"{path} is of other tasks; the attempts were selected again from the ledger."]
    return written, []


def _facts(folder: Path, ended: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """What the summary of a run says, by name; none, with a note, if it cannot be read.

    `ended`: the latest process of the run came to its end by itself, so the summary is its own.
    """
    path = folder / SUMMARY
    if not path.exists():
        return [], [f"There is no {SUMMARY}: the run has not ended, or it was killed. Its speed and memory are not known."]
    try:
        summary = summary_from_json(read_json(path, "summary"))
        source = [("commit", summary.commit)] if summary.commit else []
        machine = ("hardware", hardware_text(summary.hardware))
        stale = [] if ended else [f"{SUMMARY} is of an earlier process: the latest one has not ended, or it was killed."]
        return [("result", summary_head(summary)), *summary_facts(summary), machine, *source], stale
    except InputError as error:
        return [], [f"{error}."]
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        return [], [f"{path}: is no summary of this version: {error}."]


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings by dotted name, with their values as JSON."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", compact_json(value)


def _pass_seconds(run: ShownRun) -> Iterator[tuple[float, float]]:
    """Planned and used seconds of every pass that had a prediction."""
    for key, planned in run.plans.items():
        if key in run.seconds and 0 < planned.seconds < math.inf:
            yield planned.seconds, sum(run.seconds[key].values())


def _waves(outcomes: Sequence[TaskOutcome]) -> Iterator[WaveAgreement]:
    latest: dict[tuple[str, int], float] = {}
    for wave in sorted({outcome.wave for outcome in outcomes}):
        before = dict(latest)
        shares = {
            (outcome.task_id, query.index): agreement(query.candidates, query.views)
            for outcome in outcomes
            if outcome.wave == wave
            for query in outcome.queries
            if query.candidates
        }
        if not shares:
            continue
        latest |= shares
        again = [before[key] for key in shares if key in before]
        values = list(shares.values())
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        yield WaveAgreement(
            wave=wave,
            queries=len(shares),
            mean=statistics.fmean(values),
            low=low,
            high=high,
            before=statistics.fmean(again) if len(again) == len(shares) else None,
            latest=statistics.fmean(latest.values()),
        )


def _time_lines(run: ShownRun) -> Iterator[TimeLine]:
    """A time line for each process of the supervisor in which work ended."""
    works: dict[int, list[tuple[str, Work]]] = {}
    for done in run.work_log:
        process = run.process_of(done.at)
        kind = "worker" if done.item else "programs"
        phases: Mapping[str, float] = run.seconds.get((done.task, done.wave), {})
        works.setdefault(process, []).append((done.item, Work(kind, done.process, done.at - run.starts[process], phases)))
    for process, mine in sorted(works.items()):
        start = run.starts[process]
        events = [event for event in run.events if run.process_of(event.at) == process]
        marks = tuple(
            Mark(max(0.0, event.at - start), f"{event.kind}: {event.detail}") for event in events if event.task == SHARED
        )
        ends = [event.at - start for event in events if event.kind == ENDED] or [event.at - start for event in events]
        seconds = max([*ends, *(work.ended for _, work in mine)])
        title = "the run" if len(run.starts) == 1 else f"process {process + 1}"
        yield TimeLine(title, seconds, tuple(merged(mine)), marks)
