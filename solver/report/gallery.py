"""Shows tasks, candidates and attempts to people: in the terminal, and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from solver.arc.grid import Grid
from solver.arc.task import Task
from solver.report.html_page import html_page
from solver.report.palette import Titled, grid_png, grids_in_rows
from solver.types import Program


@dataclass(frozen=True, eq=False)
class ShownCandidate:
    """One distinct candidate of a query."""

    grid: Grid
    views: tuple[str, ...]  # keys of the views that gave it, one for every vote
    logprob: float  # the highest of all votes, in nats
    nll: float | None  # mean over the views that scored it with the newest adapter; None: not scored
    program: Program | None = None  # that gives it, too, or alone

    @property
    def caption(self) -> str:
        """A few short lines."""
        return "\n".join([*self._of_program(), *self._of_views()])

    def _of_program(self) -> Iterator[str]:
        if self.program is not None:
            kind = "exact program" if self.program.exact else "program"
            yield f"{kind}, cost {self.program.cost:.4g}"
            yield f"found in {self.program.agreement:.0%} of copies"

    def _of_views(self) -> list[str]:
        if not self.views:
            return []
        transforms = Counter(view.split("/")[0] for view in self.views)
        scored = "" if self.nll is None else f", scored {self.nll:.2f}"
        names = [name if times == 1 else f"{name} x{times}" for name, times in transforms.most_common()]
        head = f"{len(self.views)} vote{'s' * (len(self.views) != 1)}, nll {-self.logprob:.2f}{scored}"
        return [head, *(", ".join(names[at : at + 3]) for at in range(0, len(names), 3))]

    @property
    def hint(self) -> str:
        """Everything that gave it: the program's text, and views."""
        return "; ".join([*([self.program.text] if self.program is not None else []), ", ".join(self.views)]).rstrip("; ")


@dataclass(frozen=True, eq=False)
class ShownQuery:
    """The candidates and attempts of a run for one test input."""

    candidates: tuple[ShownCandidate, ...] = ()  # the most voted first
    attempts: tuple[Grid, ...] = ()  # two, or none where there is no run


@dataclass(frozen=True, eq=False)
class ShownTask:
    """A task with the answers that are known, and for each query the candidates and attempts of a run."""

    task: Task
    queries: tuple[ShownQuery, ...] = ()  # empty: no run
    note: str = ""  # what the run spent on it

    def solved(self) -> list[bool | None]:
        """By query whether an attempt is right; None where the answer is not known or there is no run."""
        return (
            [
                None if pair.output is None or not query.attempts else any(_same(one, pair.output) for one in query.attempts)
                for pair, query in zip(self.task.test, self.queries, strict=True)
            ]
            if self.queries
            else []
        )


def in_terminal(shown: ShownTask, width: int, candidates: int) -> RenderableType:
    """A task in `width` columns, with at most so many candidates for each test input."""
    parts: list[RenderableType] = [Rule(Text(f"{shown.task.id}{_verdict(shown)}", style="bold"), align="left")]
    if shown.note:
        parts.append(Text(shown.note, style="dim"))
    for number, pair in enumerate(shown.task.train):
        parts.append(grids_in_rows(_pair(f"train {number}", pair.input, pair.output), width))
    for number, pair in enumerate(shown.task.test):
        parts.append(grids_in_rows(_pair(f"test {number}", pair.input, pair.output), width))
        if shown.queries:
            query = shown.queries[number]
            parts.append(grids_in_rows(_attempts(query, pair.output), width))
            if found := [(one.caption, one.grid) for one in query.candidates[:candidates]]:
                parts.append(Text(f"candidates of test {number}: {_count(query, candidates)}"))
                parts.append(grids_in_rows(found, width))
                parts += [Text(line, style="dim") for line in _programs(query, candidates)]
    return Group(*parts)


def as_page(title: str, head: Sequence[str], tasks: Iterable[ShownTask], candidates: int) -> str:
    """One HTML page: lines about the run, a list of the tasks, and every task with at most so many candidates a test input."""
    shown = list(tasks)
    contents = " ".join(
        f'<a href="#{escape(one.task.id, quote=True)}" class="{_class(one)}">{escape(one.task.id)}</a>' for one in shown
    )
    body = "\n".join(_section(one, candidates) for one in shown)
    return html_page(title, _STYLE, head, f"<nav>{contents}</nav>\n{body}")


