"""Checks adapters before vLLM reads them, because an error inside a step of vLLM ends the whole batch."""

from __future__ import annotations

from solver.errors import InputError
from solver.infer.vllm.shim import RANKS
from solver.model.adapter_folder import CONFIG
from solver.model.load import Base
from solver.model.lora import check_fits, read_shape
from solver.textfile import is_plain
from solver.types import AdapterRef


def check_adapter(base: Base, ref: AdapterRef) -> int:
    """The rank of an adapter. Raises InputError if it is missing, corrupt, of another model, or beyond what vLLM serves."""
    if ref.kind != "lora":
        raise InputError(
            f"adapter {ref.id} holds all weights of the model, but vLLM serves only LoRA: "
            "fit with train.trainer = lora, or use infer.engine = hf"
        )
    if not ref.path.is_dir():
        raise InputError(f"{ref.path}: adapter {ref.id} is missing")
    rank = read_shape(ref.path).rank
    if not is_plain(ref.path / CONFIG):
        raise InputError(f"{ref.path}: {CONFIG} begins with a byte order mark, which vLLM cannot read: save it as plain UTF-8")
    if rank > RANKS[-1]:
        raise InputError(f"{ref.path}: adapter has rank {rank}, vLLM serves at most {RANKS[-1]}")
    return check_fits(base, ref.path)
