"""Fits by the PEFT trainer and by unsloth: tokens a second and memory of the device, with and without NF4 and recomputed layers.

    python tests/gpu/bench_fit.py --out gpu.md         on a CUDA device: the embedded model, and one of Qwen3's shape with 0.5B
                                                       random weights
    python tests/gpu/bench_fit.py --device cpu --steps 2 --models embedded        to try it

Memory is what the device has in use, of all processes, above what it had before the model was loaded.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.build import Shape, new_model, save_model
from solver.model.folder import EMBEDDED
from solver.model.load import load_base
from solver.train.apart import StartError
from solver.train.registry import TRAINERS
from solver.types import NEVER, FitJob, TokenSequence

HALF_BILLION = Shape(hidden=1024, layers=36, heads=16, ffn=3072)


def used(device: torch.device) -> int:
    """Bytes in use on the device."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free


class Watch:
    """The most that was in use while it ran."""

    def __init__(self, device: torch.device) -> None:
        self.peak, self._device, self._over = 0, device, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, used(self._device))


def job(name: str, tokens: int, steps: int) -> FitJob:
    """Sequences of one length over the grid vocabulary, half of their tokens weighted."""
    rng = np.random.default_rng(0)
    weights = (np.arange(tokens) >= tokens // 2).astype(np.float32)
    made = tuple(TokenSequence(rng.integers(0, 11, tokens).astype(np.int32), weights) for _ in range(8))
    return FitJob(name, made, steps)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--models", default="embedded,0.5B")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=64)
    args = parser.parse_args()
    device = torch.device(args.device)
    lines = [
        f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}, rank {args.rank}, "
        f"batches of 4 sequences of {args.tokens} tokens, {args.steps} steps after 3 that warm up",
        "",
        "| model | weights | layers | trainer | tokens/s | memory GB | final loss |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"embedded": EMBEDDED, "0.5B": Path(scratch) / "model"}
        if "0.5B" in args.models:
            save_model(new_model(HALF_BILLION), folders["0.5B"])
        for model in args.models.split(","):
            for quantization in ("none", "nf4"):
                for checkpointing in (False, True):
                    for trainer in ("peft", "unsloth"):
                        row = measure(folders[model], device, quantization, checkpointing, trainer, args, Path(scratch))
                        layers = "recomputed" if checkpointing else "kept"
                        lines.append(f"| {model} | {quantization} | {layers} | {trainer} | {row} |")
                        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def measure(
    folder: Path, device: torch.device, quantization: str, checkpointing: bool, name: str, args: argparse.Namespace, scratch: Path
) -> str:
    """The last columns of a row."""
    gc.collect()
    torch.cuda.empty_cache()
    before = used(device)
    settings = TrainSettings(rank=args.rank, alpha=args.rank, checkpointing=checkpointing, batch_sequences=4, lr=1e-4)
    with Watch(device) as watch:
        base = load_base(folder, ModelSettings(quantization=quantization, device=args.device))  # type: ignore[arg-type]
        try:
            trainer = TRAINERS[name](base, settings, scratch)
        except (InputError, StartError) as error:
            return f"{error} | - | -"
        list(trainer.fit([job("warm", args.tokens, 3)], NEVER))
        began = time.perf_counter()
        (fit,) = trainer.fit([job("timed", args.tokens, args.steps)], NEVER)
        seconds = time.perf_counter() - began
    if hasattr(trainer, "_process"):
        trainer._process.close()
    memory = f"{(watch.peak - before) / 1e9:.2f}" if device.type == "cuda" else "-"
    return f"{fit.tokens / seconds:,.0f} | {memory} | {fit.final_loss:.3f}"


if __name__ == "__main__":
    main()
