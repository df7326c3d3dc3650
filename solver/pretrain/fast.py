"""The fastest way to the final states of a model in training, by its device, and how fast that device could be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from solver.model.dtype import fastest_dtype, matmul_seconds
from solver.model.fused_training import BEST_TOKENS, FusedTrainingPass, States, decoder_states

MASKLESS = "causal"  # an implementation of attention, for transformers
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that measure a device


def fast_states(model: Any) -> tuple[States, int | None]:
    """Final states for a causal language model, and the padded tokens a pass does best with (None: as many as there are).

    bf16 autocast where the device multiplies it faster (fp16 would need loss scaling: fp32 there), compiled on CUDA
    (which no CUDA device has run yet). Attention is block-diagonal by construction: every sequence has a row of its own, and
    batches are cut from sequences sorted by length, so that about a twentieth of their tokens is padding.
    """
    device = next(model.parameters()).device
    if fastest_dtype(device) == torch.float32 and FusedTrainingPass.fits(model):
        return FusedTrainingPass(model), BEST_TOKENS
    ordinary = decoder_states(model)
    if device.type == "cuda":
        compile_decoder(model)
    enabled = fastest_dtype(device) == torch.bfloat16

    def states(ids: Tensor, places: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            return ordinary(ids.contiguous(), places).float()  # one compiled graph: strides are a part of its guards

    return states, None


def compile_decoder(model: Any, backend: Any = "inductor") -> None:
    """Compile the decoder for right-padded rows without a mask.

    While it is traced, transformers' own "sdpa" makes a dense causal mask, which keeps attention from the flash kernels. The
    same function under a name it makes no masks for is called with is_causal alone.
    """
    AttentionInterface.register(MASKLESS, sdpa_attention_forward)
    model.set_attn_implementation(MASKLESS)
    model.get_decoder().compile(dynamic=True, backend=backend)


def matmul_flops(device: torch.device) -> float:
    """Floating-point operations a second of a large matrix product in the device's fastest format: the whole of MFU."""
    side = _SIDE[device.type]
    return 2.0 * side**3 / matmul_seconds(fastest_dtype(device), device, side)
