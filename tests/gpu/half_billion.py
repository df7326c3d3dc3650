"""A model of Qwen3's shape with half a billion random weights over the grid vocabulary: what the tables for GPUs are about.

python tests/gpu/half_billion.py FOLDER          written there unless it is there already
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from plain_qwen3 import plain_qwen3

from solver.model.build import Shape, save_model

SHAPE = Shape(hidden=1024, layers=36, heads=16, ffn=3072)


def write(folder: Path, shape: Shape = SHAPE) -> Path:
    """The folder, with the model in it."""
    if not (folder / "codec.json").is_file():  # it is written last
        save_model(plain_qwen3(shape), folder, torch.bfloat16)
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]))
