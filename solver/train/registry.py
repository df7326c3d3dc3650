"""Trainers by name, and which one "auto" means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from solver.config import TrainSettings
from solver.model.load import Base
from solver.train.base import Trainer
from solver.train.full import FullTrainer
from solver.train.peft import PeftTrainer
from solver.train.schedule import TINY
from solver.train.stacked import StackedTrainer

TRAINERS: dict[str, Callable[[Base, TrainSettings, Path], Trainer]] = {
    "full": FullTrainer,
    "peft": PeftTrainer,
    "stacked": StackedTrainer,
}


def choose_trainer(base: Base, settings: TrainSettings, lora_alone: bool = False) -> tuple[str, str]:
    """The name of the trainer, and why, in a few words. `lora_alone`: the engine serves no other adapters."""
    if settings.trainer != "auto":
        return settings.trainer, "set by train.trainer"
    millions = f"{base.parameters / 1e6:.1f}M weights"
    if base.quantized:
        return "peft", f"{millions}, quantised: LoRA beside them"
    if base.parameters < TINY and lora_alone:
        return "peft", f"{millions}, the engine serves LoRA alone"
    if base.parameters < TINY:
        return "full", f"{millions}, fewer than {TINY / 1e6:.0f}M: all of them are trained"
    return "peft", f"{millions}, {TINY / 1e6:.0f}M or more: LoRA"


def make_trainer(base: Base, settings: TrainSettings, scratch: Path, lora_alone: bool = False) -> Trainer:
    """The trainer of the settings; its adapters go to `scratch`/adapter id."""
    return TRAINERS[choose_trainer(base, settings, lora_alone)[0]](base, settings, scratch)
