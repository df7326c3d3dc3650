"""`solver verify grids` and `rules`: samples for verifiers out of ledgers, and the rule verifier beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from solver.arc.datasets import load_solutions
from solver.arc.grid import Grid, grid_key
from solver.arc.selection import RULES
from solver.arc.tally import Tally
from solver.arc.task import Task
from solver.commands.select import VERIFIER, Found, PastRun, by_query, load_judge, pooled, ranking, read_run
from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.folder import folder_identity
from solver.model.load import load_base
from solver.report.paired import Paired
from solver.report.scores import wilson
from solver.verify.grids import grid_samples, views
from solver.verify.samples import SamplesWriter

Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class AnsweredQuery:
    """A test input with its known answer, and the candidates and scores of all runs."""

    task: Task
    index: int
    answer: Grid
    found: Found


def answered_queries(runs: Sequence[PastRun], solutions: Path) -> Iterator[AnsweredQuery]:
    """The test inputs of all runs that have candidates, and an answer in `solutions`. Raises InputError."""
    answers = load_solutions(solutions)
    tasks = {id_: task for run in runs for id_, task in run.tasks.items()}
    by_run = [by_query(run, str(number)) for number, run in enumerate(runs)]
    for id_, task in tasks.items():
        for index, answer in enumerate(answers.get(id_, ())):
            found = pooled([run[id_, index] for run in by_run if (id_, index) in run])
            if answer is not None and found[0]:
                yield AnsweredQuery(task, index, answer, found)


def make_samples(folders: Sequence[Path], solutions: Path, model: Path | None, out: Path, count: int) -> str:
    """Write the candidates of runs as labelled samples under `count` views; gives a line to show.

    Only tasks that `solutions` has are taken. `model` is the base model of the runs; None: embedded-base. Raises InputError.
    """
    runs = [read_run(folder) for folder in folders]
    base = load_base(model, ModelSettings(), weights=False)
    generator = folder_identity(base.path)
    for run in runs:
        if run.model != generator:
            raise InputError(f"{run.folder}: samples of another model: {run.model} answered, {base.path} is {generator}")
    out.unlink(missing_ok=True)
    queries = samples = right = 0
    with SamplesWriter(out, generator) as writer:
        for query in answered_queries(runs, solutions):
            tally = Tally.of(query.found[0])
            queries += 1
            for problem, found in grid_samples(
                base.codec, base.context, query.task, query.index, tally, query.answer, views(count)
            ):
                writer.add(problem, found)
                samples += len(found)
                right += sum(one.correct for one in found)
    return f"{out}: {samples} samples of {queries} test inputs under {count} views, {right} right"


def compare_rules(folders: Sequence[Path], solutions: Path, verifier: Path, count: int, report: Report) -> list[str]:
    """How often every rule's first attempt, and either attempt, is right, and the rule verifier beside the others, in lines.

    `count` views are asked. Only tasks that `solutions` has are counted. Raises InputError.
    """
    runs = [read_run(folder) for folder in folders]
    judge = load_judge(verifier, runs, count)
    right: dict[str, list[tuple[bool, bool]]] = {name: [] for name in (*RULES, VERIFIER)}
    open_queries = 0
    for number, query in enumerate(answered_queries(runs, solutions), 1):
        candidates, scores = query.found
        open_queries += len(Tally.of(candidates).grids) > 1
        for name in right:
            asked = judge if name == VERIFIER else None
            two = [grid_key(grid) for grid in ranking(name, query.task, query.index, candidates, scores, asked)[:2]]
            right[name].append((two[:1] == [grid_key(query.answer)], grid_key(query.answer) in two))
        if number % 20 == 0:
            report(f"{number} test inputs")
    total = len(right[VERIFIER])
    if not total:
        raise InputError(f"{solutions}: answers no test input that the runs have candidates for")
    lines = [f"{total} test inputs, {open_queries} with more than one candidate"]
    for attempt, name_of in ((0, "first attempt"), (1, "either attempt")):
        ours = [hits[attempt] for hits in right[VERIFIER]]
        for name, hits in right.items():
            theirs = [hit[attempt] for hit in hits]
            low, high = wilson(sum(theirs), total)
            line = f"{name_of}, {name}: {sum(theirs)} of {total} ({100 * low:.1f} to {100 * high:.1f} %)"
            lines.append(line if name == VERIFIER else f"{line}; verifier against it: {Paired.of(ours, theirs).text()}")
    return lines
