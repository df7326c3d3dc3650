"""Small ordinary Qwen3 models over the grid vocabulary, with positions by index: what vLLM and unsloth know, too."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from solver.codec import GRID_VOCABULARY, grid_codec
from solver.model.build import Shape, save_model

TINY = Shape(hidden=32, layers=2, heads=2, ffn=64)
SERVED = Shape(hidden=128, layers=3, heads=2, ffn=256)  # heads of a size that vLLM has kernels for


def plain_qwen3(shape: Shape = TINY, seed: int = 0, sharpness: float = 1.0) -> Qwen3ForCausalLM:
    """A freshly initialised fp32 model with tied embeddings; its logits are multiplied by `sharpness`."""
    codec = grid_codec()
    config = Qwen3Config(
        vocab_size=len(GRID_VOCABULARY),
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=codec.begin[0],
        eos_token_id=codec.end,
        pad_token_id=codec.pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.model.norm.weight.data *= sharpness
    return model


def write_plain_qwen3(folder: Path, shape: Shape = TINY, seed: int = 0, sharpness: float = 1.0) -> Path:
    """The folder of such a model, in fp32."""
    save_model(plain_qwen3(shape, seed, sharpness), folder, torch.float32)
    return folder
