"""The time line of a run, from what its processes did."""

from __future__ import annotations

import re

import pytest
from page_checks import Element, parsed

from solver.report.time_line import PHASES, Mark, TimeLine, Work, merged


def stretches(outline: str) -> list[tuple[float, float, float]]:
    """Left end, width and height of each stretch."""
    found = re.findall(r"M([\d.]+) [\d.]+h([\d.]+)v([\d.]+)h-\2z", outline)
    return [(float(left), float(width), float(height)) for left, width, height in found]


def lanes_of(root: Element) -> list[Element]:
    return [one for one in root.every("div") if one.has_class("lane") and one.every("svg")]


def test_phases_follow_each_other_up_to_the_end_of_their_item() -> None:
    works = (
        Work("worker", 0, 50.0, {"prepare": 10.0, "fit": 20.0, "infer": 10.0}),
        Work("worker", 0, 100.0, {"fit": 30.0}),
        Work("programs", 1, 20.0, {"programs": 20.0}),
    )
    root = parsed(str(TimeLine("the run", 100.0, works, (Mark(25.0, "worker lost: <b>"),)).html()))
    lanes = {one.children[0].text(): one.every("svg")[0] for one in lanes_of(root)}
    assert list(lanes) == ["programs 1", "worker 0", "events"]
    drawn = {one.attributes["class"]: stretches(one.attributes["d"]) for one in lanes["worker 0"].every("path")}
    assert drawn == {
        "phase-0": [(100.0, 100.0, 6.0)],
        "phase-1": [(200.0, 200.0, 20.0), (700.0, 300.0, 20.0)],
        "phase-2": [(400.0, 100.0, 14.0)],
    }
    assert lanes["worker 0"].attributes["aria-label"] == "worker 0: 2 pieces of work, 70.0 of 100.0 s"
    assert lanes["events"].every("path")[0].attributes["d"].startswith("M249.5 ")
    rows = [[cell.text() for cell in row.children] for row in root.every("tbody")[0].every("tr")]
    assert rows[1] == ["worker 0", "2", "10.0 s", "50.0 s", "10.0 s", "0.0 s", "70.0 s", "70%"]
    assert "25.0 s: worker lost: <b>" in root.text()


def test_items_that_seem_to_overlap_are_drawn_one_after_the_other() -> None:
    works = (Work("worker", 0, 10.0, {"fit": 10.0}), Work("worker", 0, 15.0, {"fit": 10.0}))
    (lane,) = lanes_of(parsed(str(TimeLine("t", 20.0, works).html())))
    assert stretches(lane.every("path")[0].attributes["d"]) == [(0.0, 500.0, 20.0), (500.0, 250.0, 20.0)]


def test_passes_of_an_item_are_one_piece_of_work() -> None:
    first, second = Work("worker", 0, 9.0, {"fit": 3.0}), Work("worker", 0, 10.0, {"fit": 2.0, "infer": 1.0})
    search = Work("programs", 0, 4.0, {"programs": 1.0})
    alone, item = merged([("r1i1", first), ("", search), ("r1i1", second)])
    assert alone == search
    assert (item.ended, item.phases["fit"], item.phases["infer"], item.seconds) == (10.0, 5.0, 1.0, 6.0)


@pytest.mark.parametrize(("seconds", "words"), [(90.0, "80 s"), (1800.0, "30 min"), (43200.0, "10 h")])
def test_ticks_are_in_units_for_people(seconds: float, words: str) -> None:
    (ticks,) = [one for one in parsed(str(TimeLine("t", seconds, ()).html())).every("div") if one.has_class("ticks")]
    assert words in [one.text() for one in ticks.children]


def test_lanes_are_in_the_order_of_their_numbers() -> None:
    works = tuple(Work("worker", number, 9.0, {"fit": 1.0}) for number in (10, 2, 0))
    lanes = lanes_of(parsed(str(TimeLine("t", 20.0, works).html())))
    assert [one.children[0].text() for one in lanes] == ["worker 0", "worker 2", "worker 10"]


def test_no_two_phases_have_the_same_height() -> None:
    assert len(set(PHASES.values())) == len(PHASES)
