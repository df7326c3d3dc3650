"""The calculator of solutions: the exact value of an expression of numbers, + - * / and parentheses, and how it is written.

It is a parser, not `eval`: a text that is not such an expression, or is too long, is refused before anything is computed. All
numbers are exact rationals. Their size is bounded by the length of the text, because there is no power.

Source: Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems" (arXiv 2110.14168), appendix C, whose calculator is
Python's `eval` of the same annotations.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_LENGTH = 100  # characters of an expression
MAX_DEPTH = 10  # parentheses and signs inside one another
MAX_MAGNITUDE = 10**15  # of a result
DECIMALS = 2  # to which a value without a finite decimal form is rounded, as most of GSM8K's solutions do
MAX_DECIMALS = 8  # a value with more decimals is rounded, too

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|([-+*/()]))")
_ALLOWED = re.compile(r"[0-9+\-*/(). ]+")

_Ratio = tuple[int, int]  # numerator and denominator > 0, not in lowest terms


class IllFormed(ValueError):
    """The text is not an expression that the calculator evaluates. The message says why, in a few words."""


def evaluate(expression: str) -> Fraction:
    """The exact value of an expression. Raises IllFormed."""
    if len(expression) > MAX_LENGTH:
        raise IllFormed(f"longer than {MAX_LENGTH} characters")
    if not _ALLOWED.fullmatch(expression):
        raise IllFormed("a character that is not of a number, an operator or a parenthesis")
    numerator, denominator = _Parser(expression).whole()
    value = Fraction(numerator, denominator)
    if abs(value) > MAX_MAGNITUDE:
        raise IllFormed(f"a result beyond {MAX_MAGNITUDE}")
    return value


class _Parser:
    """A recursive-descent parser that computes as it reads."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise IllFormed("a point without digits")
            self._tokens.append(found[1] or found[2])
            at = found.end()
        self._tokens.append("")  # the end
        self._at = 0
        self._depth = 0

    def whole(self) -> _Ratio:
        value = self._sum()
        if self._tokens[self._at]:
            raise IllFormed("something after the end of the expression")
        return value

    def _sum(self) -> _Ratio:
        n, d = self._product()
        while (sign := self._tokens[self._at]) in ("+", "-"):
            self._at += 1
            m, e = self._product()
            n, d = (n * e + m * d if sign == "+" else n * e - m * d), d * e
        return n, d

    def _product(self) -> _Ratio:
        n, d = self._factor()
        while (sign := self._tokens[self._at]) in ("*", "/"):
            self._at += 1
            m, e = self._factor()
            if sign == "/":
                if m == 0:
                    raise IllFormed("a division by zero")
                m, e = (e, m) if m > 0 else (-e, -m)
            n, d = n * m, d * e
        return n, d

    def _factor(self) -> _Ratio:
        token = self._tokens[self._at]
        self._at += 1
        if token in ("+", "-", "("):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise IllFormed(f"more than {MAX_DEPTH} parentheses or signs inside one another")
            if token == "(":
                n, d = self._sum()
                if self._tokens[self._at] != ")":
                    raise IllFormed("a parenthesis that is not closed")
                self._at += 1
            else:
                n, d = self._factor()
                n = -n if token == "-" else n
            self._depth -= 1
            return n, d
        if not token or token in ("*", "/", ")"):
            raise IllFormed("a missing number")
        whole, _, decimals = token.partition(".")
        return int(whole + decimals), 10 ** len(decimals)


def written(value: Fraction) -> str:
    """A value as solutions write it: `5`, `-0.25`, `3.33`.

    With a finite decimal form of at most MAX_DECIMALS decimals, it is that one. Else it is rounded to DECIMALS decimals, half to
    even; a value that this would make 0 keeps two digits that are not 0.
    """
    if value.denominator == 1:
        return str(value.numerator)
    decimals = finite_decimals(value.denominator)
    if decimals is None or decimals > MAX_DECIMALS:
        decimals = DECIMALS
        while abs(value) * 10**decimals < 10:
            decimals += 1
    whole, _, fraction = with_decimals(value, decimals).partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def with_decimals(value: Fraction, decimals: int) -> str:
    """A value with exactly so many decimals, rounded half to even."""
    scaled = round(value * 10**decimals)
    digits = str(abs(scaled)).rjust(decimals + 1, "0")
    text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    return f"-{text}" if scaled < 0 else text


def finite_decimals(denominator: int) -> int | None:
    """The number of decimals of a fraction in lowest terms with this denominator; None: there is no end of them."""
    counts = []
    for prime in (2, 5):
        count = 0
        while denominator % prime == 0:
            denominator //= prime
            count += 1
        counts.append(count)
    return max(counts) if denominator == 1 else None
