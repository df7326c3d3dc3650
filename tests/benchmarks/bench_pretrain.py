"""Pre-training throughput of `solver pretrain` and of a plain `transformers.Trainer`, measured in one run.

    python tests/benchmarks/bench_pretrain.py [--batches 16] [--batch-tokens 4096] [--repeat 2] [--threads 1] [--corpus DIR]
                                              [--hidden 192 --layers 6 --heads 3 --ffn 576]

All sides train on the same answers, with the same model, dtype and threads:
- ours: the loop of `solver pretrain`, with the sampler's batches, Muon and AdamW;
- the Trainer with its defaults: our sequences as rows in random order, as many rows in a step as give our number of steps,
  padded to the longest with an attention mask, logits for every position, AdamW;
- the Trainer, told to group these rows by length;
- the Trainer with a row for each answer, after everything that stands before it in the sequence. Sets of prompts and answers are
  stored in this form.

Tokens are those of our sequences, without padding. Seconds are CPU seconds of this process, which leave out those of other
programs (on a CUDA device: wall-clock seconds). Drawing the sequences is not included; its seconds are printed above the table.
The sides alternate; the best repetition counts, after one for warming up. The last line is an upper bound for any fp32 training
of this model.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from solver.arc.datasets import load_tasks
from solver.codec import grid_codec
from solver.model.build import Shape, new_model
from solver.pretrain.command import MIXTURE, evaluation_guard, load_store
from solver.pretrain.fast import fast_states, matmul_flops
from solver.pretrain.guard import Guard, held_out
from solver.pretrain.loop import LoopSettings, batch_losses, flops_per_token
from solver.pretrain.procedural import Procedural
from solver.pretrain.sampler import Batch, Sampler, SamplerSettings
from solver.pretrain.store import pack
from solver.pretrain.target import GridTarget

OURS, PLAIN = "solver pretrain", "transformers.Trainer"
GROUPED, SINGLE = f"{PLAIN}, grouped by length", f"{PLAIN}, a row for each answer"


def draw(corpus: Path | None, settings: SamplerSettings, count: int) -> list[Batch]:
    """The first `count` batches of a training on the corpora, or on the ARC-AGI-1 training set and procedural families."""
    if corpus is None:
        guard: Guard = evaluation_guard()
        store = pack((t.id, "arc1", [*t.train, *t.test]) for t in load_tasks("arc1:training"))
    else:
        guard = evaluation_guard()
        with tempfile.TemporaryDirectory() as cache:
            store = load_store(corpus, Path(cache), guard, print)
    store = store.select([not held_out(name) for name in store.names])
    stream = Sampler(store, MIXTURE, grid_codec(), settings, 0, {"procedural": Procedural(guard)}).batches(0, 0)
    return [next(stream)[2] for _ in range(count)]


def clock(device: torch.device) -> float:
    """CPU seconds of this process, or on CUDA the wall clock after all work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(shape: Shape, batches: list[Batch], device: torch.device) -> Callable[[], float]:
    """A function that trains on the batches as `solver pretrain` does, and gives the seconds."""
    settings = LoopSettings(minutes=1)
    target = GridTarget(new_model(shape).to(device))
    optimizers = target.optimizers(target.lr, settings.weight_decay)
    states, piece = fast_states(target.model)

    def run() -> float:
        target.model.train()
        start = clock(device)
        for batch in batches:
            for loss, _ in batch_losses(states, target.model.lm_head, batch, piece, device):
                loss.backward()
            torch.nn.utils.clip_grad_norm_(target.model.parameters(), settings.clip)
            for optimizer in optimizers:
                optimizer.step()
            target.model.zero_grad(set_to_none=True)
        return clock(device) - start

    return run


def rows(batch: Batch, single: bool) -> Iterator[dict[str, Any]]:
    """The sequences of a batch as rows of a Trainer; with `single` a row for each answer, after everything before it."""
    for ids, weights in zip(batch.ids, batch.weights, strict=True):
        weighted = np.flatnonzero(weights)
        ends = weighted[np.flatnonzero(np.diff(weighted, append=len(ids) + 1) > 1)] + 1
        for start, end in itertools.pairwise([0, *ends]) if single else [(0, ends[-1])]:
            labels = np.where((weights[:end] > 0) & (np.arange(end) >= start), ids[:end], -100)
            yield {"input_ids": ids[:end].tolist(), "length": int(end), "labels": labels.tolist()}


