"""The frame that all HTML pages share."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from markupsafe import Markup
from page_checks import check_page, contrast, parsed

import solver.report
from solver.report.charts import Axis, Curve, xy_chart
from solver.report.html_page import HtmlTable, Section, chart, html_page, paragraph, subheading
from solver.report.palette import COLOURS, LINES

TEMPLATES = Path(solver.report.__file__).parent / "templates"
EVIL = '<img src=x onerror="alert(1)">"\'&</script></style>'


def whole_page(text: str) -> str:
    table = HtmlTable(text, ("arm", text), [[text, "1"], [Markup("<b>two</b>"), text]], words=(text,))
    picture = xy_chart(text, Axis(text, 0, 1), Axis(text, 0, 1), [Curve(text, [(0, 0), (1, 1)]), Curve("b", [(0, 1)])])
    blocks = (paragraph(text), subheading(text), table.html(), chart(picture, text, table))
    return html_page(text, [text, "a line"], [Section("one", text, blocks), Section("two", "Two", ())], with_script=True)


def test_a_page_has_its_parts_and_needs_no_other_file() -> None:
    root = check_page(whole_page("plain"))
    assert [one.text().strip() for one in root.every("h2")] == ["plain", "Two"]
    assert [one.text().strip() for one in root.every("nav")[0].every("a")] == ["plain", "Two"]
    assert len(root.every("table")) == 2
    assert "two" in root.every("b")[0].text()


def test_texts_are_escaped_and_markup_is_not() -> None:
    page = whole_page(EVIL)
    root = check_page(page)
    assert root.every("title")[0].text() == EVIL
    assert root.every("caption")[0].text() == EVIL
    assert root.every("svg")[0].attributes["aria-label"] == EVIL
    assert "<img" not in page


def test_the_policy_of_a_page_allows_its_own_script_and_nothing_else() -> None:
    for with_script in (False, True):
        root = parsed(html_page("t", [], [], with_script))
        (policy,) = [one.attributes["content"] for one in root.every("meta") if "http-equiv" in one.attributes]
        assert policy.startswith("default-src 'none'; ")
        digests = [base64.b64encode(hashlib.sha256(one.text().encode()).digest()).decode() for one in root.every("script")]
        allowed = f"'sha256-{digests[0]}'" if with_script else "'none'"
        assert f"script-src {allowed};" in policy
        assert root.every("main")[0].attributes.get("data-colours") == (" ".join((*COLOURS, LINES)) if with_script else None)


def test_an_id_of_a_section_is_a_name() -> None:
    with pytest.raises(ValueError, match="not an id of a section"):
        Section("two words", "h", ())


def test_colours_of_both_themes_have_contrast() -> None:
    """WCAG 2.2: 4.5 for text, 3 for graphics and for what shows the focus."""
    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{([^}]*)\}", css))
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for back in ("back", "panel"):
            for text in ("text", "muted", "link", "good", "bad"):
                assert contrast(theme[text], theme[back]) >= 4.5, (text, back)
            for graphic in ("line", "focus", *(f"s{number}" for number in range(5))):
                assert contrast(theme[graphic], theme[back]) >= 3, (graphic, back)
    used = set(re.findall(r"var\(--(\w+)\)", css))
    assert used == light.keys()
