"""Trainers by name, the choice that "auto" makes, and the trainer that replaces one that does not start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from solver.codec import grid_codec
from solver.config import TrainSettings
from solver.errors import InputError
from solver.model.load import Base
from solver.train import unsloth
from solver.train.base import Trainer, TrainerState
from solver.train.full import FullTrainer
from solver.train.lora import LoraTrainer, filling_stack
from solver.train.peft import PeftTrainer
from solver.train.subprocess_trainer import StartError
from solver.train.unsloth import UnslothTrainer

log = logging.getLogger(__name__)

TRAINERS: dict[str, Callable[..., Trainer]] = {
    "full": FullTrainer,
    "lora": LoraTrainer,
    "peft": PeftTrainer,
    "unsloth": UnslothTrainer,
}
SUBPROCESS = ("unsloth",)  # trainers that work in a process of their own


def choose_trainer(base: Base, settings: TrainSettings, state: TrainerState | None = None) -> tuple[str, str]:
    """The name of the trainer, and the reason in a few words. `state` is shared by the trainers of a worker process.

    "auto" takes LoRA. With the earlier embedded model its fits left held-out answers more probable than fits of all weights did
    on 35 of 48 tasks, and solved as many; with today's models that was not compared. Engines serve many LoRA adapters in a batch.
    """
    if settings.trainer != "auto":
        return settings.trainer, "set by train.trainer"
    name, why = lora_trainer(base.device, _kind(base), base.codec == grid_codec(), settings.stack or _filling(base))
    if name == "unsloth" and state is not None and state.unsloth_failed:
        name, why = "peft", f"unsloth did not start: {state.unsloth_failed}"
    return name, f"{base.parameters / 1e6:.1f}M weights; {why}"


def fits_lora(settings: TrainSettings) -> bool:
    """Whether every adapter of a run with these settings is LoRA."""
    return settings.trainer != "full"


def lora_trainer(device: torch.device, model_type: str, grid: bool = False, stack: int = 1) -> tuple[str, str]:
    """The trainer that "auto" takes for LoRA on a model of this type, and the reason.

    `grid`: it has the grid vocabulary. `stack`: how many tasks should share a step.
    """
    if grid:
        return "lora", "a model of this package's own kind"
    if stack > 1:
        return "lora", f"up to {stack} tasks share a step"
    why_not = unsloth.refusal(device, model_type)
    return ("peft", f"unsloth: {why_not}") if why_not else ("unsloth", f"unsloth {unsloth.version()} is installed")


def make_trainer(
    base: Base, settings: TrainSettings, scratch: Path, state: TrainerState | None = None, device_share: float = 1.0
) -> Trainer:
    """The trainer that the settings name or "auto" chooses. It writes adapters to `scratch`/adapter id.

    `state` is shared by the trainers of a worker process. `device_share` is the share of the device's memory that a trainer in
    a process of its own may take. A trainer that works in this process loads the base's weights if they are not loaded yet.
    If the trainer that "auto" chose does not start, another one replaces it, with a warning. If a trainer that the settings
    name cannot work here, raises InputError; if it does not start, raises StartError, and a second try may succeed.
    """
    if settings.trainer == "none":
        raise InputError("train.trainer=none: only a run can do without a network")
    state = state or TrainerState()
    name, _ = choose_trainer(base, settings, state)
    try:
        if name in SUBPROCESS:
            return TRAINERS[name](base, settings, scratch, state, device_share)
        return TRAINERS[name](base.with_weights(), settings, scratch)
    except StartError as error:
        if settings.trainer != "auto":
            raise StartError(f"train.trainer={settings.trainer} does not start: {error}") from None
        state.unsloth_failed = str(error)
    name, why = choose_trainer(base, settings, state)
    log.warning("trainer: %s: %s", name, why)
    return TRAINERS[name](base.with_weights(), settings, scratch)


def _filling(base: Base) -> int:
    """How many tasks should share a step because one task leaves the device idle. A quantised model is taken for a large one."""
    return 1 if base.device.type == "cpu" or base.quantized else filling_stack(base.parameters)


def _kind(base: Base) -> str:
    return str(base.model.config.model_type)
