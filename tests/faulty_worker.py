"""A worker process without torch that misbehaves on order: `faulty_worker.py FAULTS FD PARENT`.

FAULTS is JSON: {"task id": fault, "*": fault, "step": seconds a step, "answer": seconds an answer, "flags": folder}.
A fault ending in "-once" happens only the first time; the folder remembers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fake_parts import fake_solver

from solver.budget.backoff import smaller_settings
from solver.budget.costs import START
from solver.errors import InputError, ProcessBroken
from solver.messages import Message, WorkerConfig, WorkerFacts
from solver.types import WorkItem
from solver.worker.main import Backend, main
from solver.worker.solve import Report, Solver

FAULTS = json.loads(sys.argv.pop(1))


def misbehave(name: str, item: WorkItem | None) -> None:
    fault = FAULTS.get(name)
    if fault is None:
        return
    if fault.endswith("-once"):
        flag = Path(FAULTS["flags"]) / f"{name}-{fault}".replace("*", "start")
        if flag.exists():
            return
        flag.touch()
    kind = fault.removesuffix("-once")
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "exit":
        os._exit(3)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "raise":
        raise MemoryError("out of memory")
    elif kind == "broken":
        raise ProcessBroken("the device does nothing more")
    elif kind == "refuse":
        raise InputError("model/config.json: no good")


class Faulty:
    def __init__(self, solver: Solver) -> None:
        self.solver, self.codec = solver, solver.codec

    def work(self, item: WorkItem, report: Report) -> Iterator[object]:
        log = Path(FAULTS["flags"]) / "worked.txt"
        for work in item.tasks:
            with log.open("a") as file:
                file.write(f"{work.task.id} {item.wave} {item.halvings}\n")
            misbehave(work.task.id, item)
        yield from self.solver.work(item, report)


def load(config: WorkerConfig, send: Callable[[Message], None]) -> Backend:
    misbehave("*", None)
    step, answer = FAULTS.get("step", 0.0), FAULTS.get("answer", 0.0)

    def solver(halvings: int) -> Solver:
        return Faulty(fake_solver(smaller_settings(config.settings, halvings), config.scratch, step, answer))  # type: ignore[return-value]

    return Backend(solver, dict.fromkeys(START, 0.5), lambda: WorkerFacts("fake", "fake"), lambda: 1)


if __name__ == "__main__":
    main(load)
