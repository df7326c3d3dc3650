"""The ensemble of network and programs: features by hand, chances, the fit, its file, and how selection uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from arc_strategies import grids
from hypothesis import given
from hypothesis import strategies as st

from solver.arc import selection
from solver.arc.ensemble import PRIOR, Case, Ensemble, features, fit, load_ensemble, save_ensemble, shipped_ensemble
from solver.arc.grid import Grid, grid_key
from solver.arc.selection import RULES, agreement, choose, select
from solver.arc.tally import Tally
from solver.errors import InputError
from solver.types import Candidate, Program, Score

A, B, C, D = (np.array([[colour]], dtype=np.uint8) for colour in (1, 2, 3, 4))
NAMES = {grid_key(grid): name for name, grid in zip("ABCD", (A, B, C, D), strict=True)}
ASSUMED = Ensemble(PRIOR)


@pytest.fixture(autouse=True)
def assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of the prior: what is fitted may change."""
    monkeypatch.setattr(selection, "shipped_ensemble", lambda: ASSUMED)


def voted(grid: Grid, votes: int) -> list[Candidate]:
    return [Candidate(grid, f"v{view}/", -1.0, "greedy") for view in range(votes)]


def program(grid: Grid, exact: bool = True, agreement: float = 1.0, cost: float = 0.0) -> Candidate:
    return Candidate.of_program(grid, Program("text", cost, exact, agreement))


def names(found: tuple[Grid, ...]) -> str:
    return "".join(NAMES[grid_key(grid)] for grid in found)


def test_features_by_hand() -> None:
    programs = [program(C, agreement=0.5, cost=1.0), program(D, exact=False, cost=3.0), program(B, agreement=0.2, cost=3.0)]
    tally = Tally.of([*voted(A, 6), *voted(B, 3), *voted(C, 1), *programs])
    table = {NAMES[key]: dict(zip(PRIOR, row, strict=True)) for key, row in features((A, B), tally).items()}
    assert list(table) == ["A", "B", "C", "D"]
    nothing = dict.fromkeys(PRIOR, 0.0)
    assert table["A"] == {**nothing, "first": 1.0, "share": 0.6}
    costs = {"cost": np.log(4.0), "dearer": np.log(2.0)}
    both = {"exact": 1.0, "both": 1.0}
    assert table["B"] == pytest.approx({**nothing, **both, "second": 1.0, "share": 0.3, "agreement": 0.2, **costs})
    lower = {"lower": 1.0, "share": 0.1, "leads": 1.0, "agreement": 0.5, "cost": np.log(2.0)}
    assert table["C"] == pytest.approx({**nothing, **both, **lower})
    assert table["D"] == {**nothing, "inexact": 1.0}


@given(st.lists(st.tuples(grids(), st.booleans(), st.floats(0, 1), st.floats(0, 1e6)), max_size=4), st.lists(grids(), max_size=4))
def test_chances_are_shares_and_the_order_of_candidates_changes_nothing(
    found: list[tuple[Grid, bool, float, float]], network: list[Grid]
) -> None:
    candidates = [*(program(*one) for one in found), *(one for grid in network for one in voted(grid, 1))]
    tally, turned = Tally.of(candidates), Tally.of(candidates[::-1])
    chances = ASSUMED.chances(network[:2], tally)
    assert sum(one.chance for one in chances) < 1
    assert [one.chance for one in chances] == sorted((one.chance for one in chances), reverse=True)
    for rule in RULES:
        assert [grid_key(grid) for grid in select(rule, tally, ())] == [grid_key(grid) for grid in select(rule, turned, ())]


@pytest.mark.parametrize("rule", RULES)
def test_both_attempts_come_from_both_origins(rule: str) -> None:
    agreed = [*voted(A, 7), *voted(B, 1)]
    assert names(select(rule, Tally.of(agreed), ())) == "AB"
    assert names(select(rule, Tally.of([*agreed, program(C)]), ())) == "AC"  # an exact program before the second of the network
    assert names(select(rule, Tally.of([*agreed, program(C, exact=False)]), ())) == "AB"
    torn = [candidate for grid in (A, B, D) for candidate in voted(grid, 2)]
    assert names(select(rule, Tally.of([*torn, program(C)]), ()))[0] == "C"  # views that disagree are believed less
    assert names(select(rule, Tally.of([*torn, program(D)]), ()))[0] == "D"  # both engines have it
    assert names(select(rule, Tally.of([program(C), program(B, agreement=0.2)]), ())) == "CB"  # no network