_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222;background:#fff}"
    "nav a{display:inline-block;margin:0 .6em .2em 0;font-family:monospace}"
    "section{border-top:1px solid #ccc;margin-top:1.5em}"
    "div.row{display:flex;flex-wrap:wrap;gap:1.2em;align-items:flex-start;margin:.6em 0}"
    "figure{margin:0}figcaption{font-size:12px;color:#555;white-space:pre-line}img{display:block}"
    ".right{color:#167a16}.wrong{color:#b01010}figure.right img{outline:3px solid #167a16}"
)


def _section(shown: ShownTask, candidates: int) -> str:
    id_ = escape(shown.task.id, quote=True)
    parts = [f'<section id="{id_}"><h2 class="{_class(shown)}">{id_}{escape(_verdict(shown))}</h2>']
    if shown.note:
        parts.append(f"<p>{escape(shown.note)}</p>")
    for number, pair in enumerate(shown.task.train):
        parts.append(_row(_pair(f"train {number}", pair.input, pair.output)))
    for number, pair in enumerate(shown.task.test):
        grids = _pair(f"test {number}", pair.input, pair.output)
        if not shown.queries:
            parts.append(_row(grids))
            continue
        query = shown.queries[number]
        parts.append(_row([*grids, *_attempts(query, pair.output)], pair.output))
        if found := query.candidates[:candidates]:
            parts.append(f"<p>candidates of test {number}: {escape(_count(query, candidates))}</p>")
            parts.append(_row([(one.caption, one.grid) for one in found], pair.output, [one.hint for one in found]))
            parts += [f"<p><code>{escape(line)}</code></p>" for line in _programs(query, candidates)]
    return "".join([*parts, "</section>"])


def _row(grids: Sequence[Titled], answer: Grid | None = None, hints: Sequence[str] = ()) -> str:
    figures = []
    for place, (title, grid) in enumerate(grids):
        image = base64.b64encode(grid_png(grid)).decode()
        digits = "/".join("".join(map(str, row)) for row in grid.tolist())
        hint = f' title="{escape(hints[place], quote=True)}"' if hints else ""
        right = ' class="right"' if answer is not None and _same(grid, answer) else ""
        picture = f'<img alt="{digits}" src="data:image/png;base64,{image}">'
        figures.append(f"<figure{right}{hint}>{picture}<figcaption>{escape(title)}</figcaption></figure>")
    return f'<div class="row">{"".join(figures)}</div>'


def _pair(name: str, shown: Grid, output: Grid | None) -> list[Titled]:
    return [(f"{name} input", shown), *([(f"{name} output", output)] if output is not None else [])]


def _attempts(query: ShownQuery, answer: Grid | None) -> list[Titled]:
    titles = []
    for number, grid in enumerate(query.attempts, 1):
        verdict = "" if answer is None else ": right" if _same(grid, answer) else ": wrong"
        titles.append((f"attempt {number}{verdict}", grid))
    return titles


def _count(query: ShownQuery, shown: int) -> str:
    total = len(query.candidates)
    return f"{total} different" + (f", the first {shown}" if total > shown else "")


def _programs(query: ShownQuery, shown: int) -> list[str]:
    """The text of every program among the candidates that are shown, by the number of the candidate from 1."""
    found = enumerate(query.candidates[:shown], 1)
    return [f"program of candidate {number}: {one.program.text}" for number, one in found if one.program is not None]


def _verdict(shown: ShownTask) -> str:
    known = [one for one in shown.solved() if one is not None]
    return f": {sum(known)} of {len(known)} solved" if known else ""


def _class(shown: ShownTask) -> str:
    known = [one for one in shown.solved() if one is not None]
    return "" if not known else "right" if all(known) else "wrong"


def _same(one: Grid, other: Grid) -> bool:
    return np.array_equal(one, other)
