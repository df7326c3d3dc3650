"""Reads and writes the weights and the configuration of base models with cell positions, in Hugging Face format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from solver.arc.jsonfile import read_json
from solver.errors import InputError
from solver.model.cell_config import CellDecoderConfig
from solver.model.cell_decoder import CellDecoderForCausalLM, CellRotary
from solver.model.support import read_config

MAX_SHARD = "15MB"  # of a weights file
_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"  # of the files, if the weights are in several
_HEAD, _EMBEDDING = "lm_head.weight", "decoder.embed_tokens.weight"  # tied weights are saved under the second name only


class _Undrawn(TorchFunctionMode):
    """A block in which no random weights are drawn. On the meta device, drawing them would import torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.__name__ in ("kaiming_uniform_", "normal_", "uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def read_cell_decoder(folder: Path, dtype: torch.dtype, device: torch.device) -> CellDecoderForCausalLM:
    """The model of a folder. Raises InputError if weights are missing or have other shapes, and OSError, ValueError or
    SafetensorError for files that cannot be read."""
    model = describe_cell_decoder(folder, dtype)
    weights = {name: value.to(dtype) for name, value in _read_weights(folder, device).items()}
    if model.config.tie_word_embeddings and _EMBEDDING in weights:
        weights[_HEAD] = weights[_EMBEDDING]
    check_weights({name: value.shape for name, value in weights.items()}, model, folder)
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    model.decoder.rotary_emb = CellRotary(model.config).to(device)  # its buffer is in no file
    return model


def describe_cell_decoder(folder: Path, dtype: torch.dtype) -> CellDecoderForCausalLM:
    """The modules of the model of a folder on the meta device, without weights. Raises InputError, or ValueError for a
    configuration that is not supported."""
    config = CellDecoderConfig.from_dict(read_config(folder))
    with torch.device("meta"), _Undrawn():
        return CellDecoderForCausalLM(config).to(dtype)


def check_weights(shapes: Mapping[str, torch.Size], model: torch.nn.Module, folder: Path) -> None:
    """Raises InputError naming the first weight of `model` that is not among the `shapes`, or that has another shape."""
    for name, own in sorted(model.state_dict().items()):
        if shapes.get(name) != own.shape:
            kind = "mismatched" if name in shapes else "missing"
            raise InputError(f"{folder}: weights do not fit config.json: {kind} keys: {name}")


def write_cell_decoder(model: CellDecoderForCausalLM, folder: Path, dtype: torch.dtype) -> None:
    """Write weights (safetensors, in `dtype`) and config.json. `folder` has to exist. The model keeps its dtype."""
    from huggingface_hub import save_torch_state_dict

    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in model.named_parameters()}
    save_torch_state_dict(weights, folder, max_shard_size=MAX_SHARD, metadata={"format": "pt"})
    config = model.config
    special = {f"{role}_token_id": getattr(config, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    names = {"architectures": [type(model).__name__], "dtype": str(dtype).removeprefix("torch.")}
    _write_json(folder / "config.json", {**config.to_dict(), **names})
    _write_json(folder / "generation_config.json", {"_from_model_config": True, "use_cache": False, **special})


def _read_weights(folder: Path, device: torch.device) -> dict[str, Tensor]:
    """The tensors of the weights files, by name."""
    names = [_WEIGHTS]
    if not (folder / _WEIGHTS).is_file():
        if not (folder / _INDEX).is_file():
            raise InputError(f"{folder}: has neither {_WEIGHTS} nor {_INDEX}")
        try:
            names = sorted(set(read_json(folder / _INDEX, "index of the weights")["weight_map"].values()))
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{folder / _INDEX}: not an index of weights") from None
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= load_file(folder / Path(name).name, device=str(device))
    return weights


def _write_json(file: Path, values: Mapping[str, object]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
