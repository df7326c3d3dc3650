"""Errors in one line."""

import pytest

from solver.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  first \nsecond"), "first "),
        (ValueError(), "ValueError"),
        (MemoryError(" \n"), "MemoryError"),
        (OSError("x" * 1000), "x" * 300),
    ],
)
def test_an_error_becomes_one_line_even_without_a_message(error: BaseException, line: str) -> None:
    assert one_line(error) == line
