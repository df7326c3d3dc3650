"""Training throughput of our trainers and of transformers.Trainer + PEFT, measured in one run.

    python tests/benchmarks/bench_train.py [--steps 4] [--tasks 5] [--sides lora full] [--rank 16] [--threads 1]
                                           [--hidden 192 --layers 6 --heads 3 --ffn 576]

All sides have the same sequences, model, dtype, threads, optimizer steps and sequences per step; the baseline groups sequences
by length, too. The tasks are at even quantiles of length among the ARC-AGI-1 training tasks, so the table shows how the ratio
depends on length. Their sequences are an even sample of those of the default recipe. Each side warms up on every task; sides
alternate, and the best repetition counts. Times are CPU seconds of this process, which leave out those of other programs.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from solver.arc.datasets import load_tasks
from solver.arc.ttt_data import ttt_examples
from solver.codec import grid_codec
from solver.config import DataSettings, ModelSettings, TrainSettings
from solver.model.build import Shape, new_model, save_model
from solver.model.load import Base, load_base
from solver.train.registry import make_trainer
from solver.types import NEVER, FitJob, TokenSequence

BASELINE = "transformers.Trainer + PEFT"


def jobs_of(tasks: int, steps: int, batch: int) -> list[FitJob]:
    """A job for each of `tasks` tasks, short to long, with the sequences that its steps use: an even sample of the recipe's."""
    by_length = sorted(load_tasks("arc1:training").tasks, key=lambda task: task.grid_tokens())
    chosen = [by_length[int((i + 0.5) * len(by_length) / tasks)] for i in range(tasks)]
    jobs = []
    for task in chosen:
        examples = ttt_examples(task, DataSettings(), seed=0)
        even = np.linspace(0, len(examples) - 1, steps * batch).astype(int)
        sequences = tuple(grid_codec().sequence(examples[i], 8192) for i in even)
        jobs.append(FitJob(task.id, sequences, steps))
    return jobs


def baseline(folder: Path, sequences: tuple[TokenSequence, ...], steps: int, settings: TrainSettings) -> Callable[[], float]:
    """A function that trains a PEFT model by transformers.Trainer, as its documentation describes, and gives the seconds."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    import solver.model.transformers_registration  # noqa: F401

    data = [
        {"input_ids": s.ids.tolist(), "length": len(s), "labels": np.where(s.weights > 0, s.ids, -100).tolist()}
        for s in sequences
    ]
    pad = grid_codec().pad

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, filler: int) -> torch.Tensor:
            return torch.tensor([row[name] + [filler] * (width - len(row[name])) for row in rows])

        mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows])
        return {"input_ids": padded("input_ids", pad), "attention_mask": mask, "labels": padded("labels", -100)}

    class Stopwatch(TrainerCallback):
        """Measures the steps alone, without the construction of the Trainer."""

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.process_time()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.process_time() - self.start

    def run() -> float:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        config = LoraConfig(r=settings.rank, lora_alpha=int(settings.alpha), target_modules="all-linear", task_type="CAUSAL_LM")
        with tempfile.TemporaryDirectory() as out:
            arguments = TrainingArguments(
                output_dir=out,
                max_steps=steps,
                per_device_train_batch_size=settings.batch_sequences,
                learning_rate=1e-3,
                max_grad_norm=settings.clip,
                train_sampling_strategy="group_by_length",
                optim="adamw_torch_fused",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                remove_unused_columns=False,
            )
            watch = Stopwatch()
            trainer = Trainer(
                get_peft_model(model, config), arguments, train_dataset=data, data_collator=collate, callbacks=[watch]
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return watch.seconds

    return run


def ours(base: Base, job: FitJob, settings: TrainSettings, name: str) -> Callable[[], float]:
    """A function that runs one of our trainers on a job, and gives the seconds, those of saving the adapter included."""
    settings = settings.model_copy(update={"trainer": name})

    def run() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            trainer = make_trainer(base, settings, Path(scratch))
            start = time.process_time()
            (fit,) = trainer.fit([job], NEVER)
            seconds = time.process_time() - start
        assert fit.status == "complete", fit
        return seconds

    return run


def best_of(sides: dict[str, Callable[[], float]], repeat: int) -> dict[str, float]:
    """The fewest seconds of each side; sides alternate, and the first repetition is for warming up."""
    seconds = dict.fromkeys(sides, float("inf"))
    for repetition in range(repeat + 1):
        for name, run in sides.items():
            spent = run()
            if repetition:
                seconds[name] = min(spent, seconds[name])
    return seconds


def main() -> None:
    """Run all sides in turn, task by task, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", choices=("lora", "peft", "full"), default=["lora", "full"])
    for name, default in {
        "steps": 4,
        "tasks": 5,
        "hidden": 192,
        "layers": 6,
        "heads": 3,
        "ffn": 576,
        "rank": 16,
        "repeat": 2,
        "threads": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    settings = TrainSettings(rank=options.rank, alpha=options.rank)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        save_model(new_model(Shape(options.hidden, options.layers, options.heads, options.ffn)), path, torch.float32)
        base = load_base(path, ModelSettings(dtype="float32"))
        print(f"{base.parameters / 1e6:.2f}M weights, fp32, {options.threads} threads, rank {options.rank},", end=" ")
        print(f"{options.steps} steps of {settings.batch_sequences} sequences a task; tokens/CPU-s, ratio to {BASELINE}")
        tokens = 0
        total: dict[str, float] = {}
        for job in jobs_of(options.tasks, options.steps, settings.batch_sequences):
            sides = {name: ours(base, job, settings, name) for name in options.sides}
            sides[BASELINE] = baseline(path, job.sequences, options.steps, settings)
            seconds = best_of(sides, options.repeat)
            count = sum(map(len, job.sequences))
            tokens += count
            total = {name: total.get(name, 0.0) + spent for name, spent in seconds.items()}
            print(line(f"{job.adapter_id}, {count / len(job.sequences):.0f} tokens a sequence", count, seconds), flush=True)
        print(line("all", tokens, total))


def line(label: str, tokens: int, seconds: dict[str, float]) -> str:
    """A row of the table."""
    cells = (f"{name} {tokens / spent:.0f} ({seconds[BASELINE] / spent:.2f}x)" for name, spent in seconds.items())
    return f"{label:36s}" + "   ".join(cells)


if __name__ == "__main__":
    main()