def theirs(shape: Shape, batches: list[Batch], device: torch.device, grouped: bool, single: bool = False) -> Callable[[], float]:
    """A function that trains by transformers.Trainer as its documentation describes, and gives the seconds."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    from solver.model.transformers_registration import TransformersCellConfig, TransformersCellDecoder

    data = [row for batch in batches for row in rows(batch, single)]
    size = max(1, round(len(data) / len(batches)))
    pad = grid_codec().pad

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(row["length"] for row in rows)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor([row[name] + [filler] * (width - row["length"]) for row in rows])

        mask = torch.tensor([[1] * row["length"] + [0] * (width - row["length"]) for row in rows])
        return {"input_ids": padded("input_ids", pad), "attention_mask": mask, "labels": padded("labels", -100)}

    class Stopwatch(TrainerCallback):
        """Measures the steps alone, without the construction of the Trainer."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = clock(device)

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = clock(device) - self.start

    def run() -> float:
        with tempfile.TemporaryDirectory() as out:
            arguments = TrainingArguments(
                output_dir=out,
                num_train_epochs=1,
                per_device_train_batch_size=size,
                learning_rate=1e-3,
                bf16=device.type == "cuda",
                train_sampling_strategy="group_by_length" if grouped else "random",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                use_cpu=device.type == "cpu",
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            watch = Stopwatch()
            model = TransformersCellDecoder(TransformersCellConfig.from_dict(new_model(shape).config.to_dict()))
            trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate, callbacks=[watch])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return watch.seconds

    return run


def main() -> None:
    """Run the sides in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"batches": 16, "batch-tokens": 4096, "max-tokens": 1024, "repeat": 2, "threads": 1}
    for name, default in (numbers | {"hidden": 192, "layers": 6, "heads": 3, "ffn": 576}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    device = torch.device(options.device)
    shape = Shape(options.hidden, options.layers, options.heads, options.ffn)
    settings = SamplerSettings(batch_tokens=options.batch_tokens, max_tokens=options.max_tokens)
    began = time.process_time()
    batches = draw(options.corpus, settings, options.batches)
    drawing = time.process_time() - began
    tokens, padded = sum(batch.tokens for batch in batches), sum(batch.ids.size for batch in batches)
    sides = {
        OURS: ours(shape, batches, device),
        GROUPED: theirs(shape, batches, device, grouped=True),
        PLAIN: theirs(shape, batches, device, grouped=False),
        SINGLE: theirs(shape, batches, device, grouped=False, single=True),
    }
    seconds = dict.fromkeys(sides, float("inf"))
    for repetition in range(options.repeat + 1):
        for name, run in sides.items():
            spent = run()
            if repetition:
                seconds[name] = min(spent, seconds[name])
    weights = new_model(shape).num_parameters()
    print(f"{weights / 1e6:.2f}M weights on {device}, {options.threads} threads; {tokens} tokens in {len(batches)} batches,")
    print(f"{1 - tokens / padded:.1%} of ours is padding; reading the corpora and drawing took {drawing:.1f} s\n")
    unit = "a CPU second" if device.type == "cpu" else "a second"
    print(f"| | tokens {unit} | ours is faster by |\n| --- | --- | --- |")
    for name, spent in seconds.items():
        print(f"| {name} | {tokens / spent:,.0f} | {'' if name == OURS else f'{spent / seconds[OURS]:.2f}x'} |")

    length = padded / sum(len(batch.ids) for batch in batches)
    bound = matmul_flops(device) / flops_per_token(GridTarget(new_model(shape)), round(length))
    print(f"\nUpper bound, at the speed of one large matrix product and without the optimizer: {bound:,.0f} tokens a second.")


if __name__ == "__main__":
    main()
