"""Small ordinary Qwen3 models over the grid vocabulary, with positions by index: what vLLM and unsloth know, too."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.codec import GRID_VOCABULARY, grid_codec
from solver.model.build import Shape, save_model

TINY = Shape(hidden=32, layers=2, heads=2, ffn=64)
SERVED = Shape(hidden=128, layers=3, heads=2, ffn=256)  # heads of a size that vLLM has kernels for


def plain_qwen3(shape: Shape = TINY, seed: int = 0) -> Qwen3ForCausalLM:
    """A freshly initialised fp32 model with tied embeddings."""
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
        return Qwen3ForCausalLM(config)


def write_plain_qwen3(folder: Path, shape: Shape = TINY, seed: int = 0, steps: int = 0) -> Path:
    """The folder of such a model, in fp32; with `steps`, one that has learnt a little of what answers look like."""
    model = plain_qwen3(shape, seed)
    learn(model, steps)
    save_model(model, folder, torch.float32)
    return folder


def learn(model: Qwen3ForCausalLM, steps: int) -> None:
    """AdamW on the shortest ARC-AGI-1 training tasks, one a step: then next tokens are far from equally likely."""
    tasks = list(shortest_tasks(load_tasks("arc1:training"), 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        sequence = grid_codec().sequence(tasks[step % len(tasks)].query(0), 4096)
        ids = torch.from_numpy(sequence.ids.astype("int64"))[None]
        functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
