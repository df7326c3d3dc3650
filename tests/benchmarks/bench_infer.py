"""Compare threshold search with a recursive search of one sequence, and sampling with `model.generate`, in one run.

    python tests/benchmarks/bench_infer.py [--model FOLDER] [--tasks 6] [--fit 0] [--min-prob 0.01] [--samples 8] [--threads 1]

Both sides have the same model in fp32, threads, prompts (8 dihedral views of short ARC-AGI-1 training tasks), thresholds and
lengths. The references reuse their key/value caches, and `generate` gets the same batches, grouped by length; sampling is left
out for models with cell positions, for which `generate` reads every sequence anew for every token. The script
asserts that both searches give the same completions. `--fit` fits the model to all tasks together before the search, which is
not timed: without a fit, few completions are as probable as the thresholds that solvers use. Times are wall clock, for an
otherwise idle machine; each side warms up first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from solver.arc.datasets import load_tasks
from solver.arc.task import Task
from solver.arc.ttt_data import ttt_examples
from solver.arc.view import TRANSFORMS, View
from solver.codec import LONGEST_ANSWER
from solver.config import DataSettings, InferSettings, ModelSettings, TrainSettings
from solver.infer.grammar import STATE, GridMachine
from solver.infer.hf import HFEngine
from solver.model.adapters import apply_adapter
from solver.model.cell_decoder import CellDecoder
from solver.model.load import Base, load_base
from solver.model.positions import for_model, from_start, positions_of
from solver.train.registry import make_trainer
from solver.types import NEVER, FitJob, SampleRequest, SearchRequest, TokenIds

Completions = dict[str, dict[tuple[int, ...], float]]  # by request: log-probabilities by token ids


class GrowingCache:
    """The keys and values of one sequence, for models of this package; it grows by concatenation, as that of transformers."""

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int) -> None:
        """Add those of new tokens."""
        if layer_idx == len(self.layers):
            self.layers.append((key_states, value_states))
        else:
            keys, values = self.layers[layer_idx]
            self.layers[layer_idx] = torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer_idx: int, scaling: float) -> torch.Tensor:
        """Attention of a whole prompt, or of one token behind it."""
        del key, value
        causal = query.shape[2] > 1
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, *self.layers[layer_idx], is_causal=causal, scale=scaling, enable_gqa=True)

    def crop(self, columns: int) -> None:
        """Drop the last -`columns` tokens."""
        self.layers = [(keys[:, :, :columns], values[:, :, :columns]) for keys, values in self.layers]


class RecursiveSearch:
    """Depth-first threshold search of one sequence at a time: one token a forward pass, the cache cropped on the way back."""

    def __init__(self, base: Base, min_prob: float) -> None:
        self.model, self.end, self.threshold = base.model, base.codec.end, float(np.log(min_prob))
        self.machine = GridMachine(base.codec.grammar, base.model.config.vocab_size)
        self.positions = positions_of(base.model.config)
        self.own = isinstance(base.model.get_decoder(), CellDecoder)

    @torch.inference_mode()
    def __call__(self, prompt: TokenIds) -> dict[tuple[int, ...], float]:
        """Every completion above the threshold, with its log-probability."""
        self.completions: dict[tuple[int, ...], float] = {}
        self.cache: Any = GrowingCache() if self.own else DynamicCache(config=self.model.config)
        self.tokens: list[int] = []
        self.prompt = prompt.tolist()
        self._descend(self._next(len(prompt)), 0.0, np.zeros((1, STATE), dtype=np.int16))
        return self.completions

    def _next(self, count: int) -> np.ndarray:
        """Log-probabilities after the last `count` tokens, which the model reads now."""
        text = torch.tensor([self.prompt + self.tokens])
        places = for_model(from_start(self.positions, text)[:, -count:])
        cache = {"cache": self.cache} if self.own else {"past_key_values": self.cache, "use_cache": True}
        logits = self.model(text[:, -count:], position_ids=places, logits_to_keep=1, **cache).logits[0, -1]
        return torch.log_softmax(logits.float(), -1).numpy()

    def _descend(self, logprobs: np.ndarray, total: float, state: np.ndarray) -> None:
        allowed = self.machine.columns[self.machine.allowed(state)[0]]
        for token in allowed[total + logprobs[allowed] >= self.threshold]:
            self.tokens.append(int(token))
            reached = total + float(logprobs[token])
            if token == self.end or len(self.tokens) == LONGEST_ANSWER:
                self.completions[tuple(self.tokens)] = reached
            else:
                below = state.copy()
                self.machine.advance(below, np.array([token]))
                self._descend(self._next(1), reached, below)
                self.cache.crop(-1)
            self.tokens.pop()


VIEWS = [View(transform) for transform in TRANSFORMS]


def views(tasks: list[Task], base: Base) -> list[list[TokenIds]]:
    """The prompts of each task's first query under the 8 dihedral transforms."""
    return [[base.codec.prompt(view.apply(task.query(0)), 0, base.context).ids for view in VIEWS] for task in tasks]


