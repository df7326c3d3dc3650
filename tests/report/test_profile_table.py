"""Profiles as tables, and the documents around them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from solver.budget.prior import stored
from solver.budget.profile import Profile
from solver.errors import InputError
from solver.report.profile_table import (
    COLUMNS,
    cells,
    comparison_table,
    lines_about,
    markdown,
    markers,
    notes,
    profile_tables,
    replace_between,
    rewrite_table,
)

CPU = stored("cpu")
BEGIN, END = markers("cpu")
lines = st.text(st.characters(exclude_characters="<", exclude_categories=("Cs",)), max_size=60)


def printed(*renderables: object) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(*renderables)
    return capture.get()


def changed(**fields: object) -> Profile:
    """The profile with one row, of these fields."""
    variant = CPU.variants[0]
    row = variant.rows[0].model_copy(update=fields)
    return CPU.model_copy(update={"variants": (variant.model_copy(update={"rows": (row,)}),)})


@given(lines, lines, lines, lines)
def test_only_what_stands_between_the_markers_changes(before: str, old: str, after: str, body: str) -> None:
    text = f"{before}{BEGIN}{old}{END}{after}"
    once = replace_between(text, "cpu", body)
    assert once == f"{before}{BEGIN}\n{body}\n{END}{after}"
    assert replace_between(once, "cpu", body) == once


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}", f"{BEGIN}{BEGIN}{END}"])
def test_without_both_markers_once_and_in_order_nothing_is_written(tmp_path: Path, text: str) -> None:
    document = tmp_path / "document.md"
    document.write_text(text)
    with pytest.raises(InputError) as refusal:
        rewrite_table(document, CPU)
    assert all(word in str(refusal.value) for word in (str(document), BEGIN, END))
    assert document.read_text() == text


def test_the_table_of_a_machine_goes_between_its_own_markers_and_line_ends_stay(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    other = "".join(f"{marker}\r\n" for marker in markers("h200"))
    document.write_bytes(f"top\r\n{BEGIN}\nold\n{END}\n{other}bottom".encode())
    rewrite_table(document, CPU)
    first = document.read_bytes()
    assert first == f"top\r\n{BEGIN}\n{markdown(CPU)}\n{END}\n{other}bottom".encode()
    rewrite_table(document, CPU)
    assert document.read_bytes() == first


def test_a_document_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.md"):
        rewrite_table(tmp_path / "absent.md", CPU)


def test_ten_and_a_thousand_steps_follow_from_one() -> None:
    found = changed(step_seconds=6.0, tokens=1000, prefill_seconds=0.5, peak_memory=2_500_000_000, mfu=0.123)
    row = dict(zip(COLUMNS, cells(found.variants[0], found.variants[0].rows[0]), strict=True))
    assert row["10 steps (min)"] == "1"
    assert row["1000 steps (h)"] == "1.67"
    assert row["tokens/s"] == "667"  # four sequences of a thousand tokens a step
    assert row["prefill tokens/s"] == "2,000"
    assert row["MFU"] == "12.3%"
    assert row["peak GB"] == "2.50"


def test_what_was_not_measured_is_a_dash_with_its_reason() -> None:
    names = ("step_seconds", "mfu", "prefill_seconds", "decode_rate", "search_rate", "peak_memory")
    found = changed(**dict.fromkeys(names), note="out of memory")
    assert set(cells(found.variants[0], found.variants[0].rows[0])[2:]) == {"-"}
    assert "out of memory" in markdown(found)
    assert list(notes(found)) == ["none, 512 tokens: out of memory"]


@pytest.mark.parametrize("machine", ["cpu", "h200", "kaggle-l4x4", "kaggle-t4x2"])
def test_an_estimate_is_marked_wherever_it_is_printed(machine: str) -> None:
    found = stored(machine)
    assert ("NOT MEASURED" in markdown(found)) == found.estimate
    assert any("NOT MEASURED" in line for line in lines_about(found)) == found.estimate


@pytest.mark.parametrize("machine", ["cpu", "h200", "kaggle-l4x4", "kaggle-t4x2"])
def test_every_column_of_estimated_numbers_says_so(machine: str) -> None:
    found = stored(machine)
    head = [part.strip() for part in markdown(found).splitlines()[0].strip("|").split("|")]
    assert len(head) == len(COLUMNS)
    assert head[:2] == ["quantisation", "tokens"]  # what was asked for, not a result
    assert {column.endswith(", estimate") for column in head[2:]} == {found.estimate}


def test_a_measured_profile_says_when() -> None:
    found = CPU.model_copy(update={"derivation": "", "measured_at": "2026-01-02", "commit": "abc"})
    assert any("measured 2026-01-02, commit abc" in line for line in lines_about(found))


def test_the_table_fits_eighty_columns_uncut() -> None:
    for machine in ("cpu", "h200"):
        for variant in stored(machine).variants:
            text = printed(*profile_tables(stored(machine)))
            assert "…" not in text
            assert all(part in text for row in variant.rows for part in cells(variant, row))


@pytest.mark.parametrize("machine", ["cpu", "h200", "kaggle-l4x4", "kaggle-t4x2"])
def test_the_document_shows_the_stored_profiles_or_nothing(machine: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
    begin, end = markers(machine)
    body = text.partition(begin)[2].partition(end)[0].strip()
    if body == "Not measured yet.":
        assert stored(machine).estimate
    else:
        assert body == markdown(stored(machine)), "out of date: make profile"


def test_a_comparison_shows_new_over_old() -> None:
    new = changed(step_seconds=3.0, search_rate=None)
    text = printed(comparison_table(new, changed(step_seconds=2.0)))
    (line,) = [line for line in text.splitlines() if "step seconds" in line]
    assert line.split()[-3:] == ["3", "2", "1.50"]
    assert "search rate" not in text
