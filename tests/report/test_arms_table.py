"""Tables of experiments: verdicts follow the signs, cells follow the heads, and differences are those of `Paired`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.report.arms_table import (
    AGREES,
    DISAGREES,
    NO_DIFFERENCE,
    OPEN,
    ArmComparison,
    ArmLine,
    ArmsReport,
    LossComparison,
    as_json,
    markdown,
    plot_arms,
    statements,
    verdict,
)
from solver.report.paired import Paired, PairedShares

LESS = ArmComparison("usual", 20, -0.25, -0.45, -0.05, 1, 6, 0.125)
LINE = ArmLine("usual", "m", "", 20, 10, 22, 11, 9, None, "29 of 80", OPEN, 60, 12345.6, 3.25)
OTHER = replace(LINE, arm="less", change="a.b=1", tasks_solved=5, compared=LESS, verdict=AGREES, source="-7")
REPORT = ArmsReport("A title", "someone 2024", "A note.", ("20 tasks.",), (LINE, OTHER), ("All agree.",))


def signed(difference: float, p: float = 0.5) -> ArmComparison:
    return replace(LESS, difference=difference, p=p)


@pytest.mark.parametrize(
    ("effect", "compared", "wanted"),
    [
        ("lower", signed(-0.1), AGREES),
        ("lower", signed(0.1), DISAGREES),
        ("higher", signed(0.1), AGREES),
        ("higher", signed(-0.1), DISAGREES),
        ("lower", signed(0.0), NO_DIFFERENCE),
        ("same", signed(-0.1, 0.01), AGREES),  # no gain
        ("same", signed(0.1, 0.5), AGREES),
        ("same", signed(0.1, 0.01), DISAGREES),
        (None, signed(0.1), OPEN),
        ("lower", None, OPEN),
        ("lower", replace(LESS, total=0), OPEN),
    ],
)
def test_verdicts(effect: str | None, compared: ArmComparison | None, wanted: str) -> None:
    assert verdict(effect, compared) == wanted


def test_statements_name_every_arm_once_and_say_what_may_be_chance() -> None:
    sure = replace(OTHER, arm="sure", verdict=DISAGREES, compared=signed(0.3, 0.001))
    said = statements([LINE, OTHER, sure])
    assert said[0].endswith("less, p = 0.12 (may be chance).")
    assert said[1].endswith("sure, p = 0.001.")
    assert said[2].endswith(": none.")


def test_the_table_shows_counts_intervals_and_the_source() -> None:
    text = markdown(REPORT)
    assert "| 10 of 20: 50.0 % (29.9 to 70.1) | 11 of 22: 50.0 % (30.7 to 69.3) |" in text
    assert "-25.0 (-45.0 to -5.0), +1 -6, p = 0.12, n = 20" in text
    assert "29 of 80" in text
    assert "All agree." in text


@pytest.mark.parametrize("losses", [False, True])
@pytest.mark.parametrize("models", ["one", "two"])
def test_rows_have_as_many_cells_as_the_head(losses: bool, models: str) -> None:
    loss = {"nats": 1.5, "nats_token": 0.1, "loss_compared": LossComparison(9, -0.5, 0.2, -0.4, 7)} if losses else {}
    lines = (LINE, replace(OTHER, **loss), replace(LINE, model="n" if models == "two" else "m", tasks=0, failure="cut"))
    text = markdown(replace(REPORT, lines=lines))
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert ("nats a token" in text) == losses
    assert "- usual, " in text.split("Without a result:")[1]


def test_json_and_picture(tmp_path: Path) -> None:
    value = as_json(REPORT)
    assert value["lines"][1]["compared"]["worse"] == 6
    assert value["lines"][0]["interval"][0] == pytest.approx(0.299, abs=0.001)
    told: list[str] = []
    lines = (*REPORT.lines, replace(LINE, tasks=0, tasks_solved=0), replace(LINE, model="n"))
    plot_arms(replace(REPORT, lines=lines), tmp_path / "arms.png", told.append)
    assert told == []
    assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_shares_of_zero_and_one_compare_as_booleans(results: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in results], [b for _, b in results]
    plain, shares = Paired.of(first, second), PairedShares.of(first, second)
    assert shares.signs == plain
    assert shares.difference == pytest.approx(plain.difference)
    low, high = shares.interval()
    assert -1 <= low <= shares.difference <= high <= 1
    assert high - low > 0.1  # also where all results are the same
    assert shares.p() == plain.p()
