"""Shows tasks, candidates and attempts in the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from solver.arc.grid import Grid
from solver.report.palette import Titled, grids_in_rows
from solver.report.shown import ShownCandidate, ShownQuery, ShownTask, same


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
            if found := [(_caption(one), one.grid) for one in query.candidates[:candidates]]:
                parts.append(Text(f"candidates of test {number}: {_count(query, candidates)}"))
                parts.append(grids_in_rows(found, width))
                parts += [Text(line, style="dim") for line in _programs(query, candidates)]
    return Group(*parts)


def _pair(name: str, shown: Grid, output: Grid | None) -> list[Titled]:
    return [(f"{name} input", shown), *([(f"{name} output", output)] if output is not None else [])]


def _caption(candidate: ShownCandidate) -> str:
    names = candidate.transforms()
    return "\n".join([*candidate.lines(), *(", ".join(names[at : at + 3]) for at in range(0, len(names), 3))])


def _attempts(query: ShownQuery, answer: Grid | None) -> list[Titled]:
    titles = []
    for number, grid in enumerate(query.attempts, 1):
        verdict = "" if answer is None else ": right" if same(grid, answer) else ": wrong"
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
