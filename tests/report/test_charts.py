"""Charts stay within their picture and say in words what they show, whatever is drawn."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_checks import parsed

from solver.report.charts import DASHES, WIDTH, Axis, Curve, round_step, xy_chart

values = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(values, values), min_size=1, max_size=8)


def spread(found: list[float]) -> tuple[float, float]:
    return min(found), max(found)


@given(st.lists(points, min_size=1, max_size=5), st.booleans())
def test_all_points_lie_within_the_picture(curves: list[list[tuple[float, float]]], line: bool) -> None:
    every = [point for curve in curves for point in curve]
    axes = [Axis(name, *spread([point[place] for point in every])) for place, name in enumerate(("x", "y"))]
    drawn = [Curve(f"curve {number}", found, line, [(y, y) for _, y in found]) for number, found in enumerate(curves)]
    picture = str(xy_chart("what it shows", *axes, drawn, diagonal=True))
    (svg,) = parsed(picture).every("svg")
    height = float(svg.attributes["viewbox"].split()[3])
    for path in svg.every("path"):
        starts = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", path.attributes["d"])
        assert starts
        assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= height for x, y in starts)
    for text in svg.every("text"):
        assert 0 <= float(text.attributes["x"]) <= WIDTH
        assert 0 <= float(text.attributes["y"]) <= height
    markers = {re.sub(r"^M\S+ [\d.]+", "", one.attributes["d"]) for one in svg.every("path") if one.has_class("mark")}
    assert len(markers) == len(curves)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_within_the_axis(low: float, length: float) -> None:
    ticks = Axis("a", low, low + length).ticks()
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * length <= tick <= low + (1 + 1e-6) * length for tick in ticks)
    steps = [after - before for before, after in pairwise(ticks)]
    assert all(step == pytest.approx(round_step(length / 5), rel=1e-3) for step in steps)


@given(st.floats(1e-3, 1e3), st.floats(1.001, 1e6))
def test_ticks_of_logarithmic_axes(low: float, factor: float) -> None:
    ticks = Axis("a", low, low * factor, logarithmic=True).ticks()
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)
    assert ticks or factor < 2.5


@given(st.floats(1e-6, 1e6))
def test_a_round_step_is_no_smaller_than_asked(least: float) -> None:
    step = round_step(least)
    assert least * (1 - 1e-6) <= step <= 2.5 * least * (1 + 1e-6)


def test_shares_of_an_axis() -> None:
    assert [Axis("a", 10, 20).share(value) for value in (5, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    assert Axis("a", 1, 100, logarithmic=True).share(10) == pytest.approx(0.5)
    assert Axis("a", 3, 3).share(3) == 0.5


def test_curves_differ_in_more_than_colour() -> None:
    curves = [Curve(str(number), [(0, number), (1, number), (2, number)]) for number in range(len(DASHES))]
    (svg,) = parsed(str(xy_chart("t", Axis("x", 0, 2), Axis("y", 0, 5), curves))).every("svg")
    dashes = {one.attributes.get("stroke-dasharray", "") for one in svg.every("path") if one.has_class("curve")}
    assert dashes == set(DASHES)
