"""Tasks on an HTML page: their grids, and for each run its attempts, candidates, answers by view and passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from solver.arc.grid import Grid
from solver.arc.task import Pair, Task
from solver.report.html_page import HtmlTable, Section, html_page, render
from solver.report.shown import ShownPass, ShownQuery, ShownTask, ViewAnswers, same

CANDIDATES = 8  # drawn of a test input
VIEWS = 64  # listed of a test input
ANSWERS = 6  # listed of a view, the candidates with most votes first

Entry = Sequence[tuple[str, ShownTask]]  # a task in one or several runs: the name of each run, and what it made of the task

KINDS = {  # of tasks, for the filter of the page
    "solved": "solved",
    "unsolved": "not solved",
    "found": "right candidate not chosen",
    "unknown": "answer not known",
    "differs": "runs differ",
}


def anchor(number: int) -> str:
    """What a link to the task at a place, from 0, names."""
    return f"t{number}"


def tasks_html(entries: Sequence[Entry], named: bool = False) -> Markup:
    """All tasks, each closed at first. `named`: say of which run things are."""
    tasks = [_Task.of(anchor(number), entry) for number, entry in enumerate(entries)]
    kinds = {kind: words for kind, words in KINDS.items() if any(kind in task.kinds for task in tasks)}
    return render("tasks.html", tasks=tasks, kinds=kinds, named=named)


def tasks_page(title: str, lines: Sequence[str], tasks: Iterable[ShownTask]) -> str:
    """A page with lines about the tasks, and the tasks."""
    entries = [[("", task)] for task in tasks]
    return html_page(title, lines, [Section("tasks", f"Tasks: {len(entries)}", [tasks_html(entries)])], with_script=True)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A grid with what is written above it."""

    title: str
    grid: Grid
    mark: str = ""  # "right" or "wrong"

    @property
    def digits(self) -> str:
        """A line of digits for each row."""
        return "\n".join("".join(map(str, row)) for row in self.grid.tolist())

    @property
    def size(self) -> str:
        """Rows and columns, in words."""
        return f"{self.grid.shape[0]} by {self.grid.shape[1]}"


@dataclass(frozen=True, eq=False)
class _OfTest:
    """What a run found for one test input."""

    number: int
    attempts: list[_Drawn]
    candidates: list[_Drawn]
    found: str  # how many candidates there are, in words
    programs: list[tuple[int, str]]  # number of the candidate, text of its program
    views: str  # a line for each view; empty: none answered
    more_views: int  # that are not listed


@dataclass(frozen=True, eq=False)
class _OfRun:
    """A task in one run."""

    name: str
    verdict: str
    mark: str
    note: str
    tests: list[_OfTest]
    passes: HtmlTable | None
    reasons: list[str]
    events: list[str]


@dataclass(frozen=True, eq=False)
class _Task:
    """A task as the page shows it."""

    id: str
    anchor: str
    kinds: set[str]
    grids: list[tuple[str, list[_Drawn]]]  # a heading, and the grids below it
    runs: list[_OfRun]

    @staticmethod
    def of(anchor: str, entry: Entry) -> _Task:
        """A task with what each run made of it."""
        (_, first), *_ = entry
        runs = [_of_run(name, shown) for name, shown in entry if shown.queries]
        return _Task(first.task.id, anchor, _kinds([shown for _, shown in entry]), list(_grids(first.task)), runs)


def _kinds(shown: Sequence[ShownTask]) -> set[str]:
    solved = [one.solved() for one in shown if one.queries]
    known = [[hit for hit in one if hit is not None] for one in solved]
    kinds = set()
    if any(known):
        kinds.add("solved" if any(one and all(one) for one in known) else "unsolved")
    elif solved:
        kinds.add("unknown")
    if len({tuple(one) for one in solved}) > 1:
        kinds.add("differs")
    for one in shown:
        for pair, query, hit in zip(one.task.test, one.queries, one.solved(), strict=False):
            if hit is False and pair.output is not None and query.place(pair.output) is not None:
                kinds.add("found")
    return kinds


def _grids(task: Task) -> Iterator[tuple[str, list[_Drawn]]]:
    for number, pair in enumerate(task.train):
        yield f"Demonstration {number}", _pair(pair, "output")
    for number, pair in enumerate(task.test):
        yield f"Test {number}", _pair(pair, "right answer")


def _pair(pair: Pair, output: str) -> list[_Drawn]:
    return [_Drawn("input", pair.input), *([_Drawn(output, pair.output)] if pair.output is not None else [])]