def fitted(base: Base, tasks: list[Task], steps: int) -> Base:
    """The base with all weights fitted to the demonstrations of `tasks` together."""
    if not steps:
        return base
    settings = TrainSettings(trainer="full", batch_sequences=8, lr=1e-3)
    each = -(-steps * settings.batch_sequences // len(tasks))
    examples = [ttt_examples(task, DataSettings(), seed=0, count=each) for task in tasks]
    sequences = tuple(base.codec.sequence(example, base.context) for mixed in zip(*examples, strict=False) for example in mixed)
    with tempfile.TemporaryDirectory() as scratch:
        (fit,) = make_trainer(base, settings, Path(scratch)).fit([FitJob("bench", sequences, steps)], NEVER)
        print(f"fitted: {fit.steps} steps, loss {fit.first_loss:.3f} to {fit.final_loss:.3f}")
        return replace(base, model=apply_adapter(base, fit.adapter))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def bench_search(base: Base, tasks: list[Task], prompts: list[list[TokenIds]], min_prob: float) -> None:
    """All views of all tasks in one call, against one sequence after the other."""
    engine = HFEngine(base, InferSettings())
    reference = RecursiveSearch(base, min_prob)
    requests = [
        SearchRequest(f"{t}/{v}", prompt, None, min_prob, LONGEST_ANSWER)
        for t, task in enumerate(prompts)
        for v, prompt in enumerate(task)
    ]

    def batched(some: list[SearchRequest]) -> Completions:
        return {
            result.request: {tuple(c.ids.tolist()): c.logprob for c in result.completions}
            for result in engine.search(some, NEVER)
        }

    def recursive(some: list[SearchRequest]) -> Completions:
        return {request.id: reference(request.prompt) for request in some}

    batched(requests[:2])
    recursive(requests[:1])
    ours, batched_results = timed(lambda: batched(requests))
    theirs, expected = timed(lambda: recursive(requests))
    near = sum(_check(batched_results[key], expected[key], min_prob) for key in expected)
    count = sum(map(len, batched_results.values()))
    tokens = sum(len(ids) for table in batched_results.values() for ids in table)
    print(f"search: {len(requests)} views, {sum(len(r.prompt) for r in requests)} prompt tokens, min_prob {min_prob}")
    print(f"  {count} completions of {tokens} tokens, the same on both sides ({near} within 1e-4 of the threshold left out)")
    print(f"  batched   {ours:8.2f} s  {count / ours:8.2f} completions/s")
    print(f"  recursive {theirs:8.2f} s  {count / theirs:8.2f} completions/s")
    print(f"  ratio     {theirs / ours:8.2f}")


def _check(completions: dict[tuple[int, ...], float], expected: dict[tuple[int, ...], float], min_prob: float) -> int:
    """Assert equal results; completions on the threshold itself may fall on either side of it by rounding: count them."""
    edge = np.log(min_prob) + 1e-4
    differing = completions.keys() ^ expected.keys()
    assert all((completions | expected)[ids] <= edge for ids in differing), differing
    assert all(abs(completions[ids] - expected[ids]) < 1e-3 for ids in completions.keys() & expected.keys())
    return len(differing)


def bench_sampling(base: Base, prompts: list[list[TokenIds]], samples: int, new_tokens: int) -> None:
    """`samples` of exactly `new_tokens` tokens for every view, the views of a task in one batch on both sides."""
    endless = replace(base, codec=replace(base.codec, end=-1))  # no sample stops early on either side
    engine = HFEngine(endless, InferSettings(grammar=False, batch_tokens=1 << 20))

    def batched(task: list[TokenIds]) -> int:
        requests = [SampleRequest(str(n), prompt, None, samples, 1.0, new_tokens) for n, prompt in enumerate(task)]
        return sum(len(c.ids) for result in engine.sample(requests, NEVER) for c in result.completions)

    def generate(task: list[TokenIds]) -> int:
        longest = max(map(len, task))
        ids = torch.full((len(task), longest), base.codec.pad)
        for row, prompt in zip(ids, task, strict=True):
            row[longest - len(prompt) :] = torch.from_numpy(prompt)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in task])
        out = base.model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            num_return_sequences=samples,
            max_new_tokens=new_tokens,
            eos_token_id=None,
            pad_token_id=base.codec.pad,
        )
        return int((out.shape[1] - longest) * len(out))

    batched(prompts[0][:1])
    generate(prompts[0][:1])
    ours, count = timed(lambda: sum(batched(task) for task in prompts))
    theirs, other = timed(lambda: sum(generate(task) for task in prompts))
    assert count == other == len(prompts) * len(TRANSFORMS) * samples * new_tokens
    print(f"sampling: {len(prompts)} x {len(TRANSFORMS)} views, {samples} samples each, {new_tokens} new tokens a sample")
    print(f"  batched   {ours:8.2f} s  {count / ours:8.1f} tokens/s")
    print(f"  generate  {theirs:8.2f} s  {count / theirs:8.1f} tokens/s")
    print(f"  ratio     {theirs / ours:8.2f}")


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="model folder; the embedded model if not given")
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--longest", type=int, default=1500, help="grid tokens of a task, at most")
    parser.add_argument("--fit", type=int, default=0, help="optimizer steps before the search")
    parser.add_argument("--min-prob", type=float, default=0.01)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("search", "sampling"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    base = load_base(arguments.model, ModelSettings(device="cpu", dtype="float32"))
    short = [task for task in load_tasks("arc1:training").tasks if task.grid_tokens() <= arguments.longest]
    chosen = [short[int(i)] for i in np.linspace(0, len(short) - 1, arguments.tasks)]
    prompts = views(chosen, base)
    print(f"{base.parameters} parameters, fp32, {arguments.threads} thread(s), tasks {' '.join(task.id for task in chosen)}")
    if arguments.only != "sampling":
        bench_search(fitted(base, chosen, arguments.fit), chosen, prompts, arguments.min_prob)
    if positions_of(base.model.config).by_content:
        print("sampling: left out, generate reads every sequence anew for every token of this model")
    elif arguments.only != "search":
        bench_sampling(base, prompts, arguments.samples, arguments.new_tokens)


if __name__ == "__main__":
    main()
