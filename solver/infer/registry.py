"""Engines by name, and which adapters they serve."""

from __future__ import annotations

from collections.abc import Callable

from solver.config import InferSettings
from solver.infer.base import Engine
from solver.infer.hf import HFEngine
from solver.infer.vllm.engine import VllmEngine
from solver.infer.vllm.shim import distribution
from solver.model.device import DevicePlan
from solver.model.load import Base

ENGINES: dict[str, Callable[[Base, InferSettings], Engine]] = {
    "hf": lambda base, settings: HFEngine(base.with_weights(), settings),
    "vllm": VllmEngine,
}
OWN_WEIGHTS = ("vllm",)  # engines that load the weights themselves


def choose_engine(base: Base, settings: InferSettings) -> tuple[str, str]:
    """The name of the engine to use, and why, in words."""
    if settings.engine == "vllm":
        return "vllm", f"asked for; {distribution() or 'not installed'}"
    if settings.engine != "auto":
        return settings.engine, "asked for"
    why = f"serves any causal language model on {base.device.type}, LoRA and full adapters"
    return "hf", f"{why}; {distribution()} is installed: infer.engine = vllm takes it" if distribution() else why


def make_engine(
    base: Base, settings: InferSettings, rank: int = 0, plan: DevicePlan | None = None, sleeps: bool = False
) -> Engine:
    """The engine that `choose_engine` names, ready for LoRA adapters of this rank if that is known.

    `plan` and `sleeps` are for an engine with weights of its own, see there. Raises ValueError or InputError for a model it
    cannot serve, and what an engine raises that does not start.
    """
    name, _ = choose_engine(base, settings)
    engine = VllmEngine(base, settings, plan, sleeps) if name == "vllm" else ENGINES[name](base, settings)
    if rank and isinstance(engine, VllmEngine):
        engine.start(rank)  # seconds, which no task has to pay then
    return engine


def lora_alone(settings: InferSettings) -> bool:
    """Whether the engine serves no adapters that hold all weights."""
    return settings.engine == "vllm"
