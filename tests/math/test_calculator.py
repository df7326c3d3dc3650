"""The calculator against Python's Fraction on random expressions, and hostile texts."""

from __future__ import annotations

import sys
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.math.calculator import DECIMALS, MAX_DECIMALS, MAX_LENGTH, MAX_MAGNITUDE, IllFormed, evaluate, written

EXPRESSIONS = 100_000


def random_expression(rng: Random, depth: int) -> tuple[str, Fraction | None, int]:
    """A text, its value (None: a division by zero), and how tightly it binds: 0 a sum, 1 a product, 2 a number."""
    if depth == 0 or rng.random() < 0.2:
        form, tenths = rng.randrange(8), rng.randint(0, 9990)
        if form < 5:
            return str(tenths // 10), Fraction(tenths // 10), 2
        if form == 5:
            return f"{tenths // 10}.{tenths % 10}", Fraction(tenths, 10), 2
        if form == 6:
            return f".{tenths:04d}", Fraction(tenths, 10_000), 2
        return f"{tenths}.", Fraction(tenths), 2
    sign = rng.choice("+-*/")
    left, a, tight_a = random_expression(rng, depth - 1)
    right, b, tight_b = random_expression(rng, depth - 1)
    binds = 0 if sign in "+-" else 1
    left = f"({left})" if tight_a < binds else left
    right = f"({right})" if tight_b < binds or (tight_b == binds and sign in "-/") else right
    space = rng.choice(("", "", " "))
    text = f"{left}{space}{sign}{space}{right}"
    if a is None or b is None or (sign == "/" and b == 0):
        return text, None, binds
    value = a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b
    if rng.random() < 0.05:
        return f"-({text})", -value, 1
    return text, value, binds


def test_results_equal_those_of_fraction() -> None:
    rng = Random(0)
    checked = 0
    while checked < EXPRESSIONS:
        text, value, _ = random_expression(rng, rng.choice((1, 1, 2, 2, 3)))
        if len(text) > MAX_LENGTH:
            continue
        checked += 1
        if value is None or abs(value) > MAX_MAGNITUDE:
            with pytest.raises(IllFormed, match="zero" if value is None else "beyond"):
                evaluate(text)
        else:
            assert evaluate(text) == value, text


HOSTILE = {
    "power": "9**9**9",
    "parentheses": "(" * 10_000 + "1" + ")" * 10_000,
    "open parentheses": "(" * 90,
    "nested within the length": "(" * 45 + "1" + ")" * 45,
    "signs": "-" * 90 + "1",
    "name": "x",
    "call": "exit()",
    "dunder": "().__class__.__bases__[0].__subclasses__()",
    "import": "__import__('os').system('true')",
    "exponent": "1e999",
    "underscores": "1_000",
    "digits": "9" * 5000,
    "too large": "9999999999*9999999999",
    "zero": "1/(2-2)",
    "empty": "",
    "spaces": "   ",
    "point": ".",
    "two points": "1.2.3",
    "no operator": "1 2",
    "no number": "1+",
    "letters of numbers": "٣+1",
    "null": "1\0",
    "line break": "1\n+1",
    "floor": "7//2",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_are_refused(text: str) -> None:
    with pytest.raises(IllFormed):
        evaluate(text)


def calls(text: str) -> int:
    """How many calls of functions a text costs, those of the interpreter included."""
    counted = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        evaluate(text)
    except IllFormed:
        pass
    finally:
        sys.setprofile(None)
    return counted


def test_hostile_texts_cost_no_more_than_ordinary_ones() -> None:
    most = calls("+".join("1" * (MAX_LENGTH // 2)))
    assert most < 1000
    assert all(calls(text) <= most for text in HOSTILE.values())


@given(st.text("0123456789+-*/(). ", max_size=120) | st.text(max_size=30))
def test_any_text_has_a_value_or_is_ill_formed(text: str) -> None:
    try:
        value = evaluate(text)
    except IllFormed:
        return
    assert evaluate(written(value)) == value or value.denominator > 1


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("48/2", "24"),
        ("50*12/60", "10"),
        ("12/60", "0.2"),
        ("5-12", "-7"),
        ("1/4-1", "-0.75"),
        ("10/3", "3.33"),
        ("20/3", "6.67"),
        ("-10/3", "-3.33"),
        ("1/300", "0.0033"),
        (".5+.5", "1"),
        ("1/8", "0.125"),
        ("0-0", "0"),
        ("1/1024", "0.00098"),
        ("999/1000*1/3", "0.333"),
    ],
)
def test_values_are_written_as_solutions_write_them(expression: str, text: str) -> None:
    assert written(evaluate(expression)) == text


@given(st.fractions())
def test_a_written_value_is_exact_or_rounded_by_little(value: Fraction) -> None:
    text = written(value)
    shown = Fraction(text)
    assert text == text.strip()
    assert "e" not in text
    assert abs(shown - value) <= max(Fraction(1, 2 * 10**DECIMALS), 0)
    if value:
        assert abs(shown - value) <= abs(value) / 20
    if (value * 10**MAX_DECIMALS).denominator == 1:
        assert shown == value
