"""The process that searches for programs, `python -m solver.worker.programs FD PARENT`, which the local executor starts.

It takes one task after the other and sends the answers that programs give to it. It imports numpy and the room of program search,
so it starts in a fraction of a second, and it ends when its parent does.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from solver.arc.grid import COLOURS, MAX_SIDE
from solver.arc.task import Task
from solver.child_process import describe_error, line_to_parent
from solver.programs.solve import RESERVE, ProgramAnswer, solve
from solver.types import Candidate, Deadline, Program, ProgramConfig, ProgramOutcome, ProgramReady, ProgramWork, Status

Solve = Callable[[Task, Deadline], Sequence[ProgramAnswer]]


def load() -> Solve:
    """The program search."""
    return solve


def search(work: ProgramWork, solve: Solve, clock: Callable[[], float] = time.monotonic) -> ProgramOutcome:
    """Search for programs for one task. An error gives an outcome without answers."""
    began = clock()
    deadline = Deadline(min(began + work.seconds, work.deadline_at), clock)
    status: Status
    try:
        found, error = solve(work.task, deadline), ""
        status = "cut" if deadline.expired(RESERVE) else "complete"
    except Exception as raised:
        traceback.print_exc()
        found, error, status = (), describe_error(raised), "failed"
    answers = tuple(tuple(_candidates(found, query)) for query in range(len(work.task.test)))
    return ProgramOutcome(work.task.id, status, answers, clock() - began, work.seconds, error)


def _candidates(found: Sequence[ProgramAnswer], query: int) -> Iterator[Candidate]:
    """The answers to a query, best first. Arrays that are no grids are left out: they would make the submission invalid."""
    for one in found:
        grid = np.asarray(one.grid)
        if one.query == query and _is_grid(grid):
            program = Program(str(one.program), float(one.cost), bool(one.exact), float(one.agreement))
            yield Candidate.of_program(np.ascontiguousarray(grid, dtype=np.uint8), program)


def _is_grid(grid: np.ndarray) -> bool:
    right = grid.ndim == 2 and grid.dtype.kind in "iu" and min(grid.shape) >= 1 and max(grid.shape) <= MAX_SIDE
    return bool(right and grid.min() >= 0 and grid.max() < COLOURS)


def serve(line: Connection, load: Callable[[], Solve] = load) -> None:
    """Search until the connection closes."""
    began = time.monotonic()
    config: ProgramConfig = line.recv()
    _yield_memory(config.memory)
    solve = load()
    with contextlib.suppress(EOFError, OSError):
        line.send(("", ProgramReady(time.monotonic() - began)))
        while True:
            work: ProgramWork = line.recv()
            line.send((work.id, search(work, solve)))


def _yield_memory(most: int) -> None:
    """Allow this process `most` bytes. Where memory runs out all the same, Linux ends this process before others."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(OSError):
        Path(f"/proc/{os.getpid()}/oom_score_adj").write_text("1000")


def main(load: Callable[[], Solve] = load) -> None:
    """Entry point."""
    serve(line_to_parent(), load)


if __name__ == "__main__":
    main()
