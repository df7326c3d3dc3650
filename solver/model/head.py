"""From the final states of a causal language model to its logits, for those who compute the states themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_DIVIDED = ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid", "granite_swa", "granitemoe_swa")
_MULTIPLIED = ("hyperclovax",)


@dataclass(frozen=True, eq=False)
class OutputHead:
    """The output matrix, and what some families do to its product: Granite and Cohere scale logits, Gemma caps them."""

    linear: Any  # a linear layer
    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, model: Any) -> OutputHead:
        """That of a causal language model in transformers' layout."""
        config = model.config.get_text_config()
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        if config.model_type in _DIVIDED:
            scale = 1.0 / float(config.logits_scaling)
        elif config.model_type in _MULTIPLIED:
            scale = float(config.logits_scaling)
        return cls(model.get_output_embeddings(), scale, getattr(config, "final_logit_softcapping", None))

    @property
    def weight(self) -> Tensor:
        """(vocabulary, hidden)."""
        weight: Tensor = self.linear.weight
        return weight

    def __call__(self, states: Tensor) -> Tensor:
        """(..., vocabulary) logits of (..., hidden) final states."""
        logits: Tensor = self.linear(states)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap
