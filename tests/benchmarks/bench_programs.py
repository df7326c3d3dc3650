"""Answer the tasks of a set by program search alone, and count.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_programs.py [--set arc1:training] [--seconds 2] [--clock wall] [--save FILE]

It prints a line a task and two Markdown tables: for all tasks, and for the 60 of fewest grid tokens, as
`solver evaluate --shortest 60` takes them. A test input counts as solved with one attempt if the first answer is right, with two
attempts if one of the first two is. Of arc2:training only the tasks that are in neither set of ARC-AGI-1 are taken: programs were
made with an eye on ARC-AGI-1 training alone. `--clock cpu` counts the seconds of this process instead of those of the clock, for
a machine that does other work as well. `--save` keeps a line of JSON a task; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from solver.arc.datasets import TaskSet, load_tasks, shortest_tasks
from solver.arc.task import Task
from solver.programs.solve import solve
from solver.report.scores import wilson
from solver.types import Deadline

SHORTEST = 60
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "cpu": time.process_time}


@dataclass(frozen=True)
class Answered:
    """What came out of one task. The lists have a list for each test input, and that a value for each answer, best first."""

    task: str
    seconds: float
    right: list[list[bool]]
    exact: list[list[bool]]  # whether the answer's program gives all demonstrations
    agreement: list[list[float]]  # share of the searched copies of the task that found the answer

    def solved(self, attempts: int) -> list[bool]:
        """For each test input whether one of its first answers is right."""
        return [any(answers[:attempts]) for answers in self.right]


def answer(task: Task, seconds: float, clock: Callable[[], float]) -> Answered:
    """Search and compare with the outputs, which the search does not see."""
    began = clock()
    answers = solve(task.without_answers(), Deadline.after(seconds, clock))
    used = clock() - began
    mine = [[a for a in answers if a.query == query] for query in range(len(task.test))]
    return Answered(
        task.id,
        used,
        [[np.array_equal(a.grid, pair.output) for a in found] for found, pair in zip(mine, task.test, strict=True)],
        [[a.exact for a in found] for found in mine],
        [[round(a.agreement, 2) for a in found] for found in mine],
    )


def share(hits: int, total: int) -> str:
    """A share with its 95 % interval."""
    low, high = wilson(hits, total)
    return f"{hits} of {total}: {hits / max(total, 1):.1%} ({low:.1%} to {high:.1%})"


def table(name: str, rows: Sequence[Answered]) -> str:
    """A Markdown table of one group of tasks."""
    one = [hit for row in rows for hit in row.solved(1)]
    two = [hit for row in rows for hit in row.solved(2)]
    tasks = [all(row.solved(2)) for row in rows]
    answered = [(row, q) for row in rows for q in range(len(row.right)) if row.exact[q] and row.exact[q][0]]
    first = [row.right[q][0] for row, q in answered]
    agreed = [row.right[q][0] for row, q in answered if row.agreement[q][0] == 1]
    seconds = [row.seconds for row in rows]
    lines = [
        ("test inputs, one attempt", share(sum(one), len(one))),
        ("test inputs, two attempts", share(sum(two), len(two))),
        ("tasks, two attempts", share(sum(tasks), len(tasks))),
        ("first answers of exact programs that are right", share(sum(first), len(first))),
        ("the same, found by all copies of the task", share(sum(agreed), len(agreed))),
        (
            "seconds a task",
            f"mean {np.mean(seconds):.2f}, 95th percentile {np.percentile(seconds, 95):.2f}, most {max(seconds):.2f}",
        ),
    ]
    return "\n".join([f"| {name} | |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in lines)])


def tasks_of(name: str, every: int) -> TaskSet:
    """The tasks of a named set, each `every`-th of them; of arc2:training those in neither set of ARC-AGI-1."""
    tasks = load_tasks(name)
    if name == "arc2:training":
        older = {id_ for other in ("arc1:training", "arc1:evaluation") for id_ in load_tasks(other).ids}
        tasks = tasks.subset(id_ for id_ in tasks.ids if id_ not in older)
    return tasks.subset(tasks.ids[::every])


def main() -> None:
    """Answer, print, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="tasks", default="arc1:training")
    parser.add_argument("--seconds", type=float, default=2.0, help="for a task")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th task")
    parser.add_argument("--save", type=Path, default=None, metavar="FILE")
    arguments = parser.parse_args()
    tasks = tasks_of(arguments.tasks, arguments.every)
    rows: list[Answered] = []
    if arguments.save and arguments.save.exists():
        rows = [Answered(**json.loads(line)) for line in arguments.save.read_text().splitlines()]
    done = {row.task for row in rows}
    for task in tasks:
        if task.id not in done:
            rows.append(answer(task, arguments.seconds, CLOCKS[arguments.clock]))
            print(f"{len(rows)} of {len(tasks)}: {task.id} {rows[-1].solved(2)} {rows[-1].seconds:.2f} s", flush=True)
            if arguments.save:
                with arguments.save.open("a") as file:
                    file.write(json.dumps(asdict(rows[-1])) + "\n")
    print(table(f"{arguments.tasks}, {arguments.seconds:g} s ({arguments.clock})", rows))
    short = set(shortest_tasks(tasks, SHORTEST).ids)
    if len(rows) > SHORTEST:
        print("\n" + table(f"the {SHORTEST} shortest", [row for row in rows if row.task in short]))


if __name__ == "__main__":
    main()
