"""Compare settings of test-time training on held-out tasks. The default recipe was chosen by it.

    python tests/benchmarks/sweep_ttt.py run OUT "" "train.lr=1e-3" "train.steps=120 train.lr=1e-3" "fit=shared" [--corpus FOLDER]
    python tests/benchmarks/sweep_ttt.py table OUT

`run` draws tasks once for OUT: of held-out procedural families, and of held-out families of the ARC-AGI training sets and the
corpora; never an evaluation task. It tries each configuration on all tasks. A configuration consists of settings, as for
`solver run --set`, with blanks between them, and of how tasks are fitted: `fit=own` (each task alone), `fit=shared` (one
adapter for all) or `fit=both` (each task goes on from the shared adapter). Results are in OUT/results.jsonl, task by task;
finished ones are not repeated.

`table` compares every configuration with the first one, on the tasks that both have done: the mean nats of an answer; the mean
difference with its standard error over tasks; the median difference, and the number of tasks with fewer nats, because one long
task can dominate the mean; and the queries solved by the two greedy answers with most votes, with the numbers gained and lost.
Nats are means over the views of a query. Nothing in the table depends on how busy the machine was.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from held_out_tasks import LIKE_EVALUATION, draw_tasks, procedural, stored

from solver.arc.datasets import load_tasks
from solver.arc.grid import grid_key
from solver.arc.task import Task
from solver.arc.ttt_data import ttt_examples
from solver.codec import LONGEST_ANSWER, TooLong
from solver.config import Settings, load_settings
from solver.infer.base import Engine
from solver.infer.registry import make_engine
from solver.model.load import Base, load_base
from solver.train.base import Trainer
from solver.train.registry import make_trainer
from solver.types import NEVER, AdapterRef, Fit, FitJob, SampleRequest, ScoreRequest, TokenSequence
from solver.worker.solve import inference_views

RESULTS = "results.jsonl"
MAX_QUERIES = 3  # of a task
MAX_PAIRS = 4 + MAX_QUERIES  # of a task
FITS = ("own", "shared", "both")


@dataclass(frozen=True)
class Measured:
    """The result of a configuration on one task."""

    task: str
    nats: list[float]  # negative log-probability of each query's answer, mean over the views
    solved: list[bool]  # for each query: whether one of the two greedy answers with most votes is right
    configuration: str = ""
    steps: int = 0  # optimizer steps; those of a shared fit are divided by the number of tasks
    tokens: float = 0.0  # trained on, divided likewise


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


class Fitter:
    """Fits tasks as a configuration says. A shared adapter is fitted first."""

    def __init__(self, base: Base, settings: Settings, how: str, tasks: list[Task], scratch: Path) -> None:
        self._base, self._settings, self._how = base, settings, how
        self._tasks = len(tasks)
        self._steps = settings.train.steps or 0
        self._trainer: Trainer = make_trainer(base, settings.train, scratch)
        self._shared: Fit | None = None
        if how != "own" and self._steps:
            every = list(itertools.chain(*(sequences_of(base, task, settings) for task in tasks)))
            mixed = tuple(every[int(i)] for i in np.random.default_rng(settings.seed).permutation(len(every)))
            self._shared = self._fit("shared", mixed, self._steps * len(tasks), None)

    def fit(self, task: Task) -> tuple[AdapterRef | None, int, float]:
        """A task's adapter, its optimizer steps and the tokens trained on; a shared fit is divided by the number of tasks."""
        adapter, steps, tokens = None, 0, 0.0
        if self._shared is not None:
            adapter, tokens = self._shared.adapter, self._shared.tokens / self._tasks
            steps = self._shared.steps // self._tasks
        if self._how != "shared" and self._steps:
            done = self._fit(task.id.replace(" ", "_"), sequences_of(self._base, task, self._settings), self._steps, adapter)
            adapter, steps, tokens = done.adapter, steps + done.steps, tokens + done.tokens
        return adapter, steps, tokens

    def _fit(self, name: str, sequences: tuple[TokenSequence, ...], steps: int, start: AdapterRef | None) -> Fit:
        [done] = self._trainer.fit([FitJob(name, sequences, steps, start=start)], NEVER)
        if done.status != "complete":
            raise RuntimeError(f"{name}: {done.reason}")
        return done


def ask(base: Base, engine: Engine, task: Task, settings: Settings, adapter: AdapterRef | None) -> Measured:
    """How the fitted model answers a task's queries. The configuration, steps and tokens of the result are not set."""
    views = inference_views(settings, task, 0)
    nats, solved = [], []
    for index, pair in enumerate(task.test):
        assert pair.output is not None
        prompts = [base.codec.prompt(view.apply(task), index, base.context).ids for view in views]
        answers = [base.codec.encode_answer(view.apply_grid(pair.output)) for view in views]
        scoring = [ScoreRequest(str(n), prompts[n], adapter, (answer,)) for n, answer in enumerate(answers)]
        nats.append(-float(np.mean([result.completions[0].logprob for result in engine.score(scoring, NEVER)])))
        requests = [SampleRequest(str(n), prompt, adapter, 1, 0.0, LONGEST_ANSWER) for n, prompt in enumerate(prompts)]
        answered: list[tuple[bytes, float]] = []
        for result in engine.sample(requests, NEVER):
            grid = base.codec.decode_answer(result.completions[0].ids) if result.completions else None
            if grid is not None:
                answered.append((grid_key(views[int(result.request)].undo(grid)), result.completions[0].logprob))
        solved.append(grid_key(pair.output) in two_most_voted(answered))
    return Measured(task.id, nats, solved)


