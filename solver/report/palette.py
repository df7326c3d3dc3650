"""Grids in colour: the colours, and grids in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from solver.arc.grid import Grid

# of 0 to 9, as the ARC Prize's own pages show them
COLOURS = ("#000000", "#1e93ff", "#f93c31", "#4fcc30", "#ffdc00", "#999999", "#e53aa3", "#ff851b", "#87d8f1", "#921231")
LINES = "#555555"  # between cells

_LIGHT = {3, 4, 5, 7, 8}  # colours on which a digit is written in black
_STYLES = tuple(Style(color="black" if c in _LIGHT else "white", bgcolor=colour) for c, colour in enumerate(COLOURS))
_GAP = 2  # columns between grids

Titled = tuple[str, Grid]  # a grid and what is written above it, perhaps in several lines


def grid_text(grid: Grid, cell: int = 2) -> Text:
    """Digits on their colours, `cell` columns wide each; without colours, as in a file, the digits are left."""
    text = Text(no_wrap=True)
    for number, row in enumerate(grid.tolist()):
        if number:
            text.append("\n")
        for colour in row:
            text.append(str(colour).rjust(cell), _STYLES[colour])
    return text


def grids_in_rows(grids: Sequence[Titled], width: int) -> RenderableType:
    """Grids side by side, as many as `width` columns take; narrower cells if not even one fits with wide ones."""
    cell = 2 if all(2 * grid.shape[1] <= width for _, grid in grids) else 1
    lines: list[list[Titled]] = [[]]
    used = 0
    for title, grid in grids:
        needed = max(cell * grid.shape[1], *map(len, title.split("\n"))) + _GAP
        if lines[-1] and used + needed - _GAP > width:
            lines.append([])
            used = 0
        lines[-1].append((title, grid))
        used += needed
    return Group(*(Group(_side_by_side(line, cell), "") for line in lines if line))


def _side_by_side(grids: Iterable[Titled], cell: int) -> Table:
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_row(*(Group(Text(title, style="dim", no_wrap=True), grid_text(grid, cell)) for title, grid in grids))
    return table