def _of_run(name: str, shown: ShownTask) -> _OfRun:
    hits = [hit for hit in shown.solved() if hit is not None]
    verdict, mark = "answer not known", ""
    if hits:
        mark = "good" if all(hits) else "bad"
        verdict = f"{'✓' if all(hits) else '✗'} {sum(hits)} of {len(hits)} solved"
    tests = [
        _of_test(number, query, pair.output)
        for number, (pair, query) in enumerate(zip(shown.task.test, shown.queries, strict=True))
    ]
    reasons = [f"wave {one.wave + 1}: {one.reason}" for one in shown.passes if one.reason]
    events = [*shown.events, *(f"wave {one.wave + 1}: {event}" for one in shown.passes for event in one.events)]
    return _OfRun(name, verdict, mark, shown.note, tests, _passes_table(shown.passes), reasons, events)


def _of_test(number: int, query: ShownQuery, answer: Grid | None) -> _OfTest:
    attempts = []
    for place, grid in enumerate(query.attempts, 1):
        candidate = query.place(grid)
        source = "fallback" if candidate is None else f"candidate {candidate + 1}"
        attempts.append(_drawn(f"attempt {place}: {source}", grid, answer))
    right = query.place(answer) if answer is not None else None
    listed = [(place, one) for place, one in enumerate(query.candidates) if place < CANDIDATES or place == right]
    candidates = [
        _drawn("\n".join([f"candidate {place + 1}: {one.origin}", *one.lines(), *_by_three(one.transforms())]), one.grid, answer)
        for place, one in listed
    ]
    total = len(query.candidates)
    found = f"{total} different" + (f", {len(listed)} of them drawn" if total > len(listed) else "")
    programs = [(place + 1, one.program.text) for place, one in listed if one.program is not None]
    shown = query.by_view[:VIEWS]
    views = _view_lines(shown) if shown else ""
    return _OfTest(number, attempts, candidates, found, programs, views, len(query.by_view) - len(shown))


def _drawn(title: str, grid: Grid, answer: Grid | None) -> _Drawn:
    if answer is None:
        return _Drawn(title, grid)
    right = same(grid, answer)
    first, *rest = title.split("\n")
    return _Drawn("\n".join([f"{first}, {'✓ right' if right else '✗ wrong'}", *rest]), grid, "right" if right else "wrong")


def _by_three(names: Sequence[str]) -> list[str]:
    return [", ".join(names[at : at + 3]) for at in range(0, len(names), 3)]


def _view_lines(views: Sequence[ViewAnswers]) -> str:
    """A line for each view, in columns of equal width. As tables these would be most elements of a large page, and slow."""
    rows = [("wave", "view", "colours", "order", "candidates")]
    for one in views:
        transform, colours, order = (*one.view.split("/"), "", "")[:3]
        first = one.answers[:ANSWERS]
        answers = [f"{place + 1}{f' x{times}' if times > 1 else ''} (nll {-logprob:.2f})" for place, times, logprob in first]
        answers += [f"{len(one.answers) - ANSWERS} more"] if len(one.answers) > ANSWERS else []
        kept = "as shown" if colours in ("", "0123456789") else colours
        rows.append((f"{one.wave + 1}", transform, kept, order or "as shown", ", ".join(answers)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows)


def _passes_table(passes: Sequence[ShownPass]) -> HtmlTable | None:
    if not passes:
        return None
    rows = []
    for one in passes:
        phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in one.seconds.items() if seconds >= 0.05)
        used = sum(one.seconds.values())
        where = "-" if one.worker is None else f"worker {one.worker}"
        if one.ended is not None:
            where += f", {max(0.0, one.ended - used):.0f} to {one.ended:.0f} s"
        rows.append(
            [
                f"{one.wave + 1}",
                one.status,
                one.plan or "-",
                one.fit or "no fit",
                ", ".join(map(str, one.views)) or "-",
                ", ".join(f"{share:.0%}" for share in one.agreement) or "-",
                "-" if one.planned is None else f"{one.planned:.1f} s",
                f"{used:.1f} s" + (f" ({phases})" if phases else ""),
                ", ".join(f"{count:,} {kind}" for kind, count in one.tokens.items() if count) or "-",
                where,
            ]
        )
    columns = ("wave", "status", "plan", "fit", "views", "agreement", "planned", "used", "tokens", "where")
    return HtmlTable("Passes", columns, rows, words=("status", "plan", "fit", "used", "tokens", "where"))
