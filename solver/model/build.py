"""New base models over the 16-token grid vocabulary, in the folder layout that transformers, vLLM and unsloth load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from solver.codec import GRID_VOCABULARY, grid_codec, grid_tokenizer


@dataclass(frozen=True)
class Shape:
    """Size of a Qwen3 model; head_dim is hidden // heads unless given."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    context: int = 8192
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"hidden size {self.hidden} is no multiple of {self.heads} heads")


def new_model(shape: Shape, seed: int = 0) -> Qwen3ForCausalLM:
    """A freshly initialised fp32 Qwen3 with tied embeddings. The global torch generator is left as it was."""
    codec = grid_codec()
    config = Qwen3Config(
        vocab_size=len(GRID_VOCABULARY),
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=codec.begin[0],
        eos_token_id=codec.end,
        pad_token_id=codec.pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def save_tokenizer(folder: Path) -> None:
    """Write the grid tokenizer, marked with the codec's version, beside a model."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=grid_tokenizer(),
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    (folder / "codec.json").write_text(json.dumps({"codec": grid_codec().name}) + "\n", encoding="utf-8")


def save_model(model: Qwen3ForCausalLM, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write weights (safetensors), config and tokenizer to `folder`; the model itself keeps its dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = Qwen3ForCausalLM(model.config).to(dtype)
    saved.load_state_dict({name: value.to(dtype) for name, value in model.state_dict().items()})
    saved.save_pretrained(folder)
    save_tokenizer(folder)
