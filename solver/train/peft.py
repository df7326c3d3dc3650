"""LoRA by the package peft: its own layers around those of the model, one adapter after the other.

It takes any model whose matrices are linear layers, in every precision that peft knows. What is left to this package is what it
does better with: which sequences share a batch, the deadline, what becomes of a loss that is not finite (see `train.loop`).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from solver.config import TrainSettings
from solver.model.load import Base, share
from solver.model.lora import LoraShape, check_layers, linear_layers
from solver.train.external_lora import ExternalLoraFitTarget, ExternalLoraTrainer
from solver.train.loop import Loop

log = logging.getLogger(__name__)


class PeftTrainer(ExternalLoraTrainer):
    """A LoRA adapter per job. Raises InputError if the model has no linear layer that LoRA can adapt."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if left_out := check_layers(base):
            log.warning("trainer: %s", left_out)
        view = replace(base, model=_wrap(base, settings))
        target = ExternalLoraFitTarget(view, LoraShape(settings.rank, settings.alpha, settings.rslora, settings.dropout))
        # peft computes with matrices in fp32 as they are kept; autocast has it multiply in the model's dtype
        autocast = None if base.dtype == torch.float32 else base.dtype
        super().__init__(Loop(base, target, settings, scratch, autocast))


def _wrap(base: Base, settings: TrainSettings) -> Any:
    """A tree of modules of its own over the base's weights, every linear layer but the head inside one of peft's."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        lora_dropout=settings.dropout,
        target_modules=list(linear_layers(base.model)),  # "all-linear" would take experts in one tensor, too: nobody serves them
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):  # every fit draws its own matrices
        return get_peft_model(share(base.model), config).get_base_model().eval()
