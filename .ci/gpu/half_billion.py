"""Write the model that GPU benchmarks use: Qwen3's shape, half a billion random weights, the grid vocabulary, bf16.

python .ci/gpu/half_billion.py FOLDER        writes nothing if FOLDER has the model already
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from plain_qwen3 import plain_qwen3

from solver.model.build import Shape, save_model

SHAPE = Shape(hidden=1024, layers=36, heads=16, ffn=3072)


def write(folder: Path, shape: Shape = SHAPE) -> Path:
    """Write the model to `folder`, unless an earlier call has finished that; gives `folder`."""
    if not (folder / "codec.json").is_file():  # the file that save_model writes last
        save_model(plain_qwen3(shape), folder, torch.bfloat16)
    return folder


if __name__ == "__main__":
    write(Path(sys.argv[1]))
