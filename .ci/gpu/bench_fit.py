"""Compare the LoRA trainers: seconds per step, tokens per second and memory of a fit, for several kinds of base model.

    python .ci/gpu/bench_fit.py --out gpu.md                               on a CUDA device
    python .ci/gpu/bench_fit.py --device cpu --tokens 128 --steps 3        on a CPU

The models are one of Qwen3's shape with 0.5 billion random weights, and the embedded one. On CUDA the trainers are `lora`, `peft`
and `unsloth`, on bases in 16 bits and in NF4, with layers recomputed in the backward pass or kept. On a CPU they are `lora` and
`peft`, on bases in fp32, bf16 and NF4.

Memory is the peak during the fits less what was in use before the model was loaded. On a CUDA device it is the memory of all
processes, so that of unsloth, which loads the model in a process of its own, counts. On a CPU it is that of one process; every
row has a new process. The table is rewritten after every row, so an interrupted run leaves the rows it has finished.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from half_billion import write

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.folder import EMBEDDED
from solver.model.load import load_base
from solver.train.registry import SUBPROCESS, TRAINERS
from solver.train.subprocess_trainer import StartError
from solver.types import NEVER, FitJob, TokenSequence

# Kinds of base, those that runs use first: dtype, quantization, and whether layers are recomputed
ON_CUDA = (("auto", "nf4", True), ("auto", "none", False), ("auto", "nf4", False), ("auto", "none", True))
ON_CPU = (("float32", "none", False), ("bfloat16", "none", False), ("auto", "nf4", False))


def used(device: torch.device) -> int:
    """Bytes in use on a CUDA device by all processes, or by this process if the device is the CPU."""
    if device.type != "cuda":
        return int(psutil.Process().memory_info().rss)
    free, total = torch.cuda.mem_get_info(device)
    return total - free


class PeakMemory:
    """A context that samples `used` fifty times a second; `peak` is the largest sample, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.peak, self._device, self._stopped = 0, device, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(0.02):
            self.peak = max(self.peak, used(self._device))


def job(name: str, tokens: int, steps: int) -> FitJob:
    """A fit on eight random sequences of `tokens` tokens over the grid vocabulary, with loss on the second half of each."""
    rng = np.random.default_rng(0)
    weights = (np.arange(tokens) >= tokens // 2).astype(np.float32)
    sequences = tuple(TokenSequence(rng.integers(0, 11, tokens).astype(np.int32), weights) for _ in range(8))
    return FitJob(name, sequences, steps)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the table")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--models", default="0.5B,embedded")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=64)
    args = parser.parse_args()
    device = torch.device(args.device)
    lines = [
        f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}, rank {args.rank}, "
        f"batches of 4 sequences of {args.tokens} tokens, {args.steps} steps after a warm-up step",
        "",
        "| model | base | layers | trainer | s/step | tokens/s | memory GB | final loss |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    cuda = device.type == "cuda"
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"embedded": EMBEDDED, "0.5B": Path(scratch) / "model"}
        if "0.5B" in args.models:
            write(folders["0.5B"])
        for model, (dtype, quantization, checkpointing) in itertools.product(args.models.split(","), ON_CUDA if cuda else ON_CPU):
            settings = ModelSettings(dtype=dtype, quantization=quantization, device=args.device)  # type: ignore[arg-type]
            for trainer in ("lora", "peft", "unsloth") if cuda else ("lora", "peft"):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                    try:
                        row = process.submit(
                            measure, folders[model], settings, checkpointing, trainer, args, Path(scratch)
                        ).result()
                    except Exception as error:  # out of memory, a process that died: the other rows can still be measured
                        row = f"? | {(str(error).splitlines() or [type(error).__name__])[0]} | - | - | -"
                kind, _, numbers = row.partition(" | ")
                layers = "recomputed" if checkpointing else "kept"
                lines.append(f"| {model} | {kind} | {layers} | {trainer} | {numbers} |")
                print(lines[-1], flush=True)
                if args.out:
                    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def measure(folder: Path, model: ModelSettings, checkpointing: bool, name: str, args: argparse.Namespace, scratch: Path) -> str:
    """A row's columns from the kind of base on, without the trainer's. A trainer that refuses the base gives its reason."""
    device = torch.device(args.device)
    gc.collect()
    before = used(device)
    settings = TrainSettings(rank=args.rank, alpha=args.rank, checkpointing=checkpointing, batch_sequences=4, lr=1e-4)
    with PeakMemory(device) as memory:
        base = load_base(folder, model, weights=name not in SUBPROCESS)  # those trainers load them in their own process
        kind = f"{'nf4, ' * base.quantized}{str(base.dtype).removeprefix('torch.')}"
        try:
            trainer = TRAINERS[name](base, settings, scratch)
        except (InputError, StartError) as error:
            return f"{kind} | {error} | - | - | -"
        list(trainer.fit([job("warm", args.tokens, 1)], NEVER))
        began = time.perf_counter()
        (fit,) = trainer.fit([job("timed", args.tokens, args.steps)], NEVER)
        seconds = time.perf_counter() - began
    if hasattr(trainer, "_process"):
        trainer._process.close()
    gigabytes = f"{(memory.peak - before) / 1e9:.2f}"
    return f"{kind} | {seconds / fit.steps:.3g} | {fit.tokens / seconds:,.0f} | {gigabytes} | {fit.final_loss:.3f}"


if __name__ == "__main__":
    main()
