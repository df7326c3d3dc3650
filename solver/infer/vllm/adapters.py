"""Adapters that vLLM can serve: checked before it reads them, because an error inside its step ends the whole batch."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from solver.errors import InputError
from solver.infer.vllm.shim import RANKS
from solver.model.load import Base
from solver.model.lora import PREFIX, WEIGHTS, linear_layers, read_shape
from solver.types import AdapterRef


def check_adapter(base: Base, ref: AdapterRef) -> int:
    """The rank of an adapter. Raises InputError if it is missing, corrupt, of another model, or not one that vLLM serves."""
    if ref.kind != "lora":
        raise InputError(
            f"adapter {ref.id} holds all weights of the model and vLLM serves LoRA alone: "
            "fit with train.trainer = lora, or use infer.engine = hf"
        )
    if not ref.path.is_dir():
        raise InputError(f"{ref.path}: adapter {ref.id} is missing")
    rank = read_shape(ref.path).rank
    if rank > RANKS[-1]:
        raise InputError(f"{ref.path}: adapter has rank {rank}, vLLM serves at most {RANKS[-1]}")
    layers = {name: (layer.in_features, layer.out_features) for name, layer in linear_layers(base.model).items()}
    for name, shape in _shapes(ref.path).items():
        layer, _, matrix = name.removeprefix(PREFIX).rpartition(".lora_")
        if layer not in layers or matrix not in ("A.weight", "B.weight"):
            raise InputError(f"{ref.path}: adapter does not fit the model: it changes {name}")
        width, height = layers[layer]
        if shape != ((rank, width) if matrix == "A.weight" else (height, rank)):
            raise InputError(f"{ref.path}: adapter does not fit the model: {layer} is {shape}")
    return rank


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every weight; reads the file's header, whose sizes are checked against the file's."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: corrupt adapter: {WEIGHTS}: {str(error).splitlines()[0]}") from None
