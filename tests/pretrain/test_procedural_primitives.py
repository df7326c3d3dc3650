"""Exactly one worked example for every primitive, measure and trait: what it takes, its arguments, what it gives.

Grids are written row by row with "/" between rows and "." for the ground; panels have "|" between them. Things are
found in the grid that an example shows, and drawn again; what finds them gives their boxes as panels.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from solver.arc.grid import Grid
from solver.pretrain.procedural import programs  # noqa: F401  (fills the tables)
from solver.pretrain.procedural.criteria import MEASURES, TRAITS, Measure, One, Which
from solver.pretrain.procedural.on_objects import find_things
from solver.pretrain.procedural.registry import PRIMITIVES
from solver.pretrain.procedural.values import Colour, Direction, Number, Objects, Panels, Thing, Unfit, draw_things

MOST: Literal["most"] = "most"
LEAST: Literal["least"] = "least"
WITH: Literal["with"] = "with"


def grid(text: str) -> Grid:
    return np.array([[0 if cell == "." else int(cell) for cell in row] for row in text.split("/")], dtype=np.uint8)


def shown(value: Any) -> Any:
    """A value as the examples write it."""
    if isinstance(value, Objects):
        return shown(draw_things(value))
    if isinstance(value, Panels):
        return "|".join(map(shown, value.grids))
    if isinstance(value, np.ndarray):
        return "/".join("".join(map(str, row)) for row in value.tolist()).replace("0", ".")
    return value


def taken(name: str, value: Any) -> Any:
    """The value of an example in the type its primitive takes."""
    kind = PRIMITIVES[name].takes
    if kind is Objects:
        return find_things(grid(value))
    if kind is Panels:
        grids = tuple(map(grid, value.split("|")))
        return Panels((1, len(grids)), grids)
    return value if kind in (Number, Colour) else grid(value)


def argument(name: str, place: int, value: Any) -> Any:
    kind = PRIMITIVES[name].arguments[place][1]
    if kind is Measure:
        return MEASURES[value]
    if kind in (Which, One):
        want, criterion = value
        return kind((MEASURES | TRAITS)[criterion], want)
    return value


EXAMPLES: dict[str, tuple[Any, tuple[Any, ...], Any]] = {
    "rotate": ("12/34", ("left",), "24/13"),
    "flip": ("12/34", ("rows",), "34/12"),
    "transpose": ("123/456", (), "14/25/36"),
    "mirror_beside": ("12/34", ("down",), "12/34/34/12"),
    "mirror_quad": ("12/34", ("shared",), "121/343/121"),
    "turn_quad": ("12/.3", (), "12.1/.332/233./1.21"),
    "tile": ("12", (2, 1), "12/12"),
    "tile_alternating": ("12", (2, "columns"), "1212/2121"),
    "upscale": ("1./.2", (2,), "11../11../..22/..22"),
    "stretch": ("12/34", (2, "columns"), "1122/3344"),
    "upscale_by_colours": ("1./.2", (), "11../11../..22/..22"),
    "tile_by_colours": ("12", ("rows",), "12/12"),
    "self_tile": ("1./11", ("empty",), "..1./..11/..../...."),
    "self_tile_coloured": ("1./23", (), "1.../11../2.3./2233"),
    "tile_where": ("11/2.", ("rarest",), "..../..../11../2..."),
    "downscale": ("1122/1122/..11/..11", (), "12/.1"),
    "drop_repeats": ("1122/1122/..11", (), "12/.1"),
    "one_tile": ("121212/3.3.3.", (), "12/3."),
    "roll": ("123/456", ("right", 1), "312/645"),
    "replace_colour": ("12/.1", (1, 5), "52/.5"),
    "swap_colours": ("12/.1", (1, 2), "21/.2"),
    "paint_ground": ("1./.2", (3,), "13/32"),
    "paint_all": ("1./.2", (3,), "3./.3"),
    "invert": ("4./44", (), ".4/.."),
    "keep_by_cells": ("11/2.", ("commonest",), "11/.."),
    "paint_alternate": ("11/11/11", ("rows", 5), "11/55/11"),
    "paint_checkered": ("111/11.", (5,), "151/51."),
    "paint_by_head": ("12/8./88", (8, "down"), "12/1./12"),
    "apply_legend": ("12./34./999/.12/11.", (9,), ".34/33."),
    "paint_majority": ("112/333/.22", ("rows",), "111/333/222"),
    "mark_plain_lines": ("11/12/33", ("rows", 5), "55/../55"),
    "drop_cells": ("12/.1/3.", ("down",), "../12/31"),
    "sort_lines": ("111/1../.22", ("down",), "1../.22/111"),
    "pack_lines": ("1./../.2", ("down",), "1./.2"),
    "rays": (".1..2./......", ("right",), ".11122/......"),
    "rays_to_wall": ("1.2/.../9../...", (9, "down"), "1.2/1.2/9.2/..2"),
    "grow_until_wall": ("..9/.1./...", (9,), ".19/111/.1."),
    "full_lines": (".1./.../2..", ("rows",), "111/.../222"),
    "crosses": ("1../..1/...", (5,), "115/511/1.1"),
    "diagonals": ("..../.1../....", ("both",), "1.1./.1../1.1."),
    "bounce": ("2......./......../........", (3,), "2...3.../.3.3.3.3/..3...3."),
    "connect": ("1..1./....2/....2/2....", ("own", 5), "1111./....2/....2/2...."),
    "fill_between_corners": ("1..1/..../..../1..1", ("inside", 5), "1..1/.55./.55./1..1"),
    "shoot": ("81.../...../..28.", (8,), "81111/...../2228."),
    "halo": (".../.1./...", ("corners", 5), "5.5/.1./5.5"),
    "sign_by_colour": (
        "......./.1...2./......./......./.3...../.......",
        (1, 2, 3),
        ".1..2.2/111..2./.1..2.2/333..../333..../333....",
    ),
    "shadow": (".1./.1./...", ("down", 5), ".1./.1./.5."),
    "stamp_at_points": (
        "121..../313..../121..../......./......./....1../.......",
        (),
        "121..../313..../121..../......./...121./...313./...121.",
    ),
    "paint_crossings": (".1./111/.1.", (5,), ".1./151/.1."),
    "paint_corridors": ("1.1/..1", ("columns", 5), "151/.51"),
    "fill_enclosed": (".111/.1.1/.111/....", (5,), ".111/.151/.111/...."),
    "fill_outside": (".111/.1.1/.111/....", (5,), "5111/51.1/5111/5555"),
    "fill_both": (".111/.1.1/.111/....", (5, 6), "6111/6151/6111/6666"),
    "fill_rooms_by_size": ("..1./..1./111./....", ("least", 5), "551./551./111./...."),
    "flood": ("1.9./..93/9999/.2..", (9,), "1193/1193/9999/2222"),
    "add_frame": ("12", (5,), "5555/5125/5555"),
    "paint_border": ("111/121/111", (5,), "555/525/555"),
    "fill_largest_gap": ("1..1./1..11/1..1./.11.1", (5,), "1551./15511/1551./.11.1"),
    "fill_boxed_rooms": ("111.11111/1.1.1...1/111.1.1.1/....11111", (5,), "111.11111/151.1...1/111.1.1.1/....11111"),
    "trim": (".../.12/...", (), "12"),
    "peel": ("111/121/111", (), "2"),
    "half": ("1234/5678", ("left",), "12/56"),
    "inside_frame": ("18888/.8.28/281.8/.8888", (8,), ".2/1."),
    "erase_outside": ("18888/.8.28/281.8/.8888", (8,), ".8888/.8.28/.81.8/.8888"),
    "erase_inside": ("18888/.8.28/281.8/.8888", (8,), "18888/.8..8/28..8/.8888"),
    "inside_to_frame_colour": ("18888/.8.28/281.8/.8888", (8,), "18888/.8.88/288.8/.8888"),
    "denoise": ("19./.11", (9,), "1../.11"),
    "drop_dust": ("11../...2/3...", (), "11../..../...."),
    "keep_dust": ("11../...2/3...", (), "..../...2/3..."),
    "restore_symmetry": ("1299/3499/3443/1221", (9,), "1221/3443/3443/1221"),
    "hidden_by_symmetry": ("1299/3499/3443/1221", (9,), "21/43"),
    "restore_tiling": ("12121/34993/12991/34343", (9,), "12121/34343/12121/34343"),
    "hidden_by_tiling": ("12121/34993/12991/34343", (9,), "34/12"),
    "continue_rows": ("1./.2/1./../..", (), "1./.2/1./.2/1."),
    "complete_half": ("12/.3/../..", ("down",), "12/.3/.3/12"),
    "compartments": ("1.9../..9../99999/..9.2/..9..", (9,), "1./.2"),
    "fill_compartments": ("1.9../..9../99999/..9.2/..9..", (9,), "119../119../99999/..922/..922"),
    "find_things": ("1.2/1../..3", (), "1/1|2|3"),
    "find_colour_things": ("112/.12/3..", (), "11/.1|2/2|3"),
    "keep": ("11.22/1..22", ((WITH, "solid"),), "...22/...22"),
    "paint_those": ("11.2", ((MOST, "cells"), 5), "55.2"),
    "paint_two_ways": ("11.2./...22", ((WITH, "straight"), 5, 6), "55.6./...66"),
    "paint_by_rank": ("111.2.33", ("cells", (5, 6, 7)), "555.7.66"),
    "paint_by_amount": ("111.2.33", ("cells", (5, 6, 7)), "777.5.66"),
    "paint_like": ("11.2", ((MOST, "cells"),), "11.1"),
    "trade_colours": ("111.2.33", ("cells",), "222.1.33"),
    "paint_by_speck": ("112.3", (), "222.."),
    "swap_speck": ("112.333", (), "221.333"),
    "only_specks": ("112.331", (), "..2...1"),
    "gravity": ("11./.../.2./...", ("down",), ".../.../11./.2."),
    "gravity_of": ("11.2/..../....", ("down", (MOST, "cells")), "...2/..../11.."),
    "shift": ("1.../.2..", ("right", 2), "..1./...2"),
    "shift_those": ("11.2/....", ((MOST, "cells"), "down", 1), "...2/11.."),
    "shift_by_size": ("11..../....../2.....", ("right",), "..11../....../.2...."),
    "gather": ("111..2/1...../....../3.....", ((MOST, "cells"),), "1112../1...../3...../......"),
    "flip_each": ("1..2/11.2", ("columns",), ".1.2/11.2"),
    "flip_those": ("1...2./11..22/11....", ((MOST, "cells"), "columns"), ".1..2./11..22/11...."),
    "symmetrise": ("1../1../11.", ("columns",), "11./11./11."),
    "fill_holes": ("111.2/1.1../111..", (5,), "111.2/151../111.."),
    "fill_holes_alike": ("111.2/1.1../111..", (), "111.2/111../111.."),
    "fill_boxes": ("1.../11.2", (5,), "15../11.2"),
    "to_boxes": ("1.../11.2", (), "11../11.2"),
    "box_those": ("11...2/....../......", ((MOST, "cells"), 5), "115..2/555.../......"),
    "box_each": ("1...../....../....2.", (5,), "15..../55.555/...525"),
    "hollow_out": ("111.2/111../111..", (), "111.2/1.1../111.."),
    "mark_rims": ("111/111/111", (5,), "555/515/555"),
    "mark_centres": ("111.22", (5,), "151.22"),
    "repeat_once": ("11.../...../2....", ("right", 1), "11.11/...../2.2.."),
    "repeat_to_border": ("12..../......", ("right", 0), "121212/......"),
    "trail": ("11../..../...2/....", ("down",), "11../11../11.2/11.2"),
    "draw": ("1.2/1..", (), "1.2/1.."),
    "crop_one": (".11./.1../...2", ((MOST, "cells"),), "11/1."),
    "crop_around_one": ("11../.1../...2", ((MOST, "cells"),), "11./.1./..."),
    "crop_span": (".1../...2/....", (), "1../..2"),
    "commonest_shape": ("11.22/...../3....", (), "11"),
    "odd_shape": ("11.22/...../3....", (), "3"),
    "overlay": ("11...2/1...22", (), "12/22"),
    "line_up": ("111.2/.1...", ("cells", "ascending"), "..111/2..1."),
    "list_colours": ("1.22.333", ("cells", "descending", "rows"), "321"),
    "count_chart": ("1.1.2", ("descending",), "11/2."),
    "count": ("1.22.3", (), 3),
    "count_those": ("1.22.3", ((WITH, "single"),), 2),
    "count_of_colour": ("1.1.2", (1,), 2),
    "amount_of_one": ("111.2", ((MOST, "width"),), 3),
    "colour_of_one": ("111.2", ((LEAST, "cells"),), 2),
    "commonest_colour": ("1.1.2", (), 1),
    "rest_on": (".11./..../..2.", ("left",), "11../..../2..."),
    "split": ("1.9.2/3.9.4", (9,), "1./3.|.2/.4"),
    "combine": ("1./11|.1/1.", ("xor", 5), "55/.5"),
    "superpose": ("1./11|.2/2.", ("forward",), "12/21"),
    "vote": ("1.1|11.|..1", (5,), "5.5"),
    "odd_panel": ("1.|1.|.1", (), ".1"),
    "panel_by_cells": ("1.|11", ("most",), "11"),
    "symmetric_panel": ("1.1|11.|.11", (), "1.1"),
    "panel_chart": ("1.|11|1.", (5,), ".5."),
    "sort_panels": ("11|1.|..", (), "..1.11"),
    "join_panels": ("1./.2|3./.4", (), "1.3./.2.4"),
    "count_colours": ("12/2.", (), 2),
    "count_cells": ("12/2.", (), 3),
    "bar": (3, (5, "columns"), "5/5/5"),
    "diagonal": (2, (5,), "5./.5"),
    "staircase": (3, (5,), "5../55./555"),
    "board": (4, (5,), "555/5../..."),
    "gauge": (2, (5, 6), "66..."),
    "chessboard": (3, (5,), "5.5/.5./5.5"),
    "target": (2, (5, 6), "555/565/555"),
    "cell_colour": ("11/2.", ("commonest",), 1),
    "swatch": (5, (1, 2), "55"),
    "emblem": (5, ("plus",), ".5./555/.5."),
    "split_even": ("12..34", (2,), "12.|.34"),
    "flip_panels": ("12|34", ("columns",), "21|43"),
    "mark_difference": ("1.1|.22", (5,), "1.5"),
    "colour_chart": ("11/2.", ("descending",), "11/2."),
    "colour_list": ("11/2.", ("ascending",), "2/1"),
    "mark_crowded": ("11./1../..1", (2, 5), "51./1../..1"),
    "mark_lonely": ("11./1../..1", (5,), "11./1../..5"),
    "elbow": ("1.../..../...2", (1, 2, "rows", 5), "1555/...5/...2"),
    "span_box": ("1.../..../...2", ("frame", 5), "1555/5..5/5552"),
    "rays_to_shore": ("1..1.2/1.2..2", (), "1111.2/1.2222"),
    "move_to_shore": ("1..1.2/1.2.32", ("go",), "11...2/1...22"),
    "paint_by_nearest_shore": ("1.3..2/1..3.2", (), "1.1..2/1..2.2"),
    "grow_rows": ("12....", ("longer",), "12..../122.../1222.."),
    "shift_rows": ("12..", (), "12../.12./..12/...1"),
    "connect_compartments": ("19.91/99999/.9.9.", (9,), "19191/99999/.9.9."),
    "reflect_across": ("1./.2/88/../..", (8, "both"), "1./.2/88/.2/1."),
    "reverse_rings": ("1111/1221/1221/1111", (), "2222/2112/2112/2222"),
    "rotate_rings": ("11111/12221/12321/12221/11111", ("out",), "22222/23332/23132/23332/22222"),
    "list_rings": ("1111/1221/1221/1111", (), "12"),
}
CRITERIA: dict[str, tuple[str, list[int]]] = {  # a value for every thing, in reading order
    "cells": ("11.2/1...", [3, 1]),
    "height": ("11.2/1...", [2, 1]),
    "width": ("11.2/1...", [2, 1]),
    "length": ("1.22/1.../1...", [3, 2]),
    "box_area": ("11.2/1...", [4, 1]),
    "lowness": ("1.2/..2", [1, 2]),
    "rightness": ("11.2", [2, 4]),
    "holes": ("111.2/1.1../111..", [1, 0]),
    "hole_cells": ("1111.2/1..1../1111..", [2, 0]),
    "speck_cells": ("1121.2", [1, 0]),
    "colours": ("123.2", [3, 1]),
    "shape_copies": ("11.22.3", [2, 2, 1]),
    "colour_copies": ("1.1.2", [2, 2, 1]),
    "touches_border": ("1..../..2../.....", [True, False]),
    "mirrors_sideways": ("11.2/1...", [False, True]),
    "mirrors_upright": ("111.2/1....", [False, True]),
    "symmetric": ("11.33/1..3./...../22...", [False, False, True]),
    "solid": ("11.2/1...", [False, True]),
    "straight": ("11.2/1...", [False, True]),
    "square": ("11.22/1....", [True, False]),
    "upright": ("1.22/1...", [True, False]),
    "single": ("11.2", [False, True]),
    "has_hole": ("111.2/1.1../111..", [True, False]),
    "has_speck": ("112.2", [True, False]),
    "has_twin": ("1.2.33", [True, True, False]),
    "has_colour_mate": ("1.1.2", [True, True, False]),
    "in_upper_half": ("1../..2/..2/..2", [True, False]),
    "in_left_half": ("1..222", [True, False]),
}


def test_every_primitive_has_exactly_one_example() -> None:
    assert EXAMPLES.keys() == PRIMITIVES.keys()
    assert CRITERIA.keys() == (MEASURES | TRAITS).keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_primitives_do_what_they_say(name: str) -> None:
    value, arguments, wanted = EXAMPLES[name]
    drawn = [argument(name, place, value) for place, value in enumerate(arguments)]
    result = PRIMITIVES[name].function(taken(name, value), *drawn)
    if name.startswith("find_"):
        result = Panels((1, len(result.items)), tuple(thing.patch for thing in result.items))
    assert shown(result) == wanted


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_see_what_they_say(name: str) -> None:
    text, wanted = CRITERIA[name]
    things = find_things(grid(text))
    assert [(MEASURES | TRAITS)[name].function(thing, things) for thing in things.items] == wanted


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_every_primitive_is_described_in_one_line(name: str) -> None:
    described = PRIMITIVES[name].function.__doc__
    assert described
    assert "\n" not in described


def test_choices_refuse_ties_and_empty_choices() -> None:
    things = find_things(grid("1.2.33"))
    assert Which(MEASURES["cells"], MOST).among(things) == [False, False, True]
    for criterion, want in ((MEASURES["cells"], LEAST), (TRAITS["solid"], WITH), (TRAITS["upright"], WITH)):
        with pytest.raises(Unfit):
            Which(criterion, want).among(things)
    with pytest.raises(Unfit):
        One(TRAITS["single"], WITH).pick(things)


@pytest.mark.parametrize("direction", ["up", "down", "left", "right"])
def test_a_thing_whose_box_has_an_empty_rim_cannot_slide_off_the_grid(direction: Direction) -> None:
    patch = np.zeros((7, 7), np.uint8)
    patch[3, 3] = 1
    with pytest.raises(Unfit):
        PRIMITIVES["gravity"].function(Objects((9, 9), (Thing(patch, 1, 1),)), direction)
