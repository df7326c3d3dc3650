"""The trainer `peft`: LoRA by the package peft, which puts its own layers around those of the model; one adapter at a time.

It works for every model with linear layers, in every precision that peft supports. The loop is this package's (`train.loop`):
the choice of sequences for a batch, the deadline, and the response to a loss that is not finite.
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
    """Fits one LoRA adapter after the other. Raises InputError if the model has no linear layer that LoRA can adapt."""

    def __init__(self, base: Base, settings: TrainSettings, scratch: Path) -> None:
        if left_out := check_layers(base):
            log.warning("trainer: %s", left_out)
        view = replace(base, model=_wrap(base, settings))
        target = ExternalLoraFitTarget(view, LoraShape(settings.rank, settings.alpha, settings.rslora, settings.dropout))
        # peft keeps its matrices in fp32; autocast makes it multiply them in the model's dtype
        autocast = None if base.dtype == torch.float32 else base.dtype
        super().__init__(Loop(base, target, settings, scratch, autocast))


def _wrap(base: Base, settings: TrainSettings) -> Any:
    """A second tree of modules over the base's weights, in which peft wraps every linear layer except the head."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        lora_dropout=settings.dropout,
        target_modules=list(linear_layers(base.model)),  # "all-linear" adds experts that share a tensor: no engine serves those
        bias="none",
        task_type="CAUSAL_LM",
    )
    # the matrices that peft draws are not used, so leave the random generators as they are
    with torch.random.fork_rng(devices=[base.device] if base.device.type == "cuda" else []):
        return get_peft_model(share(base.model), config).get_base_model().eval()
