from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from page_checks import check_page, contrast

from solver.report.token_values import ShownProblem, ShownSolution, as_page, colour


class Texts(HTMLParser):
    """The text and the background of every coloured token, and how deep open elements are nested."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[list[str]] = []
        self.depth = 0
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag not in ("meta", "link")
        style = dict(attrs).get("style") or ""
        self._inside = style.startswith("background:")
        if self._inside:
            self.tokens.append([style.removeprefix("background:"), ""])

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tokens[-1][1] += data


@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_characters="\r\0", exclude_categories=("Cs", "Cc"))), st.floats(-1, 2)),
        max_size=6,
    )
)
def test_every_token_has_the_colour_of_its_value(tokens: list[tuple[str, float]]) -> None:
    solution = ShownSolution(tuple(text for text, _ in tokens), tuple(value for _, value in tokens), 0.5, True, "<3>")
    page = as_page("<values>", ["a & b"], [ShownProblem("p0", "1 < 2?", "3", (solution,))])
    check_page(page)
    parser = Texts()
    parser.feed(page)
    shown = parser.tokens[11:]  # behind the key of the colours
    assert shown == [[colour(value), text] for text, value in tokens]
    assert parser.depth == 0
    assert "<values>" not in page


def test_colours_go_from_red_over_white_to_green() -> None:
    assert (colour(0.0), colour(0.5), colour(1.0)) == ("#d63c3c", "#ffffff", "#3caa50")
    assert (colour(-3.0), colour(7.0), colour(float("nan"))) == ("#d63c3c", "#3caa50", "#ffffff")


def test_tokens_can_be_read_on_their_colours() -> None:
    """WCAG 2.2: 4.5 for text, which is black on every colour."""
    assert min(contrast("#000000", colour(tenth / 10)) for tenth in range(11)) >= 4.5
