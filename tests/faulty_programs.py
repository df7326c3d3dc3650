"""A process of program search that misbehaves on order: `faulty_programs.py FAULTS FD PARENT`.

Its search answers every query with the query's own input, by an exact program. FAULTS is JSON: {"task id": fault, "*": fault at
the start, "flags": folder}. A fault is "crash", "hang", "raise", "stop" or "nonsense".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from solver.arc.task import Task
from solver.programs.solve import ProgramAnswer
from solver.types import Deadline
from solver.worker.programs import main

FAULTS = json.loads(sys.argv.pop(1))


def misbehave(name: str) -> None:
    match FAULTS.get(name):
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            time.sleep(3600)
        case "raise":
            raise ValueError("no good")


def solve(task: Task, deadline: Deadline) -> tuple[ProgramAnswer, ...]:
    with (Path(FAULTS["flags"]) / "searched.txt").open("a") as file:
        file.write(f"{task.id}\n")
    misbehave(task.id)
    if FAULTS.get(task.id) == "nonsense":
        return (ProgramAnswer(0, np.full((2, 2), 10, np.uint8), "ten", 1.0, True, 1.0), echo(task, 0))
    return tuple(echo(task, query) for query in range(len(task.test)))


def echo(task: Task, query: int) -> ProgramAnswer:
    return ProgramAnswer(query, task.test[query].input, "the input", 1.0, True, 1.0)


def load() -> Callable[[Task, Deadline], tuple[ProgramAnswer, ...]]:
    misbehave("*")
    return solve


if __name__ == "__main__":
    main(load)
