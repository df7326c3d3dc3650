"""Compare the LoRA trainers, and fits of many tasks in one step with fits one after another. Writes two tables.

    python .ci/gpu/bench_fit.py --out gpu.md                                                   on a CUDA device
    python .ci/gpu/bench_fit.py --device cpu --tokens 128 --steps 3 --tasks 4 --stacks 1 4     on a CPU

First table: seconds per step, tokens per second and memory of a fit, for several kinds of base model.

The models are one of Qwen3's shape with 0.5 billion random weights, and the embedded one. On CUDA the trainers are `lora`, `peft`
and `unsloth`, on bases in 16 bits and in NF4, with layers recomputed in the backward pass or kept. On a CPU they are `lora` and
`peft`, on bases in fp32, bf16 and NF4.

Memory is the peak during the fits less what was in use before the model was loaded. On a CUDA device it is the memory of all
processes, so that of unsloth, which loads the model in a process of its own, counts. On a CPU it is that of one process; every
row has a new process. The table is rewritten after every row, so an interrupted run leaves the rows it has finished.

Second table, for models of which one task does not fill a GPU: `--tasks` ARC-AGI-1 training tasks at even quantiles of length, in
stacks of `--stacks` tasks, with plain and with compiled passes. All rows do the same steps on the same sequences. Tokens per
second are those of the sequences, without padding. The last line compares the fastest stack with one task after another.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from half_billion import write

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "benchmarks"))

from bench_train import jobs_of

from solver.config import ModelSettings, TrainSettings
from solver.errors import InputError
from solver.model.folder import EMBEDDED
from solver.model.load import load_base
from solver.train.lora import LoraTrainer, filling_stack
from solver.train.registry import SUBPROCESS, TRAINERS
from solver.train.subprocess_trainer import StartError
from solver.types import NEVER, FitJob, TokenSequence

# Kinds of base, those that runs use first: dtype, quantization, and whether layers are recomputed
ON_CUDA = (("auto", "nf4", True), ("auto", "none", False), ("auto", "nf4", False), ("auto", "none", True))
ON_CPU = (("float32", "none", False), ("bfloat16", "none", False), ("auto", "nf4", False))
BAR = 10.0  # times the tokens per second of one task after another, for the fastest stack


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
    parser.add_argument("--tasks", type=int, default=64, help="of the second table")
    parser.add_argument("--stacks", type=int, nargs="+", default=[1, 8, 64], help="tasks in a step, for the second table")
    parser.add_argument("--batch-tokens", type=int, default=131072, help="of a pass, for the second table")
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

    def add(*more: str) -> None:
        lines.extend(more)
        print(*more, sep="\n", flush=True)
        if args.out:
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

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
                add(f"| {model} | {kind} | {layers} | {trainer} | {numbers} |")
        if "embedded" in args.models and args.tasks:
            stack_table(args, cuda, Path(scratch), add)


def stack_table(args: argparse.Namespace, cuda: bool, scratch: Path, add: Callable[..., None]) -> None:
    """Measure fits of many tasks in one step; `add` takes lines of the table."""
    add("", f"{args.tasks} tasks, rank 32, {args.steps} steps of 4 sequences, passes of {args.batch_tokens} tokens", "")
    add("| tasks in a step | passes | s | tokens/s | to one after another | s of the first fit | note |")
    add("| ---: | --- | ---: | ---: | ---: | ---: | --- |")
    rates: dict[tuple[int, bool], float] = {}
    for stack, compiled in itertools.product(args.stacks, (False, True) if cuda else (False,)):
        kind = "compiled" if compiled else "plain"
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            try:
                seconds, tokens, warm, note = process.submit(measure_stack, stack, compiled, args, scratch).result()
            except Exception as error:  # out of memory, a process that died: the other rows can still be measured
                add(f"| {stack} | {kind} | {(str(error).splitlines() or [type(error).__name__])[0]} | - | - | - | |")
                continue
        rates[stack, compiled] = tokens / seconds
        ratio = f"{tokens / seconds / rates[1, False]:.1f}x" if (1, False) in rates else "-"
        add(f"| {stack} | {kind} | {seconds:.2f} | {tokens / seconds:,.0f} | {ratio} | {warm:.1f} | {note} |")
    if (1, False) in rates and len(rates) > 1:
        best = max(rates.values()) / rates[1, False]
        add("", f"bar: {BAR:g}x one after another; the fastest row has {best:.1f}x: {'met' if best >= BAR else 'NOT met'}")


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


def measure_stack(stack: int, compiled: bool, args: argparse.Namespace, scratch: Path) -> tuple[float, int, float, str]:
    """Seconds and tokens of fits of `args.tasks` tasks of the embedded model, so many in a step; seconds of a first, short fit.

    The last part is what the trainer warned of.
    """
    warnings: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record.getMessage().splitlines()[0])

    logging.getLogger("solver").addHandler(Kept())
    base = load_base(EMBEDDED, ModelSettings(device=args.device))
    assert filling_stack(base.parameters) > 1
    settings = TrainSettings(batch_tokens=args.batch_tokens, stack=stack, compile=compiled)
    trainer = LoraTrainer(base, settings, scratch)
    jobs = jobs_of(args.tasks, args.steps, settings.batch_sequences)
    began = time.perf_counter()
    list(trainer.fit([FitJob(f"{one.adapter_id}-first", one.sequences, 2) for one in jobs[:stack]], NEVER))
    warm = time.perf_counter() - began
    began = time.perf_counter()
    fits = list(trainer.fit(jobs, NEVER))
    seconds = time.perf_counter() - began
    assert all(fit.status == "complete" for fit in fits), fits
    return seconds, sum(fit.tokens for fit in fits), warm, "; ".join(warnings)


if __name__ == "__main__":
    main()
