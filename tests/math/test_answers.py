"""Answers in every written form, against labels given by hand, and against the numbers that the forms were written from."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.math.answers import final_answer, normal_form

# a reference, a written answer, and whether a person says that they are the same
LABELS = [
    ("1080", "1,080", True),
    ("1080", "1080", True),
    ("1080", "1080.", True),
    ("1080", "1080.00", True),
    ("1080", "$1,080", True),
    ("1080", "$ 1,080.00", True),
    ("1080", "1,080 dollars", True),
    ("1080", "1 080", True),
    ("1080", "1\u202f080 €", True),
    ("1080", "1'080 CHF", True),
    ("1080", "1080/1", True),
    ("1080", "= 1080", True),
    ("1080", "**1080**", True),
    ("1080", "+1080", True),
    ("1080", "The answer is 1080 apples.", True),
    ("1080", "108", False),
    ("1080", "1081", False),
    ("1080", "-1080", False),
    ("1080", "10,80", False),
    ("1080", "1,0800", False),
    ("1080", "1080 or 1081", False),
    ("1080", "one thousand and eighty", False),
    ("1080", "", False),
    ("1080", "1.080", False),
    ("-5", "-5", True),
    ("-5", "−5", True),  # noqa: RUF001
    ("-5", "-$5", True),
    ("-5", "$-5", True),
    ("-5", "- 5 degrees", True),
    ("-5", "5", False),
    ("0.5", "0.5", True),
    ("0.5", ".5", True),
    ("0.5", "0.50", True),
    ("0.5", "1/2", True),
    ("0.5", "2/4", True),
    ("0.5", "½", True),
    ("0.5", "\\frac{1}{2}", True),
    ("0.5", "1 / 2 cup", True),
    ("0.5", "$.50", True),
    ("0.5", "0.05", False),
    ("0.5", "50%", False),
    ("1.5", "1 1/2", True),
    ("1.5", "1-1/2 hours", True),
    ("1.5", "1½", True),
    ("1.5", "3/2", True),
    ("1.5", "1 2/1", False),
    ("-1.5", "-1 1/2", True),
    ("1/3", "1/3", True),
    ("1/3", "2/6", True),
    ("1/3", "⅓", True),
    ("1/3", "0.33", False),
    ("1/3", "1/0", False),
    ("25", "25%", True),
    ("25", "25 %", True),
    ("25", "25 percent", True),
    ("25", "0.25", False),
    ("25", "25 km/h", True),
    ("25", "25 miles per hour", True),
    ("25", "25 m2", True),
    ("25", "25 m^2", True),
    ("25", "25 cm³", True),
    ("25", "25kg", True),
    ("25", "£25", True),
    ("25", "25:00", False),
    ("25", "x=25", True),
    ("2000000", "2 million", True),
    ("2500000", "$2.5 million", True),
    ("2000000", "2,000,000", True),
    ("2000000", "2 millions of 3", False),
    ("70000", "70,000", True),
    ("0", "0", True),
    ("0", "-0", True),
    ("0", "0.00", True),
]


@pytest.mark.parametrize(("reference", "written", "same"), LABELS)
def test_grading_agrees_with_labels_by_hand(reference: str, written: str, same: bool) -> None:
    assert (final_answer(f"Some steps <<1+1=2>>2.\n#### {written}") == reference) is same


def test_a_reference_is_its_own_normal_form() -> None:
    references = [reference for reference, _, _ in LABELS]
    assert [normal_form(reference) for reference in references] == references


def test_the_last_mark_counts_and_only_its_line() -> None:
    assert final_answer("#### 3\nno, wait\n#### 4\n5 more") == "4"
    assert final_answer("####\n 6") == "6"
    assert final_answer("72") is None
    assert final_answer("####") is None


def forms(value: Fraction) -> list[str]:
    """Written forms of a number with two decimals at most."""
    sign, size = "-" * (value < 0), abs(value)
    decimal = f"{int(size * 100) // 100:,}.{int(size * 100) % 100:02d}"
    whole, rest = divmod(size, 1)
    plain = [f"{decimal}", decimal.replace(",", ""), f"${decimal}", f"{decimal}%", f"{decimal} apples", f"{decimal.rstrip('0')}"]
    fraction = [f"{size.numerator}/{size.denominator}", f"{whole} {rest.numerator}/{rest.denominator}"]
    return [sign + form for form in plain + fraction]


@given(st.integers(-(10**9), 10**9))
def test_all_forms_of_a_number_have_one_normal_form(hundredths: int) -> None:
    value = Fraction(hundredths, 100)
    found = {normal_form(form) for form in forms(value)}
    assert len(found) == 1
    assert Fraction(found.pop() or "x") == value


@given(st.text(max_size=150) | st.text("0123456789.,/ -+$%½'km^thousand", max_size=30))
def test_any_text_has_a_normal_form_or_none(text: str) -> None:
    found = normal_form(text)
    assert found is None or normal_form(found) == found
