"""Final answers: how they are found in a solution, and the normal form by which two written forms are compared.

The normal form of a number is an integer (`1080`), a finite decimal (`-0.25`), or a fraction in lowest terms (`1/3`). So `1,080`,
`$1080.00` and `1080 apples` have the same one. Units, currencies and percent signs are dropped, because references leave them
out; a text with no number, or with more than one, has no normal form.
"""

from __future__ import annotations

import re
from fractions import Fraction

from solver.math.calculator import finite_decimals, with_decimals

MARK = "####"  # what stands before the final answer
MAX_LENGTH = 100  # characters of an answer
_MAX_DECIMALS = 12  # a finite decimal with more is written as a fraction

_MINUS = str.maketrans({"−": "-", "–": "-", "‐": "-", "‑": "-", "⁄": "/", "∕": "/"})  # noqa: RUF001
_SPACES = " \u00a0\u202f\u2009"  # a plain one, and those that are used between groups of digits
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_GROUPED = rf"\d{{1,3}}(?:(?:,\d{{3}})+|(?:[{_SPACES}']\d{{3}})+)(?!\d)"  # 1,080 or 1 080
_PLAIN = rf"(?:{_GROUPED}|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+])?\s?[$€£¥₹]?\s?(?P<inner>-)?"
    rf"(?:(?P<whole>\d+)[-{_SPACES}]+(?P<top>\d+)\s?/\s?(?P<bottom>\d+)"  # 1 1/2, 1-1/2
    rf"|(?P<over>{_PLAIN})\s?/\s?(?P<under>\d[\d,]*)"  # 3/4
    rf"|(?P<plain>{_PLAIN}))"
    rf"(?:\s?(?P<scale>thousand|million|billion)\b)?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:[\^_]?\d+|[²³])*|\^\d+")  # a unit: letters, with a power as in m2, m^2 and m³


def final_answer(solution: str) -> str | None:
    """The normal form of the answer after the last MARK of a solution; None if there is none, or it is not one number."""
    _, mark, rest = solution.rpartition(MARK)
    if not mark:
        return None
    lines = rest.strip().splitlines()
    return normal_form(lines[0]) if lines else None


def normal_form(text: str) -> str | None:
    """The normal form of a written number; None if the text does not hold exactly one number."""
    if len(text) > MAX_LENGTH:
        return None
    value = _value(text)
    return None if value is None else _written(value)


def _value(text: str) -> Fraction | None:
    text = _LATEX_FRACTION.sub(r"\1/\2", text.translate(_MINUS)).replace("\\", "").replace("*", "")
    for sign, fraction in _VULGAR.items():
        text = text.replace(sign, f" {fraction}")
    found = [match for match in _NUMBER.finditer(text) if _stands_alone(text, match)]
    if len(found) != 1 or re.search(r"\d", _without(text, found[0])):
        return None
    return _number(found[0])


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether a number is none of the digits of a unit, as in `5 m2`."""
    last = max(match.end(part) for part in ("bottom", "under", "plain")) - 1  # its last digit
    return not any(word.start() <= last < word.end() for word in _WORD.finditer(text))


def _without(text: str, match: re.Match[str]) -> str:
    """The text without a number, and without units."""
    return _WORD.sub("", f"{text[: match.start()]} {text[match.end() :]}")


def _number(match: re.Match[str]) -> Fraction | None:
    """The value of a match of _NUMBER; None if it divides by zero."""
    part = match.groupdict()
    if part["whole"] is not None:
        if not int(part["bottom"]):
            return None
        value = int(part["whole"]) + Fraction(int(part["top"]), int(part["bottom"]))
    elif part["over"] is not None:
        if not int(part["under"].replace(",", "")):
            return None
        value = _decimal(part["over"]) / int(part["under"].replace(",", ""))
    else:
        value = _decimal(part["plain"])
    if part["scale"]:
        value *= _SCALES[part["scale"].lower()]
    return -value if (part["sign"] == "-") != (part["inner"] == "-") else value


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(rf"[,'{_SPACES}]", "", text))


def _written(value: Fraction) -> str:
    decimals = finite_decimals(value.denominator)
    if decimals is None or decimals > _MAX_DECIMALS:
        return f"{value.numerator}/{value.denominator}"
    return with_decimals(value, decimals)
