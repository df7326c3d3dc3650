"""Engines by name, which of them "auto" chooses, and what takes its place if it does not start or breaks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from solver.config import InferSettings
from solver.errors import InputError, ProcessBroken
from solver.infer.base import Engine, EngineLost, EngineState
from solver.infer.hf import HFEngine
from solver.infer.vllm.engine import VllmEngine, unservable
from solver.infer.vllm.shim import distribution
from solver.infer.vllm.step_loop import line_of
from solver.model.device import DevicePlan
from solver.model.load import Base
from solver.model.memory import broken

log = logging.getLogger(__name__)

ENGINES: dict[str, Callable[[Base, InferSettings, DevicePlan | None, bool, EngineState], Engine]] = {
    "hf": lambda base, settings, plan, sleeps, state: HFEngine(base.with_weights(), settings, state),  # noqa: ARG005
    "vllm": lambda base, settings, plan, sleeps, state: VllmEngine(base, settings, plan, sleeps, state.vllm),
}
OWN_WEIGHTS = ("vllm",)  # engines that load weights of their own instead of using those of the base


class EngineStartError(Exception):
    """The engine that the settings name did not start. A later try may succeed, for example when memory is free."""


def choose_engine(base: Base, settings: InferSettings, lora: bool = False, state: EngineState | None = None) -> tuple[str, str]:
    """The name of the engine, and the reason in a few words. `lora`: all adapters will be LoRA."""
    if settings.engine != "auto":
        return settings.engine, "set by infer.engine"
    if state is not None and state.vllm_given_up:
        return "hf", state.vllm_given_up
    return auto_engine(base.device.type, lora, lambda: unservable(base))


def auto_engine(device: str, lora: bool, problem: Callable[[], str]) -> tuple[str, str]:
    """The engine that "auto" chooses on a type of device, and the reason.

    `problem` says why vllm cannot serve (empty: it can). It imports vllm, so it is called only if nothing else decides.

    Measured: on a CPU, `hf` made 2 to 13 times as many tokens per second with the earlier embedded model, under one adapter and
    under eight (`tests/benchmarks/bench_vllm.py`; docs/measurements.md, Engines). On one H200, vllm 0.26.0 made 1.1 times as many
    as `hf` (the same page, First runs on a GPU). Larger models on CPUs were not measured.
    """
    if device != "cuda":
        return "hf", f"faster than vllm on {'processors' if device == 'cpu' else device}"
    if not lora:
        return "hf", "adapters hold all weights, and vllm serves only LoRA"
    if why_not := problem():
        return "hf", why_not
    return "vllm", f"{distribution()} serves LoRA adapters of many tasks in one batch"


def make_engine(
    base: Base,
    settings: InferSettings,
    rank: int = 0,
    plan: DevicePlan | None = None,
    sleeps: bool = False,
    lora: bool = False,
    state: EngineState | None = None,
) -> Engine:
    """The engine that `choose_engine` names, started for LoRA adapters of this rank unless that is 0.

    `plan` and `sleeps` are for engines with weights of their own, see `VllmEngine`. If "auto" chose vllm and it does not start,
    `hf` takes its place, and a warning is logged. Raises InputError if a named engine, or `hf`, cannot serve this model, and
    EngineStartError if a named vllm does not start.
    """
    state = state or EngineState()
    name, _ = choose_engine(base, settings, lora, state)
    try:
        engine = ENGINES[name](base, settings, plan, sleeps, state)
        if rank:
            engine.start(rank)  # this takes seconds, so do it before there are tasks
        return engine
    except Exception as error:
        if name != "vllm" or (settings.engine != "auto" and isinstance(error, InputError)):
            raise
        if settings.engine != "auto":
            raise EngineStartError(f"infer.engine = vllm does not start: {line_of(error)}") from error
        state.vllm_given_up = f"vllm did not start: {line_of(error)}"
    return _hf_in_place_of_vllm(base, settings, state)


def replace_engine(base: Base, settings: InferSettings, lost: EngineLost, state: EngineState) -> Engine:
    """`hf`, in place of a vllm that "auto" chose and that broke. Logs a warning.

    Raises `lost` if the settings name vllm, and ProcessBroken if the device of this process does not work any more, either.
    """
    if settings.engine != "auto":
        raise lost
    state.vllm_given_up = f"vllm was lost: {lost}"
    if why := broken(base.device):
        raise ProcessBroken(f"{lost}; {why}") from lost
    return _hf_in_place_of_vllm(base, settings, state)


def _hf_in_place_of_vllm(base: Base, settings: InferSettings, state: EngineState) -> Engine:
    log.warning("engine: hf: %s", state.vllm_given_up)
    return ENGINES["hf"](base, settings, None, False, state)
