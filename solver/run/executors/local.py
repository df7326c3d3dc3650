"""The executor of worker processes on this machine: it starts, reads, kills and replaces them.

A worker's command line is `command FD PARENT` (see `child_process`). It gets its configuration first, then work items; it sends
pairs of a WorkItem.id (empty between items) and a message. Two threads for each do the sending and receiving, so a worker that
stops in the middle of a message blocks nothing. A worker has a session of its own: killing it kills the processes it started, and
a Ctrl-C for this process does not reach it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from solver.child_process import describe_exit, start_child
from solver.messages import StartFailed, VllmLost, WorkerConfig
from solver.run.executors.base import WorkerLost, WorkResult
from solver.types import ProgramConfig, ProgramWork, WorkItem

WORKER_COMMAND = (sys.executable, "-m", "solver.worker.main")
PROGRAM_COMMAND = (sys.executable, "-m", "solver.worker.programs")
REAP_SECONDS = 1.0  # to wait for a killed process to end
RETRY_SECONDS = 5.0  # until the next try to start a worker for which no process could be created


@dataclass(eq=False)
class _Process:
    """One worker process and this side of its connection."""

    popen: subprocess.Popen[bytes]
    line: Connection
    outbox: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)  # messages to be sent, in order; None: the last
    killed_for: str = ""
    killed: bool = False
    early: bool = False  # started by `EarlyWorkers`, with output to a temporary file

    def kill(self) -> None:
        """Kill the process and those it has started, without waiting."""
        if not self.killed:  # only once: later the process id may belong to another process
            self.killed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)

    def reap(self, patience: float = REAP_SECONDS) -> int | None:
        """Kill it and give its exit code; None if it has not ended in time (stuck in a driver or a dead disk)."""
        self.kill()
        self.outbox.put(None)
        try:
            return self.popen.wait(timeout=max(patience, 0.0))
        except subprocess.TimeoutExpired:
            return None


class EarlyWorkers:
    """Worker processes that are started, and import their libraries, while this process still reads its input.

    An executor takes them over and sends them their configuration. `close` kills those that none has taken.
    """

    def __init__(self, environments: Iterable[Mapping[str, str]], command: Sequence[str] = WORKER_COMMAND) -> None:
        self._waiting: dict[int, tuple[Mapping[str, str], _Process]] = {}
        for worker, environment in enumerate(environments):
            # the executor tries again what fails here, and reports why
            with contextlib.suppress(OSError, RuntimeError), tempfile.TemporaryFile() as output:
                started = start_child(command, environment, output, output, own_session=True)
                self._waiting[worker] = environment, _Process(*started, early=True)

    def take(self, worker: int, environment: Mapping[str, str]) -> _Process | None:
        """The process for a worker with this environment, only once; None if there is none, or if it has ended."""
        started_in, process = self._waiting.get(worker, ({}, None))
        if process is None or started_in != environment or process.popen.poll() is not None:
            return None
        del self._waiting[worker]
        return process

    def close(self) -> None:
        """Kill the processes that nobody has taken, and wait until they have ended, but at most a second."""
        waiting = [process for _, process in self._waiting.values()]
        for process in waiting:
            process.kill()
        until = time.monotonic() + REAP_SECONDS
        for process in waiting:
            process.reap(until - time.monotonic())
            process.line.close()
        self._waiting.clear()


class LocalExecutor:
    """An Executor of worker processes, or a ProgramExecutor, by `command`."""

    def __init__(
        self,
        config: WorkerConfig | ProgramConfig,
        log: Path,
        workers: int = 1,
        environment: Sequence[Mapping[str, str]] = (),
        command: Sequence[str] = WORKER_COMMAND,
        early: EarlyWorkers | None = None,
    ) -> None:
        """`config` is the first message to every worker, with `vllm_lost` once one has sent that; their output goes to `log`.

        `environment[i]` is added to that of worker i before its first import. Processes of `early` are taken for first starts.
        """
        self._config = config
        self._log = log
        self._count = workers
        self._environment = environment or [{}] * workers
        self._command = tuple(command)
        self._early = early
        self._running: dict[int, _Process] = {}
        self._missing: dict[int, tuple[float, str]] = {}  # workers without a process: when to try again, and why there is none
        self._inbox: queue.Queue[tuple[int, _Process, Any]] = queue.Queue()
        self._closed = False

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return self._count

    def start(self) -> None:
        """Start every worker."""
        for worker in range(self._count):
            self._try_to_spawn(worker)

    def submit(self, worker: int, work: WorkItem | ProgramWork) -> None:
        """Hand an item to a worker."""
        self._running[worker].outbox.put(work)

    def results(self, timeout: float) -> Iterator[WorkResult | WorkerLost]:
        """The messages that have arrived, waiting at most `timeout` seconds for the first."""
        yield from self._start_missing()
        wait = max(timeout, 0.0)
        while True:
            try:
                worker, process, message = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
            except queue.Empty:
                return
            wait = 0.0
            if self._running.get(worker) is not process:
                continue
            if message is not None:
                # also a message that a worker sent before it was killed
                result = WorkResult(worker, *message)
                if isinstance(result.message, VllmLost) and isinstance(self._config, WorkerConfig):
                    self._config = replace(self._config, vllm_lost=result.message.reason)
                yield result
                continue
            code = process.reap()
            reason = process.killed_for or describe_exit(code)
            if not self._closed:
                self._try_to_spawn(worker)
            yield WorkerLost(worker, reason, self._last_lines())

    def kill(self, worker: int, reason: str) -> None:
        """Kill a worker without waiting. Its closed connection then leads to WorkerLost and a new process."""
        if (process := self._running.get(worker)) is not None:
            process.killed_for = process.killed_for or reason
            process.kill()

    def close(self, patience: float = REAP_SECONDS) -> None:
        """Kill every worker and wait until all have ended, but at most `patience` seconds: some cannot be killed."""
        self._closed = True
        running = list(self._running.values())
        for process in running:
            process.kill()
        until = time.monotonic() + patience
        for process in running:
            process.reap(until - time.monotonic())

    def pids(self) -> list[int]:
        """Process ids of the workers, by number."""
        return [self._running[worker].popen.pid for worker in sorted(self._running)]

    def _try_to_spawn(self, worker: int) -> None:
        """Start a worker, or note why no process can be created for it now."""
        try:
            self._spawn(worker)
        except (OSError, RuntimeError) as error:
            self._running.pop(worker, None)
            self._missing[worker] = time.monotonic() + RETRY_SECONDS, f"{type(error).__name__}: {error}"

    def _start_missing(self) -> Iterator[WorkResult | WorkerLost]:
        """Try again to start workers without a process. Each failed try before counts as a failed start."""
        for worker, (at, why) in list(self._missing.items()):
            if not self._closed and time.monotonic() >= at:
                del self._missing[worker]
                yield WorkResult(worker, "", StartFailed(f"no process could be created for it: {why}"))
                self._try_to_spawn(worker)
                yield WorkerLost(worker, "it could not be created")

    def _spawn(self, worker: int) -> None:
        with contextlib.ExitStack() as undo:
            process = self._create(worker)
            undo.callback(process.reap)
            self._running[worker] = process
            threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()
            threading.Thread(target=self._deliver, args=(process,), daemon=True).start()
            config = self._config
            if process.early and isinstance(config, WorkerConfig):
                config = replace(config, log=self._log)
            process.outbox.put(config)
            undo.pop_all()

    def _create(self, worker: int) -> _Process:
        if self._early is not None and (process := self._early.take(worker, self._environment[worker])) is not None:
            return process
        with contextlib.ExitStack() as stack:
            try:
                output: Any = stack.enter_context(self._log.open("ab"))
            except OSError:  # a full disk must not keep a worker from starting
                output = subprocess.DEVNULL
            return _Process(*start_child(self._command, self._environment[worker], output, output, own_session=True))

    def _listen(self, worker: int, process: _Process) -> None:
        while True:
            try:
                message = process.line.recv()
            except Exception:  # the connection is closed, or a dying process has sent a part of a message
                break
            self._inbox.put((worker, process, message))
        self._inbox.put((worker, process, None))

    def _deliver(self, process: _Process) -> None:
        with contextlib.suppress(OSError):  # the worker is gone; its listener says so
            while (message := process.outbox.get()) is not None:
                process.line.send(message)

    def _last_lines(self, lines: int = 5, reach: int = 4096) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - reach))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])
