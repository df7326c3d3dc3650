"""What test-time training of a base model gains from each setting, on tasks its training never saw: the recipe's numbers.

    python tests/benchmarks/sweep_ttt.py --grid train.steps=0,30,60 train.lr=1e-3,2e-3 [--model DIR] [--tasks 12] [--views 8]
    python tests/benchmarks/sweep_ttt.py --grid train.trainer=full,peft train.rank=16,192 data.scheme=n-1,loo,e2e --shared no yes

Every combination of the grid is fitted on the ARC-AGI-1 training tasks that are held out of every training of ours (never an
evaluation task), shortest first. A line of Markdown each: the answers' loss in nats a token under the fitted weights, without
any view; answers that the two most voted greedy grids over the views hold; and seconds. `--shared yes` fits one adapter to
all tasks.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from solver.arc.datasets import load_tasks
from solver.arc.grid import grid_key
from solver.arc.seeding import generator
from solver.arc.task import Task
from solver.arc.ttt_data import ttt_examples
from solver.arc.view import random_view
from solver.codec import LONGEST_ANSWER, TooLong
from solver.config import Settings, load_settings
from solver.infer.registry import make_engine
from solver.model.load import Base, load_base
from solver.pretrain.guard import held_out
from solver.train.registry import make_trainer
from solver.types import NEVER, AdapterRef, FitJob, SampleRequest, ScoreRequest, TokenSequence


def sequences_of(base: Base, task: Task, settings: Settings) -> tuple[TokenSequence, ...]:
    """The training sequences of a task, as a run makes them from its demonstrations."""
    data, train = settings.data, settings.train
    assert train.steps is not None, "sweep train.steps, not epochs"
    most = min(data.max_sequences, train.steps * train.batch_sequences)
    made = []
    for example in ttt_examples(task.without_answers(), data, settings.seed, most):
        try:
            made.append(base.codec.sequence(example, base.context, data.loss_on_demonstrations, data.loss_on_answer))
        except TooLong:
            continue
    return tuple(made)


def fit(base: Base, tasks: list[Task], settings: Settings, shared: bool, scratch: Path) -> dict[str, AdapterRef | None]:
    """The adapter of every task; none where nothing is fitted."""
    sequences = {task.id: sequences_of(base, task, settings) for task in tasks}
    steps = settings.train.steps or 0
    if not steps:
        return dict.fromkeys(sequences)
    if shared:
        every = tuple(itertools.chain(*sequences.values()))
        mixed = tuple(every[int(i)] for i in np.random.default_rng(settings.seed).permutation(len(every)))
        jobs = [FitJob("shared", mixed, steps * len(tasks))]
    else:
        jobs = [FitJob(id_, mine, steps) for id_, mine in sequences.items() if mine]
    fits = {done.job: done.adapter for done in make_trainer(base, settings.train, scratch).fit(jobs, NEVER)}
    return {task.id: fits.get("shared" if shared else task.id) for task in tasks}


def measure(base: Base, tasks: list[Task], settings: Settings, shared: bool, views: int) -> tuple[float, int, int, float]:
    """(nats a token of the answers, answers found, answers, seconds)."""
    began = time.perf_counter()
    nats = tokens = 0.0
    found = total = 0
    with tempfile.TemporaryDirectory() as scratch:
        adapters = fit(base, tasks, settings, shared, Path(scratch))
        engine = make_engine(base, settings.infer)
        for task in tasks:
            adapter = adapters[task.id]
            rng = generator(settings.seed, task.id)
            shown = [random_view(rng, len(task.train), settings.infer.views.transforms) for _ in range(views)]
            for index, pair in enumerate(task.test):
                assert pair.output is not None
                total += 1
                answer = base.codec.encode_answer(pair.output)
                prompt = base.codec.prompt(task, index, base.context).ids
                for result in engine.score([ScoreRequest("answer", prompt, adapter, (answer,))], NEVER):
                    nats -= result.completions[0].logprob
                    tokens += len(answer)
                requests = [
                    SampleRequest(
                        str(n), base.codec.prompt(view.apply(task), index, base.context).ids, adapter, 1, 0.0, LONGEST_ANSWER
                    )
                    for n, view in enumerate(shown)
                ]
                votes: Counter[bytes] = Counter()
                for result in engine.sample(requests, NEVER):
                    grid = base.codec.decode_answer(result.completions[0].ids) if result.completions else None
                    if grid is not None:
                        votes[grid_key(shown[int(result.request)].undo(grid))] += 1
                found += grid_key(pair.output) in [key for key, _ in votes.most_common(2)]
    return nats / tokens, found, total, time.perf_counter() - began


def main() -> None:
    """Measure every combination and print its line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--grid", nargs="+", default=[], metavar="KEY=VALUE,VALUE", help="settings as `solver run --set` takes them"
    )
    parser.add_argument("--shared", nargs="+", choices=("no", "yes"), default=["no"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tasks", type=int, default=12)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tasks = sorted((t for t in load_tasks("arc1:training") if held_out(t.id)), key=lambda task: task.grid_tokens())
    tasks = tasks[: options.tasks]
    names = [entry.partition("=")[0] for entry in options.grid]
    values = [entry.partition("=")[2].split(",") for entry in options.grid]
    base = load_base(options.model, load_settings().model)
    print(
        f"{base.path.name}, {base.parameters / 1e6:.2f}M weights; {len(tasks)} held-out tasks: {' '.join(t.id for t in tasks)}\n"
    )
    print("| " + " | ".join([*names, "shared", "nats a token", "found", "seconds"]) + " |")
    print("| --- " * (len(names) + 4) + "|", flush=True)
    for combination in itertools.product(*values, options.shared):
        *chosen, shared = combination
        overrides = [f"{name}={value}" for name, value in zip(names, chosen, strict=True)]
        settings = load_settings(overrides=[f"seed={options.seed}", *overrides])
        nats, found, total, seconds = measure(base, tasks, settings, shared == "yes", options.views)
        print("| " + " | ".join([*chosen, shared, f"{nats:.4f}", f"{found} of {total}", f"{seconds:.0f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
