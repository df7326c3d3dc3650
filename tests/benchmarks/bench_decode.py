"""Decoding in static batches against the decoder with buffers that grow, on a CUDA device, as a Markdown table.

    python tests/benchmarks/bench_decode.py [--device cuda:0] [--rows 128 512] [--adapters 1 64] [--new 128] [--rank 32]
        [--model embedded-base] [--batch-tokens 1048576] [--modes sample search]                                 minutes

Both decode the same requests in one process: 8 dihedral views of the shortest ARC-AGI-1 training tasks, at most --new tokens
each, sampled at temperature 1 under the grammar, or searched for every answer of probability 0.005. Adapters of rank --rank with
random weights are divided among the tasks; 0 means none. Seconds are wall clock:

- first call: with reading the prompts, and for static batches with capturing the steps
- decode, tokens/s: of a later call, less the time of a call for one token each, so without prompts and captures
- score, tokens/s: four completions of --new tokens for each prompt

The last lines compare with what is wanted at 512 rows: 20 times the tokens/s of the other decoder, and 20,000 tokens/s. On a CPU
(--device cpu), the same steps run one by one, which tests that everything works and says nothing about speed.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from lora_adapters import random_loras

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.arc.view import TRANSFORMS, View
from solver.config import InferSettings, ModelSettings
from solver.host import commit, hardware
from solver.infer import hf
from solver.infer.base import EngineState
from solver.infer.hf import HFEngine
from solver.model.load import Base, load_base
from solver.model.shipped import model_named
from solver.report.scores import hardware_text
from solver.types import NEVER, AdapterRef, Request, Result, SampleRequest, ScoreRequest, SearchRequest, TokenIds

MIN_RATIO, MIN_RATE, AT_ROWS = 20, 20_000, 512  # what is wanted
MIN_PROB = 0.005  # of searches
SCORED = 4  # completions for each prompt
DECODERS = ("static", "growing")


def views(base: Base, rows: int) -> list[TokenIds]:
    """`rows` prompts: 8 views of each of the shortest training tasks, the views of a task together."""
    tasks = shortest_tasks(load_tasks("arc1:training"), -(-rows // len(TRANSFORMS)))
    found = [
        base.codec.prompt(View(transform).apply(task.query(0)), 0, base.context).ids for task in tasks for transform in TRANSFORMS
    ]
    return found[:rows]


def requests(mode: str, prompts: Sequence[TokenIds], refs: Sequence[AdapterRef], new: int) -> list[Request]:
    """A request for each prompt; neighbouring prompts have the same adapter."""
    each = -(-len(prompts) // max(1, len(refs)))
    asked: list[Request] = []
    for n, prompt in enumerate(prompts):
        ref = refs[n // each] if refs else None
        if mode == "search":
            asked.append(SearchRequest(str(n), prompt, ref, MIN_PROB, new))
        else:
            asked.append(SampleRequest(str(n), prompt, ref, 1, 1.0, new, seed=n))
    return asked


def timed(engine: HFEngine, asked: Sequence[Request]) -> tuple[float, list[Result]]:
    """Seconds and results of one call."""
    device = engine._base.device
    began = time.perf_counter()
    if isinstance(asked[0], ScoreRequest):
        results = list(engine.score(asked, NEVER))  # type: ignore[arg-type]
    elif isinstance(asked[0], SearchRequest):
        results = list(engine.search(asked, NEVER))  # type: ignore[arg-type]
    else:
        results = list(engine.sample(asked, NEVER))  # type: ignore[arg-type]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    assert {result.status for result in results} == {"complete"}, {result.error for result in results}
    return seconds, results


def measure(
    base: Base, decoder: str, mode: str, prompts: Sequence[TokenIds], refs: Sequence[AdapterRef], new: int, batch_tokens: int
) -> tuple[float, float, float]:
    """Seconds of the first call, decoded tokens a second, and scored tokens a second."""
    state = EngineState()
    with using(decoder, base.device.type):
        engine = HFEngine(base, InferSettings(batch_tokens=batch_tokens), state)
        asked = requests(mode, prompts, refs, new)
        first, _ = timed(engine, asked)
        short, shorter = timed(engine, requests(mode, prompts, refs, 1))
        whole, results = timed(engine, asked)
        rng = np.random.default_rng(0)
        given = [tuple(rng.integers(0, 10, (SCORED, new)).astype(np.int32)) for _ in prompts]
        scores, _ = timed(engine, [ScoreRequest(r.id, r.prompt, r.adapter, some) for r, some in zip(asked, given, strict=True)])
        del engine
    gc.collect()  # the next engine needs the memory
    if state.static_given_up:
        raise RuntimeError(f"static batches failed: {state.static_given_up}")
    tokens = sum(result.new_tokens for result in results) - sum(result.new_tokens for result in shorter)
    return first, tokens / max(whole - short, 1e-9), SCORED * new * len(prompts) / scores


@contextmanager
def using(decoder: str, device: str) -> Iterator[None]:
    """Within this context, engines on a device of this type take the named decoder, and rows of many adapters share a batch."""
    before = hf.STATIC_DEVICES, hf.STACKED_DEVICES
    hf.STATIC_DEVICES, hf.STACKED_DEVICES = (device,) * (decoder == "static"), (device,)  # type: ignore[assignment]
    try:
        yield
    finally:
        hf.STATIC_DEVICES, hf.STACKED_DEVICES = before


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch-tokens", type=int, default=1 << 20)
    parser.add_argument("--modes", nargs="+", choices=["sample", "search"], default=["sample", "search"])
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--model", default="embedded-base", help="folder of a model, or the name of one that ships")
    options = parser.parse_args(arguments)
    base = load_base(model_named(options.model), ModelSettings(device=options.device))
    cuda = base.device.type == "cuda"
    name = torch.cuda.get_device_name(base.device) if cuda else "cpu"
    print(f"torch {torch.__version__}, {hardware_text(hardware({'device': name}))}, commit {commit()[:7]}")
    print(f"{options.model}, {base.parameters:,} weights, {base.dtype}, rank {options.rank}, at most {options.new} new tokens\n")
    print("| mode | rows | adapters | decoder | first call, s | decode, tokens/s | score, tokens/s | ratio of decoding |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    wanted: list[str] = []
    with tempfile.TemporaryDirectory(prefix="solver-bench-") as scratch:
        everyone = list(random_loras(base, options.rank, max(options.adapters), Path(scratch), 0.01))
        for mode in options.modes:
            for rows in options.rows:
                prompts = views(base, rows)
                for count in options.adapters:
                    rates: dict[str, float] = {}
                    for decoder in options.decoders:
                        first, rates[decoder], scored = measure(
                            base, decoder, mode, prompts, everyone[:count], options.new, options.batch_tokens
                        )
                        ratio = rates["static"] / rates["growing"] if rates.get("growing") and len(rates) == 2 else math.nan
                        numbers = f"{first:.2f}", f"{rates[decoder]:,.0f}", f"{scored:,.0f}", f"{ratio:.1f}"
                        cells = [mode, rows, count, decoder, *numbers]
                        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
                    if rows == AT_ROWS and mode == "sample" and len(rates) == 2:
                        reached = ratio >= MIN_RATIO and rates["static"] >= MIN_RATE
                        wanted.append(
                            f"{AT_ROWS} rows, {count} adapters: {ratio:.1f} times the other decoder "
                            f"(wanted: {MIN_RATIO}), {rates['static']:,.0f} tokens/s (wanted: {MIN_RATE:,}): "
                            f"{'reached' if reached else 'missed'}"
                        )
    print("\n" + "\n".join(wanted))


if __name__ == "__main__":
    main()