@pytest.mark.parametrize("rule", RULES)
def test_programs_do_not_change_the_ranking_of_the_network(rule: str) -> None:
    candidates = [*voted(A, 2), *voted(B, 3), *voted(C, 1)]
    scores = [Score(grid, "v0/", nll, 2) for grid, nll in ((A, 2.0), (B, 1.0), (D, 0.1))]
    with_programs = Tally.of([program(D), *candidates, program(A)])
    ranked = [[grid_key(grid) for grid in RULES[rule](tally, scores)] for tally in (Tally.of(candidates), with_programs)]
    assert ranked[0] == ranked[1]
    assert agreement([program(D), *voted(A, 2)], 4) == agreement(voted(A, 2), 4) == 0.5
    assert agreement([program(D)]) == 0.0


def test_an_answer_is_confirmed_if_both_put_it_first() -> None:
    both = choose("flat_vote", Tally.of([*voted(A, 7), *voted(B, 1), program(A)]), ())
    assert both.confirmed
    assert both.by_programs > 0.95
    assert not choose("flat_vote", Tally.of([*voted(A, 7), *voted(B, 1), program(A, exact=False)]), ()).confirmed
    assert not choose("flat_vote", Tally.of([*voted(A, 1), *voted(B, 7), program(A)]), ()).confirmed  # first of programs alone
    alone = choose("flat_vote", Tally.of([program(A)]), ())
    assert not alone.confirmed
    assert 0.5 < alone.by_programs < 1
    assert choose("flat_vote", Tally.of(voted(A, 8)), ()).by_programs == 0.0


def test_the_better_of_two_programs_for_a_grid_counts() -> None:
    tally = Tally.of([program(A, cost=5.0), program(A, cost=2.0), program(A, exact=False, cost=1.0)])
    assert tally.programs[grid_key(A)] == Program("text", 2.0, True, 1.0)


def test_the_fit_finds_how_often_each_origin_is_right() -> None:
    """The first grid of the network is right in 60 of 100 cases, that of an exact program in 30, none in 10."""
    tally = Tally.of([*voted(A, 1), program(B)])
    table = features((A,), tally)
    rows = np.array(list(table.values()))
    cases = [Case(rows, right) for right in [0] * 600 + [1] * 300 + [None] * 100]
    fitted = fit(cases, "made")
    chances = {NAMES[grid_key(one.grid)]: one.chance for one in fitted.chances((A,), tally)}
    assert chances["A"] == pytest.approx(0.6, abs=0.02)
    assert chances["B"] == pytest.approx(0.3, abs=0.02)
    assert fit([], "nothing").parameters == pytest.approx(dict(PRIOR))


def test_weights_count_cases() -> None:
    tally = Tally.of([*voted(A, 1), program(B)])
    rows = np.array(list(features((A,), tally).values()))
    heavy = fit([Case(rows, 0, 3.0), Case(rows, 1)], "")
    many = fit([*[Case(rows, 0)] * 3, Case(rows, 1)], "")
    assert heavy.parameters == pytest.approx(many.parameters)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    save_ensemble(path, Ensemble(PRIOR, "made"))
    assert load_ensemble(path) == Ensemble(dict(PRIOR), "made")
    value = json.loads(path.read_text())
    for broken in ({**value, "version": 9}, [], {**value, "parameters": {**value["parameters"], "both": True}}):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"ensemble\.json"):
            load_ensemble(path)
    with pytest.raises(InputError, match="cannot be written"):
        save_ensemble(tmp_path / "none" / "ensemble.json", ASSUMED)


def test_what_ships_is_sensible() -> None:
    """Whatever it was fitted to: exact programs are worth more than others, and agreement of both engines more than either."""
    shipped = shipped_ensemble()

    def chance(*candidates: Candidate) -> float:
        tally = Tally.of(candidates)
        ranked = tuple(RULES["flat_vote"](tally, ()))[:2]
        return next(one.chance for one in shipped.chances(ranked, tally) if grid_key(one.grid) == grid_key(A))

    assert chance(program(A)) > chance(program(A, exact=False))
    assert chance(program(A), *voted(A, 8)) > max(chance(program(A)), chance(*voted(A, 8), program(B)))
    assert chance(program(A, agreement=1.0)) >= chance(program(A, agreement=0.2))
