"""A forcer of tokens for the tests of both engines."""

from __future__ import annotations

from collections.abc import Sequence


class AfterTrigger:
    """After every `trigger` that the model chooses, the tokens of `forced` come."""

    def __init__(self, trigger: int, forced: tuple[int, ...]) -> None:
        self.trigger, self.forced = trigger, forced
        self.pending: list[int] = []

    def follow(self, tokens: Sequence[int]) -> int | None:
        for token in tokens:
            if self.pending:
                assert token == self.pending.pop(0)
            elif token == self.trigger:
                self.pending = list(self.forced)
        return self.pending[0] if self.pending else None


def forced_parts(ids: Sequence[int], trigger: int, forced: tuple[int, ...]) -> list[list[int]]:
    """What follows every trigger that the model chose, as many tokens as were forced."""
    parts, at = [], 0
    while at < len(ids):
        if ids[at] == trigger:
            parts.append(list(ids[at + 1 : at + 1 + len(forced)]))
            at += len(forced)
        at += 1
    return parts
