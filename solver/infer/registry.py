"""Engines by name."""

from __future__ import annotations

from collections.abc import Callable

from solver.config import InferSettings
from solver.infer.base import Engine
from solver.infer.hf import HFEngine
from solver.model.load import Base

ENGINES: dict[str, Callable[[Base, InferSettings], Engine]] = {"hf": HFEngine}


def choose_engine(base: Base, settings: InferSettings) -> tuple[str, str]:
    """The name of the engine to use, and why, in words."""
    if settings.engine != "auto":
        return settings.engine, "asked for"
    return "hf", f"serves any causal language model on {base.device.type}, LoRA and full adapters"


def make_engine(base: Base, settings: InferSettings) -> Engine:
    """The engine that `choose_engine` names. Raises ValueError for a model it cannot serve."""
    return ENGINES[choose_engine(base, settings)[0]](base, settings)
