"""The page of `solver report`: a pure function of what was read from the ledgers of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from solver.report.charts import Axis, Curve, xy_chart
from solver.report.html_page import HtmlTable, Section, chart, html_page, paragraph, render, subheading
from solver.report.paired import PairedShares
from solver.report.results import TaskResult
from solver.report.scores import wilson
from solver.report.shown import ShownQuery, ShownTask, same
from solver.report.shown_html import anchor, tasks_html
from solver.report.tables import SCORE_NAMES
from solver.report.time_line import TimeLine

# What became of a test input whose answer is known.
SOLVED_BY = {  # by the origin of its right candidate
    "network and program": "solved by the network and a program",
    "network": "solved by the network alone",
    "program": "solved by a program alone",
}
SOLVED_BY_FALLBACK = "solved by the fallback answer"
NOT_CHOSEN = "right candidate found, not among the two attempts"
NOT_FOUND = "right answer not found"
NO_CANDIDATES = "no candidates"
FATES = (*SOLVED_BY.values(), SOLVED_BY_FALLBACK, NOT_CHOSEN, NOT_FOUND, NO_CANDIDATES)  # in the order of the table


@dataclass(frozen=True)
class WaveAgreement:
    """Agreement (0 to 1) of the test inputs for which a wave found candidates."""

    wave: int
    queries: int
    mean: float
    low: float  # lower quartile
    high: float  # upper quartile
    before: float | None  # mean of the same test inputs in their wave before; None: this was the first of all of them
    latest: float  # mean over all test inputs so far, each in its latest wave


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """Everything that the page shows of one run."""

    name: str
    facts: Sequence[tuple[str, str]]  # what it was and did, in words
    settings: Mapping[str, str]  # by dotted name
    scores: Mapping[str, Mapping[str, float]]  # as `solver score` gives them; empty: no answers are known
    results: Sequence[TaskResult]  # of every task, as in summary.json
    phases: Mapping[str, Mapping[str, float]]  # as in summary.json
    passes: Sequence[tuple[float, float]]  # planned and used seconds of each pass that had a prediction
    waves: Sequence[WaveAgreement]
    time_lines: Sequence[TimeLine]
    tasks: Mapping[str, ShownTask]  # those that could be read, in file order
    notes: Sequence[str] = ()  # about what could not be read or is not known


def report_page(runs: Sequence[ReportedRun]) -> str:
    """The whole page. Runs after the first one are compared with the first one, task by task."""
    order = list(dict.fromkeys(id_ for run in runs for id_ in run.tasks))
    links = {id_: anchor(number) for number, id_ in enumerate(order)}
    sections = [Section("scores", "Scores", list(_scores(runs)))]
    if len(runs) > 1:
        sections.append(Section("comparison", "Comparison", list(_comparison(runs, links))))
    for number, run in enumerate(runs):
        heading = "The run" if len(runs) == 1 else f"Run {number + 1}: {run.name}"
        sections.append(Section(f"run-{number + 1}", heading, list(_run(run))))
    entries = [[(run.name, run.tasks[id_]) for run in runs if id_ in run.tasks] for id_ in order]
    sections.append(Section("tasks", f"Tasks: {len(order)}", [tasks_html(entries, named=len(runs) > 1)]))
    title = f"solver report: {', '.join(run.name for run in runs)}"
    return html_page(title, [_headline(run, len(runs) > 1) for run in runs], sections, with_script=True)


def _headline(run: ReportedRun, named: bool) -> str:
    tests = sum(result.tests for result in run.results)
    tasks = len(run.results)
    head = f"{run.name}: " * named + f"{tasks} task{'s' * (tasks != 1)} with {tests} test input{'s' * (tests != 1)}"
    if not run.scores:
        return f"{head}; no answers are known, so there are no scores."
    score = run.scores["per_prediction"]
    return f"{head}; {score['solved']:g} of {score['total']:g} test inputs solved ({score['accuracy']:.1%})."


def _scores(runs: Sequence[ReportedRun]) -> Iterator[Markup]:
    rows: list[list[str]] = []
    for run in runs:
        for name, meaning in SCORE_NAMES.items():
            if name in run.scores:
                score = run.scores[name]
                low, high = wilson(score["solved"], int(score["total"]))
                interval = "-" if name == "per_task_mean" else f"{low:.1%} to {high:.1%}"
                numbers = f"{score['solved']:g}", f"{score['total']:g}", f"{score['accuracy']:.1%}"
                rows.append([run.name, name, *numbers, interval, meaning])
    if rows:
        columns = ("run", "score", "solved", "total", "accuracy", "95 % interval", "counts")
        caption = "Scores over the tasks of each run, counted as by solver score"
        yield HtmlTable(caption, columns, rows, words=("score", "counts")).html()
    else:
        yield paragraph("No answers are known, so nothing can be scored. --solutions gives them.")
    scored = [run for run in runs if run.scores]
    if scored:
        counts = [fates(run.tasks.values()) for run in scored]
        fate_rows = [[fate, *(str(count[fate]) for count in counts)] for fate in FATES]
        fate_rows.append(["all", *(str(count.total()) for count in counts)])
        caption = "What became of the test inputs whose answer is known"
        yield HtmlTable(caption, ("test inputs", *(run.name for run in scored)), fate_rows).html()


def fates(tasks: Iterable[ShownTask]) -> Counter[str]:
    """How many test inputs with a known answer met each of `FATES`."""
    counts: Counter[str] = Counter()
    for shown in tasks:
        for pair, query in zip(shown.task.test, shown.queries, strict=True):
            if pair.output is not None:
                right = query.place(pair.output)
                solved = any(same(attempt, pair.output) for attempt in query.attempts)
                counts[_fate(query, right, solved)] += 1
    return counts


def _fate(query: ShownQuery, right: int | None, solved: bool) -> str:
    if right is not None:
        return SOLVED_BY[query.candidates[right].origin] if solved else NOT_CHOSEN
    if solved:
        return SOLVED_BY_FALLBACK
    return NOT_FOUND if query.candidates else NO_CANDIDATES


def _comparison(runs: Sequence[ReportedRun], links: Mapping[str, str]) -> Iterator[Markup]:
    first, *others = runs
    compared = [(other, _solved_in_both(first, other)) for other in others]
    if not any(both for _, both in compared):
        yield paragraph("The runs share no test input whose answer is known, so they cannot be compared.")
        return
    columns = ("run", "counted", "n", "gained", "lost", "difference (95 % interval)", "p")
    rows = [row for other, both in compared for row in _difference_rows(other.name, both)]
    yield HtmlTable(f"Against {first.name}, on what both runs answered", columns, rows, words=("counted",)).html()
    yield _changed_settings(runs)
    several = f" The {len(others)} comparisons are not corrected for each other." if len(others) > 1 else ""
    test = "p: exact sign test over pairs (McNemar's test in its exact form), two-sided. Interval: Agresti and Min 2005."
    yield paragraph(test + several)
    for other, both in compared:
        yield subheading(f"{other.name} against {first.name}")
        yield from _gained_and_lost(both, links)


def _solved_in_both(first: ReportedRun, other: ReportedRun) -> dict[str, list[tuple[bool, bool]]]:
    """By task: which of the test inputs, whose answer both runs know, the first and the other run solved."""
    both: dict[str, list[tuple[bool, bool]]] = {}
    for id_ in first.tasks:
        if id_ in other.tasks:
            for before, after in zip(first.tasks[id_].solved(), other.tasks[id_].solved(), strict=True):
                if before is not None and after is not None:
                    both.setdefault(id_, []).append((before, after))
    return both


def _task_solved(inputs: Sequence[tuple[bool, bool]]) -> tuple[bool, bool]:
    """Whether the first and the other run solved all test inputs of a task."""
    return all(before for before, _ in inputs), all(after for _, after in inputs)


def _difference_rows(name: str, both: Mapping[str, Sequence[tuple[bool, bool]]]) -> Iterator[list[str]]:
    """Rows for test inputs and for tasks: how many there are, those gained and lost, and the paired difference."""
    inputs = [pair for pairs in both.values() for pair in pairs]
    for what, pairs in (("test inputs", inputs), ("tasks", [_task_solved(pairs) for pairs in both.values()])):
        paired = PairedShares.of([after for _, after in pairs], [before for before, _ in pairs])
        signs, (low, high) = paired.signs, paired.interval()
        difference = f"{100 * paired.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        yield [name, what, str(signs.total), str(signs.better), str(signs.worse), difference, f"{paired.p():.2g}"]


def _changed_settings(runs: Sequence[ReportedRun]) -> Markup:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = [[name, *(run.settings.get(name, "-") for run in runs)] for name in names]
    if changed := [row for row in values if len(set(row[1:])) > 1]:
        return HtmlTable("Settings in which the runs differ", ("setting", *(run.name for run in runs)), changed).html()
    return paragraph("The runs have the same model, budget and settings.")


def _gained_and_lost(both: Mapping[str, Sequence[tuple[bool, bool]]], links: Mapping[str, str]) -> Iterator[Markup]:
    solved = {id_: _task_solved(inputs) for id_, inputs in both.items()}
    for what, wanted in (("Tasks gained", (False, True)), ("Tasks lost", (True, False))):
        found = [id_ for id_, change in solved.items() if change == wanted]
        named = Markup(", ").join(Markup('<a href="#{}">{}</a>').format(links[id_], id_) for id_ in found)
        yield paragraph(Markup("{}: {}. {}").format(what, len(found), named))


def _run(run: ReportedRun) -> Iterator[Markup]:
    for note in run.notes:
        yield paragraph(Markup("<strong>Note:</strong> {}").format(note))
    yield HtmlTable(f"What {run.name} was and did", ("fact", "value"), run.facts, words=("value",)).html()
    settings = HtmlTable(f"All settings of {run.name}", ("setting", "value"), list(run.settings.items()), words=("value",))
    yield render("closed.html", summary="All settings", body=settings.html())
    yield subheading("Planned and used seconds")
    yield from _seconds(run)
    yield subheading("Agreement over waves")
    yield from _agreement(run)
    yield subheading("Time line")
    for line in run.time_lines:
        yield line.html()
    if not run.time_lines:
        yield paragraph("The ledger does not say which process did what: no work has ended, or an earlier version made it.")


def _seconds(run: ReportedRun) -> Iterator[Markup]:
    rows = []
    for phase, seconds in run.phases.items():
        planned, used = seconds.get("planned", 0.0), seconds.get("used", 0.0)
        error = f"{seconds['error']:.0%}" if "error" in seconds else "-"
        rows.append([phase, f"{planned:.1f} s" if planned else "-", f"{used:.1f} s", error])
    columns = ("phase", "planned", "used", "median error")
    yield HtmlTable("Seconds of all tasks by phase; the error is that of single predictions", columns, rows).html()
    shown = [(planned, used) for planned, used in run.passes if planned > 0 and used > 0]
    if len(shown) > 1:
        ends = [seconds for both in shown for seconds in both]
        x, y = (Axis(f"{name} seconds of a pass", min(ends), max(ends), True) for name in ("planned", "used"))
        text = f"Used over planned seconds of {len(shown)} passes, from {min(ends):.2g} to {max(ends):.2g} seconds."
        picture = xy_chart(text, x, y, [Curve("passes", shown, line=False)], diagonal=True)
        over = sum(used > planned for planned, used in shown)
        yield chart(picture, f"Passes above the line took longer than planned: {over} of {len(shown)}.")


def _agreement(run: ReportedRun) -> Iterator[Markup]:
    if not run.waves:
        yield paragraph("No wave of the network found candidates.")
        return
    rows = [
        [
            str(one.wave + 1),
            str(one.queries),
            f"{one.mean:.0%}",
            f"{one.low:.0%} to {one.high:.0%}",
            "-" if one.before is None else f"{one.before:.0%}",
            f"{one.latest:.0%}",
        ]
        for one in run.waves
    ]
    columns = ("wave", "test inputs", "agreement", "quartiles", "the same one wave before", "all so far")
    table = HtmlTable("Agreement by wave: the share of the top candidate over the views", columns, rows)
    if len(run.waves) == 1:
        yield table.html()
        return
    x = Axis("wave", 1, run.waves[-1].wave + 1, text=lambda value: f"{value:g}" if value == int(value) else "")
    y = Axis("agreement", 0.0, 1.0, text="{:.0%}".format)
    curves = [
        Curve("all test inputs so far", [(one.wave + 1, one.latest) for one in run.waves]),
        Curve(
            "those of the wave",
            [(one.wave + 1, one.mean) for one in run.waves],
            band=[(one.low, one.high) for one in run.waves],
        ),
    ]
    first, last = run.waves[0], run.waves[-1]
    text = f"Agreement of all test inputs so far: {first.latest:.0%} after wave {first.wave + 1}, {last.latest:.0%} at the end."
    caption = "Later waves work on tasks whose views disagree. The area lies between the quartiles of the wave."
    yield chart(xy_chart(text, x, y, curves), caption, table)
