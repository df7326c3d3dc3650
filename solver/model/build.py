"""Makes base models over the 16-token grid vocabulary, with cell positions, and writes their folders in Hugging Face format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from solver.codec import GRID_VOCABULARY, grid_codec, grid_tokenizer
from solver.model.cell_config import CellDecoderConfig, rotary_axes
from solver.model.cell_decoder import CellDecoderForCausalLM
from solver.model.cell_folder import MAX_SHARD, write_cell_decoder

# as transformers writes it for a tokenizer without classes of its own; the number stands for "no limit" there
_TOKENIZER_CONFIG = {
    "backend": "tokenizers",
    "bos_token": "<begin>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "<end>",
    "model_max_length": int(1e30),
    "pad_token": "<pad>",
    "tokenizer_class": "TokenizersBackend",
}


@dataclass(frozen=True)
class Shape:
    """The size of a new model. A head has the size hidden // heads."""

    hidden: int
    layers: int
    heads: int
    ffn: int

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden size {self.hidden} is not a multiple of {self.heads} heads")


def new_model(shape: Shape, seed: int = 0) -> CellDecoderForCausalLM:
    """A freshly initialised fp32 model with tied embeddings. The global torch generator is left as it was.

    Raises ValueError if the size of a head cannot be split among grid, row and column.
    """
    codec = grid_codec()
    head_size = shape.hidden // shape.heads
    config = CellDecoderConfig(
        vocab_size=len(GRID_VOCABULARY),
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=head_size,
        rotary_axes=rotary_axes(head_size),
        marker_ids=(codec.input_marker[0], codec.output_marker[0]),
        separator_id=codec.newline,
        tie_word_embeddings=True,
        bos_token_id=codec.begin[0],
        eos_token_id=codec.end,
        pad_token_id=codec.pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CellDecoderForCausalLM(config)


def save_tokenizer(folder: Path) -> None:
    """Write the grid tokenizer, and codec.json with the codec's version, to a model's folder."""
    grid_tokenizer().save(str(folder / "tokenizer.json"))
    text = json.dumps(_TOKENIZER_CONFIG, indent=2, sort_keys=True) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (folder / "codec.json").write_text(json.dumps({"codec": grid_codec().name}) + "\n", encoding="utf-8")


def save_model(model: Any, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights (safetensors, in `dtype`), config and tokenizer to `folder`. The model itself keeps its dtype.

    `model` has the grid vocabulary: it is a `CellDecoderForCausalLM` or a model of transformers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, CellDecoderForCausalLM):
        write_cell_decoder(model, folder, dtype)
    else:
        saved = type(model)(model.config).to(dtype)
        saved.load_state_dict({name: value.to(dtype) for name, value in model.state_dict().items()})
        saved.save_pretrained(folder, max_shard_size=MAX_SHARD)
    save_tokenizer(folder)
