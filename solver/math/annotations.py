"""The calculator inside a solution that is being written: after `<<48/2=` the next tokens are `24>>`, whatever the model wants.

A `Calculator` is a forcer of tokens (`solver.types.TokenForcer`), so it works inside the batches of every engine: no other
sample waits, and the keys and values of what is written already stay in the cache. When a sample writes an annotation that the
calculator cannot evaluate, the sample is ended, and has to be drawn again.

Source: Cobbe et al. 2021 (arXiv 2110.14168), section 2 and appendix C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from solver.math.calculator import MAX_LENGTH, IllFormed, evaluate, written
from solver.math.tokens import MathTokenizer
from solver.types import TokenForcer, TokenIds

OPEN, CLOSE = "<<", ">>"


class Calculator:
    """Follows one completion, and forces the values of its annotations."""

    def __init__(self, tokenizer: MathTokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail = ""  # the text from the last OPEN on, or the last character of the text
        self._pending: list[int] = []  # tokens that have to come next
        self._ended = False

    def follow(self, tokens: Sequence[int]) -> int | None:
        """Take the tokens that were appended; the token that must come next, or None."""
        for token in tokens:
            if self._pending:
                self._pending.pop(0)  # it is `token`, because the engine writes what it is told to
            elif not self._ended:
                self._read(self._tokenizer.piece(int(token)))
        return self._pending[0] if self._pending else None

    def _read(self, piece: str) -> None:
        self._tail += piece
        start = self._tail.rfind(OPEN)
        if start < 0:
            self._tail = self._tail[-1:]
            return
        self._tail = self._tail[start:]
        try:
            value = _rest_of(self._tail[len(OPEN) :])
        except IllFormed:
            self._ended = True
            self._pending = [self._tokenizer.end]
            return
        if value is not None:
            self._tail = ""
            self._pending = list(self._tokenizer.after_equals(value)) if value else []


def _rest_of(inside: str) -> str | None:
    """What has to follow an annotation of which `inside` is written: the rest of the value and CLOSE.

    None: its expression is not complete. Raises IllFormed if it cannot be evaluated, or if another value is written.
    """
    expression, equals, value = inside.partition("=")
    if not equals:
        if CLOSE in inside or len(inside) > MAX_LENGTH:
            raise IllFormed("no equals sign")
        return None
    whole = written(evaluate(expression)) + CLOSE
    if value.startswith("."):  # some tokenizers join the point to the equals sign
        whole = whole.removeprefix("0")
    if whole.startswith(value):
        return whole[len(value) :]
    if value.startswith(whole):  # a token holds the end of the annotation and more
        return ""
    raise IllFormed(f"{value!r} is not the value")


def is_well_formed(text: str) -> bool:
    """Whether every annotation of a text is complete, and has the value that the calculator gives."""
    try:
        return all(_rest_of(part) == "" for part in text.split(OPEN)[1:])
    except IllFormed:
        return False


def calculators(tokenizer: MathTokenizer) -> Callable[[], TokenForcer]:
    """For `SampleRequest.forcer`: makes a calculator for each completion."""
    return lambda: Calculator(tokenizer)


def chosen(ids: Sequence[int] | TokenIds, tokenizer: MathTokenizer) -> NDArray[np.bool_]:
    """(tokens,): whether the model chose each token of a completion; else the calculator wrote it."""
    calculator = Calculator(tokenizer)
    free = [calculator.follow([]) is None]
    for token in ids:
        free.append(calculator.follow([int(token)]) is None)
    return np.array(free[:-1], dtype=bool)
