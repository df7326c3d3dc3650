"""Computes the logits of a causal language model from its final states, for code that computes the states by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_DIVIDED = ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid", "granite_swa", "granitemoe_swa")
_MULTIPLIED = ("hyperclovax",)


@dataclass(frozen=True, eq=False)
class OutputHead:
    """The output matrix with what some models do to its logits: Granite, Cohere and HyperCLOVA X scale them, Gemma caps them."""

    linear: Any  # a linear layer
    scale: float = 1.0
    cap: float | None = None  # logits become cap * tanh(logits / cap); None: they stay

    @classmethod
    def of(cls, model: Any) -> OutputHead:
        """The head of a causal language model of transformers."""
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
        """Logits (..., vocabulary) of final states (..., hidden)."""
        return self._finished(self.linear(states))

    def logit(self, states: Tensor, token: int) -> Tensor:
        """The logits (...) of one token. Works for heads that hold their weights as plain numbers, not packed in 4 bits."""
        row = slice(token, token + 1)
        bias = None if self.linear.bias is None else self.linear.bias[row]
        return self._finished(functional.linear(states, self.weight[row], bias).squeeze(-1))

    def _finished(self, logits: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap
