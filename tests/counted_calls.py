"""Which functions a test really ran."""

from __future__ import annotations

import functools
from typing import Any

import pytest


def record_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """Wrap the function `name` of the module or class `owner`. Gives a list that gets the positional arguments of every call."""
    real, calls = getattr(owner, name), []

    @functools.wraps(real)
    def recorded(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, recorded)
    return calls
