"""A trainer in a process of its own, for libraries that leave no process as they found it.

The process gets a `TrainerSpec`, makes the trainer, and then fits what it is asked to. It sees one device, lives as long as its
parent at most, and a crash or a hang of it costs the fits it had, not the parent. Asked to rest, it gives the device's memory
to others, all but a context's: its trainer does, if it knows how to.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from solver.child_process import WarningHandler, describe_error, describe_exit, line_to_parent, start_child
from solver.config import ModelSettings, TrainSettings
from solver.model.memory import peak_memory
from solver.train.base import Trainer
from solver.types import Deadline, Fit, FitJob

log = logging.getLogger(__name__)

_COMMAND = (
    sys.executable,
    "-c",
    "from solver.train.subprocess_trainer import main; main()",
)  # then: our end of the line, our parent

START_SECONDS = 600.0  # to import, load and compile; a run's own deadline may come first
GRACE = 10.0  # seconds past its deadline after which a fit counts as hung
REST_SECONDS = 60.0  # to give memory up; a process that takes longer counts as hung


@dataclass(frozen=True)
class TrainerSpec:
    """What trainer the process is to make, and of which model."""

    maker: str  # "module:function" of a Maker
    folder: Path
    model: ModelSettings
    train: TrainSettings
    scratch: Path  # adapters go to scratch/adapter id
    device_share: float = 1.0  # of the device's memory, that it may take


Maker = Callable[[TrainerSpec], Callable[[TrainSettings], Trainer]]  # loads the model; trainers then differ in batch sizes alone


class StartError(Exception):
    """The process cannot make its trainer; the message is one line."""


class ProcessLost(Exception):
    """The process died or hung; the message is one line."""


class _Reply(NamedTuple):
    request: int  # 0: the start
    kind: Literal["fit", "warning", "error", "done"]
    value: Any = None
    peak_memory: int = 0  # bytes that the process has held so far, on host and device together


class SubprocessTrainer:
    """The process, started and ready. `fit` is like any trainer's, but raises ProcessLost if the process dies or hangs.

    `peak_memory` is the most that it had held when it last answered: bytes, of host and device together. Raises StartError.
    """

    def __init__(self, spec: TrainerSpec, environment: Mapping[str, str], patience: float = START_SECONDS) -> None:
        self.settings = spec.train
        self.peak_memory = 0
        self._requests = 0
        output = sys.stderr.fileno() if _has_number(sys.stderr) else None
        self._process, self._line = start_child(_COMMAND, environment, output, None)
        try:
            self._line.send(spec)
            reply = self._receive(time.monotonic() + patience)
        except (ProcessLost, OSError) as error:
            self.close()
            raise StartError(str(error)) from None
        if reply.kind == "error":
            self.close()
            raise StartError(reply.value)

    def fit(self, jobs: Sequence[FitJob], deadline: Deadline) -> Iterator[Fit]:
        """One fit per job, as each completes. Raises ProcessLost."""
        self._requests += 1
        seconds = deadline.remaining()
        try:
            self._line.send((self._requests, self.settings, tuple(jobs), seconds))
        except OSError:
            raise ProcessLost(self._ending()) from None
        until = time.monotonic() + max(seconds, 0.0) + GRACE
        while True:
            reply = self._receive(until)
            if reply.request != self._requests:  # of a request that nobody waits for any more
                continue
            if reply.kind == "fit":
                yield reply.value
            elif reply.kind == "warning":
                log.warning("%s", reply.value)
            elif reply.kind == "error":
                raise ProcessLost(reply.value)
            else:
                return

    def rest(self) -> None:
        """Give the device's memory up until the next fit.

        Raises ProcessLost if the process dies, hangs or cannot; it is ended then.
        """
        self._requests += 1
        try:
            self._line.send((self._requests, None, (), 0.0))
        except OSError:
            raise ProcessLost(self._ending()) from None
        until = time.monotonic() + REST_SECONDS
        while (reply := self._receive(until)).request != self._requests or reply.kind == "warning":
            if reply.kind == "warning":
                log.warning("%s", reply.value)
        if reply.kind == "error":
            self.close()  # others wait for the memory
            raise ProcessLost(reply.value)

    @property
    def alive(self) -> bool:
        """Whether the process can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._line.close()

    def __del__(self) -> None:
        if hasattr(self, "_line") and not self._line.closed:
            self.close()

    def _receive(self, until: float) -> _Reply:
        try:
            if self._line.poll(None if until == float("inf") else max(0.0, until - time.monotonic())):
                reply: _Reply = self._line.recv()
                self.peak_memory = max(self.peak_memory, reply.peak_memory)
                return reply
        except (EOFError, OSError):
            raise ProcessLost(self._ending()) from None
        self.close()
        raise ProcessLost("it did not answer in time and was ended")

    def _ending(self) -> str:
        self._process.kill()  # it has closed its line: it is of no more use
        return describe_exit(self._process.wait())


def _has_number(stream: Any) -> bool:
    try:
        return bool(stream.fileno() >= 0)
    except (OSError, AttributeError):  # captured, as in tests
        return False


def serve(line: Connection) -> None:
    """Make the trainer, then fit until the line ends."""
    spec: TrainerSpec = line.recv()
    request = 0

    def reply(kind: Literal["fit", "warning", "error", "done"], value: Any = None) -> None:
        line.send(_Reply(request, kind, value, peak_memory(spec.model.device)))

    logging.getLogger("solver").addHandler(WarningHandler(lambda text: reply("warning", text)))
    try:
        module, _, function = spec.maker.partition(":")
        maker: Maker = getattr(importlib.import_module(module), function)
        make = maker(spec)
        trainer, settings = make(spec.train), spec.train
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        reply("error", describe_error(error))
        return
    reply("done")
    while True:
        request, wanted, jobs, seconds = line.recv()
        try:
            if wanted is None:
                if (rest := getattr(trainer, "rest", None)) is not None:
                    rest()
                reply("done")
                continue
            if wanted != settings:
                trainer, settings = make(wanted), wanted
            for fit in trainer.fit(jobs, Deadline.after(seconds)):
                reply("fit", fit)
            reply("done")
        except Exception as error:
            traceback.print_exc()
            reply("error", describe_error(error))


def main() -> None:
    """Entry point."""
    line = line_to_parent()
    try:
        serve(line)
    except (EOFError, OSError):  # the parent hung up
        return
