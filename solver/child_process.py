"""Child processes: starts one with a connection to it, ends it with its parent, and describes errors and exits in one line.

A child's command line is `command FD PARENT`: the file descriptor of its end of the connection, and the process id of its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from solver.errors import InputError

Output = int | IO[bytes] | None  # where output goes, as `subprocess.Popen` takes it


def start_child(
    command: Sequence[str], environment: Mapping[str, str], stdout: Output, stderr: Output, own_session: bool = False
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start `command FD PARENT`. Gives the process and the parent's end of the connection.

    `environment` is added to the environment of this process. With `own_session`, a Ctrl-C for this process does not reach the
    child, and the child has a process group of its own that can be killed. Raises OSError if the system has no process, memory or
    file left; nothing stays open in that case.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[theirs.fileno()],
            start_new_session=own_session,
            env={**os.environ, **environment},
        )
        return process, Connection(ours.detach())


def line_to_parent() -> Connection:
    """The child's end of the connection, from its command line. From then on, the child ends when its parent does."""
    die_with(int(sys.argv[2]))
    return Connection(int(sys.argv[1]))


def write_output_to(log: Path) -> None:
    """Append the output of this process to a file, also what it has written to a temporary file before.

    If the file cannot be written, nothing changes: a full disk must not keep a worker from starting.
    """
    with contextlib.suppress(OSError), log.open("ab") as file:
        before = os.fstat(1)
        if stat.S_ISREG(before.st_mode):
            file.write(os.pread(1, before.st_size, 0))
            file.flush()
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends. On other systems the broken connection has to end it."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before the call
        os._exit(0)


class WarningHandler(logging.Handler):
    """Passes the text of every warning to `send`, but not errors, which are reported with the work that failed."""

    def __init__(self, send: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning."""
        if record.levelno == logging.WARNING:
            self._send(record.getMessage())


def describe_error(error: BaseException) -> str:
    """An error in one line: its type and message. An InputError gives its message only, which is written for users."""
    text = str(error).strip().splitlines()
    if text and isinstance(error, InputError):
        return text[0]
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def describe_exit(code: int | None) -> str:
    """How a process ended, by its `Popen.returncode`. None: it did not end although it was killed."""
    if code is None:
        return "it closed its connection, and killing it had no effect"
    if code >= 0:
        return f"it ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"
