"""Reads what a locked process wrote. The bytes may be anything, so everything about them is checked."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from solver.arc.grid import GridError, parse_grid
from solver.arc.task import Pair
from solver.pretrain.lm_generators.verdicts import REASONS, Refused

MAX_DETAIL = 200  # characters

BY_THE_CODE = frozenset(REASONS[REASONS.index("syntax") : REASONS.index("bounds") + 1])  # what a locked process may say


def read_answer(data: bytes, seeds: Collection[int], count: int) -> dict[int, Pair]:
    """The pairs by their seeds in an answer, which has to give `count` of them with some of the `seeds`.

    Raises Refused, and nothing else, for any other bytes.
    """
    try:
        answer = json.loads(data.decode("ascii"))
        if not isinstance(answer, dict) or len(answer) != 1:
            raise Refused("answer", "not an object with pairs or a reason")
        if "refused" in answer:
            raise _refusal(answer["refused"])
        pairs = answer.get("pairs")
        if not isinstance(pairs, list) or len(pairs) != count:
            raise Refused("answer", f"not {count} pairs")
        found = dict(_pair(entry, seeds) for entry in pairs)
    except GridError as error:
        raise Refused("bounds", _one_line(str(error))) from None
    except (ValueError, RecursionError) as error:  # not JSON; nested thousands of times; a number of thousands of digits
        raise Refused("answer", _one_line(f"{type(error).__name__}: {error}")) from None
    if len(found) != count:
        raise Refused("answer", "two pairs of one seed")
    return found


def _pair(entry: Any, seeds: Collection[int]) -> tuple[int, Pair]:
    if not isinstance(entry, list) or len(entry) != 3:
        raise Refused("answer", "a pair is not seed, input and output")
    seed, shown, output = entry
    if type(seed) is not int or seed not in seeds:
        raise Refused("answer", "a pair of another seed")
    return seed, Pair(parse_grid(shown), parse_grid(output))


def _refusal(value: Any) -> Refused:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, str) for part in value):
        return Refused("answer", "not a reason")
    reason, detail = value
    return Refused(reason, _one_line(detail)) if reason in BY_THE_CODE else Refused("answer", "an unknown reason")


def _one_line(text: str) -> str:
    """The text without line breaks and what a terminal would obey, and not too long."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_DETAIL])
