"""The frame of all HTML pages: one file that needs no other file and no network, readable without its script.

    table = HtmlTable("Arms", ("arm", "solved"), [["baseline", "12 of 100"]])
    page = html_page("solver reproduce mit", ["100 tasks, seed 0"], [Section("arms", "Arms", (table.html(), chart(svg, "...")))])

Pages differ in their sections alone. Texts are escaped; only values of the type Markup are taken as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from solver.arc.jsonfile import replace_file
from solver.errors import InputError
from solver.report.palette import COLOURS, LINES

Cell = str | Markup


@dataclass(frozen=True)
class HtmlTable:
    """A table with a caption. The first cell of a row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]  # a cell for each column
    words: Collection[str] = ()  # columns beside the first that are set to the left, as words are; numbers are set to the right

    @property
    def all_words(self) -> bool:
        """Whether no column holds numbers."""
        return all(column in self.words for column in self.columns[1:])

    def html(self) -> Markup:
        """Its markup, which scrolls by itself where the window is narrower."""
        marked = [place for place, column in enumerate(self.columns) if column in self.words and not self.all_words]
        return render("table.html", table=self, marked=marked)


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading of the second level. Headings inside of its blocks are of the third level."""

    id: str  # what links to it name: letters, digits and hyphens
    heading: str
    blocks: Sequence[Markup]  # of `HtmlTable.html`, `chart`, `paragraph`, `subheading` and of templates

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.id):
            raise ValueError(f"not an id of a section: {self.id!r}")


def html_page(title: str, lines: Sequence[str], sections: Sequence[Section], with_script: bool = False) -> str:
    """A whole page: its title, a paragraph for each line, and its sections. `with_script` adds the one that draws grids."""
    script = _text("page.js") if with_script else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return str(
        render(
            "frame.html",
            title=title,
            lines=lines,
            sections=sections,
            style=Markup(_text("page.css")),
            script=Markup(script),
            allowed=f"'sha256-{digest}'" if script else "'none'",
            colours=" ".join((*COLOURS, LINES)),
        )
    )


def write_page(path: Path, page: str, option: str = "") -> int:
    """Replace the file `path`, which the user named by an `option`, by a page. Gives its size in bytes. Raises InputError."""
    named = f"{option} {path}".lstrip()
    data = page.encode(errors="backslashreplace")  # names of files and texts of JSON may hold lone surrogates, which UTF-8 lacks
    try:
        if path.is_dir():
            raise InputError(f"{named}: is a folder")
        replace_file(path, data)
    except OSError as error:
        raise InputError(f"{named}: cannot be written: {error.strerror or error}") from None
    return len(data)


def chart(svg: Markup, caption: str, numbers: HtmlTable | None = None) -> Markup:
    """A picture of `solver.report.charts` with its caption, and the numbers that it shows as a table that can be opened."""
    return render("chart.html", svg=svg, caption=caption, numbers=numbers)


def paragraph(text: Cell) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(text)


def subheading(text: str) -> Markup:
    """A heading of the third level."""
    return Markup("<h3>{}</h3>").format(text)


def render(template: str, **values: Any) -> Markup:
    """The markup of a template in the folder `templates`. Values are escaped unless they are Markup."""
    return Markup(_environment().get_template(template).render(values))


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("solver.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]