def two_most_voted(answered: list[tuple[bytes, float]]) -> list[bytes]:
    """Of (grid, log-probability): the two most frequent grids; a tie goes to the more probable one."""
    votes = Counter(key for key, _ in answered)
    best = {key: max(logprob for other, logprob in answered if other == key) for key in votes}
    return sorted(votes, key=lambda key: (votes[key], best[key]), reverse=True)[:2]


def measure(base: Base, tasks: list[Task], configuration: str) -> Iterator[Measured]:
    """The result of a configuration on each task, as soon as it is known."""
    entries = configuration.split()
    how = next((entry.removeprefix("fit=") for entry in entries if entry.startswith("fit=")), "own")
    if how not in FITS:
        raise SystemExit(f"fit={how}: there are {', '.join(FITS)}")
    settings = load_settings(overrides=[entry for entry in entries if not entry.startswith("fit=")])
    with tempfile.TemporaryDirectory() as scratch:
        fitter = Fitter(base, settings, how, tasks, Path(scratch))
        engine = make_engine(base, settings.infer)
        for task in tasks:
            adapter, steps, tokens = fitter.fit(task)
            asked = ask(base, engine, task, settings, adapter)
            yield replace(asked, configuration=configuration, steps=steps, tokens=tokens)


def run(given: argparse.Namespace) -> None:
    """Try each configuration on the tasks for which OUT has no result of it yet."""
    torch.set_num_threads(1)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    tasks = _tasks(given)[: given.first]
    base = load_base(given.model, load_settings(overrides=["model.threads=1"]).model)
    for configuration in given.configurations:
        known = {one.task for one in _read(out) if one.configuration == configuration}
        left = [task for task in tasks if task.id not in known]
        for done, measured in enumerate(measure(base, left, configuration), 1):
            with (out / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(measured)) + "\n")
            print(f"{configuration or 'defaults'}: {done} of {len(left)}", end="\r", file=sys.stderr, flush=True)


def _tasks(given: argparse.Namespace) -> list[Task]:
    """The tasks of OUT, drawn if there are none yet: two procedural ones, then a stored one, and so on."""
    file: Path = given.out / "tasks.json"
    if not file.exists():
        rng = np.random.default_rng(given.seed)
        sources = (
            []
            if given.corpus is None
            else [stored(given.corpus, given.out, rng, MAX_PAIRS, LIKE_EVALUATION if given.like_evaluation else ".*")]
        )
        of_corpora = draw_tasks(given.stored, given.stored_tokens, rng, sources, MAX_QUERIES, again=False)
        tasks = draw_tasks(given.tasks - len(of_corpora), given.tokens, rng, [procedural(rng, MAX_PAIRS)], MAX_QUERIES)
        for place, task in enumerate(of_corpora):
            tasks.insert(3 * place + 2, task)
        file.write_text(json.dumps({task.id: task.to_json() for task in tasks}), encoding="utf-8")
    return list(load_tasks(file))


def _read(out: Path) -> list[Measured]:
    file = out / RESULTS
    return [Measured(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def print_table(out: Path) -> None:
    """Print a row for every configuration, compared with the first one on the tasks that both have done."""
    by_configuration: dict[str, dict[str, Measured]] = {}
    for one in _read(out):
        by_configuration.setdefault(one.configuration, {})[one.task] = one
    reference = next(iter(by_configuration.values()))
    print("| configuration | tasks, queries | tokens a task | nats an answer | against the first | median | fewer on | solved |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, results in by_configuration.items():
        pairs = [(one, reference[task]) for task, one in results.items() if task in reference]
        nats = np.array([np.mean(one.nats) for one, _ in pairs])
        apart = nats - np.array([np.mean(first.nats) for _, first in pairs])
        solved = np.array([right for one, _ in pairs for right in one.solved])
        before = np.array([right for _, first in pairs for right in first.solved])
        compared, votes = " | | ", f"{solved.sum()}"
        if results is not reference:
            error = apart.std(ddof=1) / len(apart) ** 0.5
            compared = f"{apart.mean():+.2f} ± {error:.2f} | {np.median(apart):+.2f} | {(apart < 0).sum()} of {len(apart)}"
            votes += f" (+{(solved & ~before).sum()} -{(before & ~solved).sum()})"
        print(
            f"| {name or 'defaults'} | {len(pairs)}, {len(solved)} | {np.mean([one.tokens for one, _ in pairs]):,.0f} "
            f"| {nats.mean():.2f} | {compared} | {votes} |"
        )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("out", type=Path)
    running.add_argument("configurations", nargs="+")
    running.add_argument("--model", type=Path)
    running.add_argument("--corpus", type=Path, help="folder of corpora whose held-out families are asked, too")
    running.add_argument("--tasks", type=int, default=24)
    running.add_argument("--first", type=int, help="use only this many of the tasks; a later call can use more")
    running.add_argument("--tokens", type=int, default=110, help="largest number of tokens of a procedural task with one query")
    running.add_argument("--stored", type=int, default=7, help="tasks of families of the corpora, one of each family")
    running.add_argument("--stored-tokens", type=int, default=260, help="largest number of tokens of such a task")
    running.add_argument(
        "--like-evaluation", action="store_true", help="of the corpora, only the families most like evaluation tasks"
    )
    running.add_argument("--seed", type=int, default=0)
    table = verbs.add_parser("table")
    table.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.verb == "run":
        run(given)
    else:
        print_table(given.out)


if __name__ == "__main__":
    main()
