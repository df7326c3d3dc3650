"""The fastest training pass of a model on its device, and the peak speed of that device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from solver.model.cell_decoder import CellDecoder
from solver.model.dtype import fastest_dtype, matmul_seconds
from solver.model.fused_training import BEST_TOKENS, FusedTrainingPass, States, decoder_states

MASKLESS = "causal"  # name under which attention without a mask is registered in transformers
_MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices whose product measures a device


def fast_states(model: Any) -> tuple[States, int | None]:
    """A function that gives the final hidden states of a causal language model, and the padded tokens at which a pass is fastest.

    The number is None where larger passes are always faster. On a CPU that is fastest in fp32, small models have a fused pass.
    Otherwise the pass goes through the model's own modules, in bf16 autocast where the device is fastest in bf16, else in fp32
    (fp16 would need loss scaling). On CUDA it is compiled. Sequences do not see each other: every one has a row of its own.
    Batches are cut from sequences sorted by length, so there is little padding.
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
            return ordinary(ids.contiguous(), places).float()  # contiguous: another stride would compile another graph

    return states, None


def compile_decoder(model: Any, backend: Any = "inductor") -> None:
    """Compile the decoder for right-padded rows, with attention that is causal without a mask.

    While a model is traced, transformers makes a dense causal mask for its attention "sdpa", with which the flash kernels cannot
    be used. For a name that it does not know it makes no mask; the same function is then called with `is_causal` alone. The
    models of this package make none.
    """
    if not isinstance(model.get_decoder(), CellDecoder):
        from transformers import AttentionInterface
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        AttentionInterface.register(MASKLESS, sdpa_attention_forward)
        model.set_attn_implementation(MASKLESS)
    model.get_decoder().compile(dynamic=True, backend=backend)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """A block in which `model` is evaluated: in eval mode and without gradients.

    A compiled decoder would be compiled anew for that (38 s on one H200), so it stays as it is trained, unless it has dropout.
    """
    compiled = model.get_decoder()._compiled_call_impl is not None
    if compiled and not any(map(_drops_out, model.modules())):
        yield
        return
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _drops_out(module: Any) -> bool:
    """Whether a module has dropout. Attention has its share of it as a number."""
    return bool(module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0))


def matmul_flops(device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product in the device's fastest dtype: 100 % of the MFU."""
    side = _MATRIX_SIDE[device.type]
    return 2.0 * side**3 / matmul_seconds(fastest_dtype(device), device, side)
