"""The cost of cell positions: fits and decoding of a cell decoder and of a plain Qwen3 of the same size, through the same code.

    python tests/benchmarks/bench_positions.py [--steps 6] [--repeat 5]

Both models have random weights and the size of the preset `base`. They alternate, and CPU seconds of one thread are compared, on
which other programs have little influence. A ratio below 1 means that the cell decoder is slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from plain_qwen3 import plain_qwen3

from solver.arc.datasets import load_tasks
from solver.arc.ttt_data import ttt_examples
from solver.codec import grid_codec
from solver.config import load_settings
from solver.infer.hf import HFEngine
from solver.model.build import new_model, save_model
from solver.model.load import Base, load_base
from solver.pretrain.command import PRESETS
from solver.train.registry import make_trainer
from solver.types import NEVER, FitJob, SampleRequest

NEW_TOKENS = 48  # of a completion; untrained models do not end one earlier
COPIES = 16  # rows of the decoding batch


def bases(folder: Path, dtype: str) -> dict[str, Base]:
    """Both models, loaded as a run loads them."""
    loaded = {}
    settings = load_settings(overrides=["model.threads=1", f"model.dtype={dtype}"]).model
    for name, model in (("plain", plain_qwen3(PRESETS["base"])), ("cells", new_model(PRESETS["base"]))):
        save_model(model, folder / name, torch.float32)
        loaded[name] = load_base(folder / name, settings)
    return loaded


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings, codec = load_settings(), grid_codec()
    task = next(task for task in load_tasks("arc1:training") if 380 < task.grid_tokens() < 420)
    examples = ttt_examples(task.without_answers(), settings.data, 0, 4 * given.steps)
    sequences = tuple(codec.sequence(example, 8192) for example in examples)
    prompt = codec.prompt(task.query(0), 0, 8192).ids
    requests = [SampleRequest(str(n), prompt, None, 1, 1.0, NEW_TOKENS, seed=n) for n in range(COPIES)]

    with tempfile.TemporaryDirectory() as scratch:
        models = bases(Path(scratch), given.dtype)
        works: dict[str, dict[str, Callable[[], int]]] = {}
        for trainer in ("lora", "full"):
            chosen = load_settings(overrides=[f"train.trainer={trainer}"]).train
            trainers = {name: make_trainer(base, chosen, Path(scratch) / f"{trainer}-{name}") for name, base in models.items()}
            works[f"fit, {trainer}"] = {
                name: lambda made=made: next(iter(made.fit([FitJob("a", sequences, given.steps)], NEVER))).tokens
                for name, made in trainers.items()
            }
        engines = {name: HFEngine(base, settings.infer) for name, base in models.items()}
        works["decoding"] = {
            name: lambda engine=engine: sum(result.new_tokens for result in engine.sample(requests, NEVER))
            for name, engine in engines.items()
        }
        print("| work | plain Qwen3, tokens a CPU second | cell positions | ratio |\n| --- | ---: | ---: | ---: |")
        for what, sides in works.items():
            speeds: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(given.repeat + 1):
                for name, work in sides.items():
                    began = time.process_time()
                    tokens = work()
                    if turn:
                        speeds[name].append(tokens / (time.process_time() - began))
            ratios = np.array(speeds["cells"]) / np.array(speeds["plain"])
            plain, cells = (statistics.median(speeds[name]) for name in ("plain", "cells"))
            print(f"| {what} | {plain:,.0f} | {cells:,.0f} | {np.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
