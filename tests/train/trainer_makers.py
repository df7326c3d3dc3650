"""Trainers that a test has made in a process of their own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from solver.config import TrainSettings
from solver.errors import InputError
from solver.train.base import Trainer
from solver.train.subprocess_trainer import TrainerSpec
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger("solver.test")


def lora(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    from solver.model.load import load_base
    from solver.train.lora import LoraTrainer

    base = load_base(spec.folder, spec.model.model_copy(update={"device": "cpu"}))
    return lambda settings: LoraTrainer(base, settings, spec.scratch)


def refusing(spec: TrainerSpec) -> Any:
    raise InputError("it needs what is not there\nat all")


def breaking(spec: TrainerSpec) -> Any:
    raise ImportError("no such library\nreally")


def exiting(spec: TrainerSpec) -> Any:
    os._exit(7)


def hanging(spec: TrainerSpec) -> Any:
    time.sleep(60)


class _Fatal:
    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        for job in jobs:
            if job.adapter_id == "crash":
                os._exit(9)
            if job.adapter_id == "hang":
                time.sleep(60)
            if job.adapter_id == "raise":
                raise RuntimeError("kernel image is wrong\nfor this device")
            log.warning("out of memory: micro-batches are smaller now")
            yield Fit(job.adapter_id, "complete", "steps", None, job.steps, 0, 0.0, 1.0, 1.0)


def fatal(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    return lambda settings: _Fatal()


GREED = 10**8  # bytes


class _Greedy(_Fatal):
    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        len(b"1" * GREED)
        yield from super().fit(jobs, deadline)


def greedy(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    return lambda settings: _Greedy()


class _Resting:
    """Notes in a file what it is asked."""

    def __init__(self, trainer: Trainer, notes: Path) -> None:
        self._trainer, self._notes = trainer, notes

    def _note(self, what: str) -> None:
        with self._notes.open("a") as file:
            file.write(what + "\n")

    def rest(self) -> None:
        self._note("rest")

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        for job in jobs:
            self._note("fit")
            if "crash" in job.adapter_id and job.adapter_id.endswith("1"):  # the second task of such an item
                os._exit(9)
            yield from self._trainer.fit([job], deadline)


def resting(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    make = lora(spec)
    return lambda settings: _Resting(make(settings), spec.scratch / "notes.txt")


class _Stuck(_Fatal):
    def rest(self) -> None:
        raise MemoryError("no room on the host\nat all")


def stuck(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    return lambda settings: _Stuck()


class _Asleep(_Fatal):
    def rest(self) -> None:
        time.sleep(60)


def asleep(spec: TrainerSpec) -> Callable[[TrainSettings], Trainer]:
    return lambda settings: _Asleep()
