"""A trainer in a process of its own, for libraries that change the whole process they are imported into.

The process receives a `TrainerSpec`, makes the trainer, and then fits the jobs that it receives. It sees one device and ends
with its parent. If it crashes or hangs, the fits it was working on are lost, and the parent goes on. While it rests, it holds
no memory of the device but a CUDA context, if its trainer has a method `rest`.
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
)  # `start_child` adds the file descriptor of the connection and the id of the parent

START_SECONDS = 600.0  # for importing, loading and compiling; the deadline of the run may come first
GRACE = 10.0  # a fit counts as hung so many seconds after its deadline
REST_SECONDS = 60.0  # for giving up memory; a process that takes longer counts as hung


@dataclass(frozen=True)
class TrainerSpec:
    """Which trainer the process has to make, and for which model."""

    maker: str  # "module:function", the name of a Maker
    folder: Path  # of the model
    model: ModelSettings
    train: TrainSettings
    scratch: Path  # adapters are written to scratch/adapter id
    device_share: float = 1.0  # the share of the device's memory that the process may take


# loads the model, and gives a function that makes trainers; the settings of these differ in batch sizes only
Maker = Callable[[TrainerSpec], Callable[[TrainSettings], Trainer]]


class StartError(Exception):
    """The process cannot make its trainer; the message is one line."""


class ProcessLost(Exception):
    """The process died or hung; the message is one line."""


class _Reply(NamedTuple):
    request: int  # number of the request that it answers; 0: the start
    kind: Literal["fit", "warning", "error", "done"]
    value: Any = None
    peak_memory: int = 0  # of the process so far, host plus device, in bytes


class SubprocessTrainer:
    """A process with a trainer. `fit` is like that of other trainers, but raises ProcessLost if the process dies or hangs.

    `peak_memory`: of the process as of its last reply, host plus device, in bytes.
    """

    def __init__(self, spec: TrainerSpec, environment: Mapping[str, str], patience: float = START_SECONDS) -> None:
        """Start the process and wait until its trainer is made, `patience` seconds at most. Raises StartError."""
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
        """Yield one fit for each job as soon as it is done. Raises ProcessLost."""
        self._requests += 1
        seconds = deadline.remaining()
        try:
            self._line.send((self._requests, self.settings, tuple(jobs), seconds))
        except OSError:
            raise ProcessLost(self._ending()) from None
        until = time.monotonic() + max(seconds, 0.0) + GRACE
        while True:
            reply = self._receive(until)
            if reply.request != self._requests:  # to an earlier request, whose caller stopped reading
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
        """Make the process give up the device's memory until the next fit.

        Raises ProcessLost if the process dies, hangs or fails to do so. The process is ended in that case.
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
            self.close()  # other processes need the memory
            raise ProcessLost(reply.value)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
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
        self._process.kill()  # it closed its connection, so it cannot be used any more
        return describe_exit(self._process.wait())


def _has_number(stream: Any) -> bool:
    try:
        return bool(stream.fileno() >= 0)
    except (OSError, AttributeError):  # not a file, for example where pytest captures the output
        return False


def serve(line: Connection) -> None:
    """Make the trainer, then fit what is received until the connection ends. Runs in the process."""
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
        request, received, jobs, seconds = line.recv()
        try:
            if received is None:  # a request to rest
                if (rest := getattr(trainer, "rest", None)) is not None:
                    rest()
                reply("done")
                continue
            if received != settings:
                trainer, settings = make(received), received
            for fit in trainer.fit(jobs, Deadline.after(seconds)):
                reply("fit", fit)
            reply("done")
        except Exception as error:
            traceback.print_exc()
            reply("error", describe_error(error))


def main() -> None:
    """The entry point of the process."""
    line = line_to_parent()
    try:
        serve(line)
    except (EOFError, OSError):  # the parent closed the connection
        return
