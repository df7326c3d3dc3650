"""Reads an HTML page as a browser without network and script would, and checks what every page of ours has to fulfil."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "input", "br", "hr", "img"}
SHAPES = {"path"}  # of SVG, which close themselves


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    children: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def every(self, tag: str = "") -> list[Element]:
        """It and all elements inside of it, in document order, or those of one tag."""
        found = [self, *(one for child in self.children for one in child.every())]
        return [one for one in found if not tag or one.tag == tag]

    def text(self) -> str:
        """All text inside of it, without regard to the order of texts and elements."""
        return " ".join([*self.texts, *(child.text() for child in self.children)])

    def has_class(self, name: str) -> bool:
        return name in self.attributes.get("class", "").split()


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.open = Element("root", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = Counter(name for name, _ in attrs)
        assert max(names.values(), default=1) == 1, f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, f"<{tag}/> is no element of SVG"
        self.open.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.open))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.texts.append(data)


def parsed(page: str) -> Element:
    """The elements of a page whose tags are balanced."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert builder.open is builder.root
    return builder.root


def check_page(page: str) -> Element:
    """Assert that a page needs nothing else, and that people can use it by keyboard and screen reader. Gives its elements."""
    root = parsed(page)
    every = root.every()
    _check_alone(page, every)
    ids = Counter(one.attributes["id"] for one in every if "id" in one.attributes)
    assert set(ids.values()) <= {1}
    links = [one.attributes["href"] for one in root.every("a")]
    assert all(link.startswith("#") and link[1:] in ids for link in links), links
    (html,) = root.every("html")
    assert html.attributes["lang"] == "en"
    for tag in ("main", "h1", "title", "header"):
        assert len(root.every(tag)) == 1, tag
    first = next(one for one in every if one.tag == "a")
    assert first.has_class("skip")
    assert first.attributes["href"] == "#main"
    levels = [int(one.tag[1]) for one in every if re.fullmatch("h[1-6]", one.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), "a level of headings is left out"
    assert all(one.text().strip() for one in every if re.fullmatch("h[1-6]|summary|caption|figcaption|button|option", one.tag))
    for svg in root.every("svg"):
        assert svg.attributes.get("aria-hidden") == "true" or (svg.attributes["role"] == "img" and svg.attributes["aria-label"])
    for table in root.every("table"):
        assert [one.tag for one in table.children] == ["caption", "thead", "tbody"]
        columns = len(table.every("thead")[0].every("th"))
        assert {one.attributes.get("scope") for one in table.every("th")} <= {"col", "row"}
        assert {len(row.children) for row in table.every("tbody")[0].every("tr")} <= {columns}
    for control in [one for tag in ("input", "select") for one in root.every(tag)]:
        assert control.parent is not None
        assert control.parent.tag == "label"
    for details in root.every("details"):
        assert details.children[0].tag == "summary"
    for grid in [one for one in every if one.has_class("grid")]:
        assert grid.parent is not None
        assert grid.parent.tag == "figure"
        assert grid.parent.children[0].tag == "figcaption"
        rows = grid.text().split("\n")
        assert all(re.fullmatch("[0-9]+", row) and len(row) == len(rows[0]) for row in rows)
        assert grid.parent.children[0].text().endswith(f"{len(rows)} by {len(rows[0])}")
    return root


def rows(root: Element, caption: str) -> list[list[str]]:
    """The cells of the table with this caption."""
    (table,) = [one for one in root.every("table") if one.children[0].text() == caption]
    return [[cell.text() for cell in row.children] for row in table.every("tbody")[0].every("tr")]


def _check_alone(page: str, every: list[Element]) -> None:
    assert all(one.tag not in ("img", "iframe", "object", "embed", "base") for one in every)
    assert not [one.attributes["src"] for one in every if "src" in one.attributes]
    assert [one.attributes["href"] for one in every if one.tag == "link"] == ["data:,"]
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
    assert not [name for one in every for name in one.attributes if name.startswith("on")]
    assert len([one for one in every if one.tag == "script"]) <= 1


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
