"""A trial of models of unverified kinds: the engine has to give the probabilities of transformers' own modules, or refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from solver.errors import InputError, one_line
from solver.infer.cache import SharedPrefixCache
from solver.infer.forward import Forward
from solver.model.fused_training import decoder_states
from solver.model.head import OutputHead
from solver.model.load import Base, share
from solver.model.memory import is_out_of_memory
from solver.model.support import VERIFIED, VERIFIED_WITH, attention_refusal

SHORT_LENGTH = 64  # tokens of the sequences that every model is tried on
MAX_LENGTH = 4096  # tokens of the sequences for models whose layers have a window, at most
_PAST_WINDOW = 32  # how many tokens these sequences are longer than the window
# The total variation distance between next-token distributions, averaged over tokens, that rounding may cause.
_LOOSE = 0.05
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: _LOOSE, torch.float16: 0.02}


def check_model(base: Base) -> None:
    """Raise an InputError that names the folder unless the engine computes this base as transformers does.

    Kinds of models that were verified need no trial, nor do grid models, which are this package's own and tested with it.
    """
    config = base.model.config
    why = attention_refusal(config.to_dict(), base.context)
    if not why and not (base.path / "codec.json").exists() and not _verified(config):
        why = trial(base.model, base.device, base.context)
        why = why and f"models of the kind {config.model_type} are not supported: {why}"
    if why:
        raise InputError(f"{base.path}: {why}")


def _verified(config: Any) -> bool:
    """Whether models of this kind were compared with the release of transformers that is installed."""
    import transformers

    return transformers.__version__.startswith(f"{VERIFIED_WITH}.") and config.get_text_config().model_type in VERIFIED


def trial(model: Any, device: torch.device, context: int) -> str:
    """Why the engine cannot serve `model` up to `context` tokens, in one line; empty if it computes the same probabilities.

    It is tried on two sequences of 64 tokens, and on two longer ones if layers have a window. Each is a prompt that is continued
    token by token and in pieces. The logits from which trainers compute their loss are compared, too.
    """
    window = _longest_window(model.config)
    lengths = sorted({min(SHORT_LENGTH, context), min(window + _PAST_WINDOW if window else SHORT_LENGTH, MAX_LENGTH, context)})
    try:
        with torch.inference_mode():
            for length in lengths:
                gap = _difference(model, device, max(length, 16))
                if not gap < _TOLERANCE.get(model.dtype, _LOOSE):
                    return f"the probabilities computed here differ by {gap:.2g} from those of transformers on {length} tokens"
    except Exception as error:  # unknown modules may raise any error when their attention is replaced
        if is_out_of_memory(error):
            raise
        return f"its modules do not work with the attention of this package: {one_line(error)}"
    return ""


def _difference(model: Any, device: torch.device, length: int) -> float:
    """The largest mean difference between next-token distributions: of the model itself, of the engine, and of trainers.

    Long sequences are compared at their last tokens only, because the logits of all tokens might not fit the device.
    """
    generator = torch.Generator().manual_seed(length)
    vocabulary = int(model.get_output_embeddings().weight.shape[0])
    ids = torch.randint(vocabulary, (2, length), generator=generator)
    new = min(12, length // 4)
    cut, short = length - new, length - new - 3  # the second prompt is shorter, and padded
    last = torch.cat([torch.arange(cut - 1, length), length + torch.arange(short - 1, short + new)]).to(device)
    wanted = _probabilities(OutputHead.of(model)(decoder_states(model)(ids.to(device), last))).view(2, new + 1, -1)
    differences = []
    if length <= SHORT_LENGTH:
        own = _probabilities(model(input_ids=ids.to(device), use_cache=False).logits).flatten(0, 1)
        differences.append(_variation(wanted.flatten(0, 1), own[last]))
    forward = Forward(share(model), device)
    cache = SharedPrefixCache(device, 0)
    first = forward.prefill(cache, [_array(ids[0, :cut]), _array(ids[1, :short])], [0, 0])
    cache.add_rows(np.array([0, 1, 0]))
    rows = np.stack([_array(ids[0, cut:]), _array(ids[1, short : short + new]), _array(ids[0, cut:])]).astype(np.int64)
    after = torch.cat([forward.extend(cache, 0, rows[:, part]) for part in (slice(0, 2), slice(2, 3), slice(3, new))], 1)
    given = _probabilities(torch.cat([first[[0, 1, 0]][:, None], after], 1))
    differences.append(_variation(given, wanted[[0, 1, 0]]))
    return float(np.max(differences))  # NaN if one of them is NaN


def _variation(given: Tensor, wanted: Tensor) -> float:
    """The total variation distance, averaged over rows; NaN if there is a NaN."""
    return float((given - wanted).abs().sum(-1).mean() / 2)


def _probabilities(logits: Tensor) -> Tensor:
    return torch.softmax(logits.float(), -1)


def _array(ids: Tensor) -> Any:
    return ids.numpy().astype(np.int32)


def _longest_window(config: Any) -> int:
    """The largest number of a configuration whose name speaks of a window or a chunk; 0 if there is none."""
    said = config.get_text_config().to_dict()
    sizes = [value for name, value in said.items() if ("window" in name or "chunk" in name) and type(value) is int]
    return max(sizes, default=0)
