"""Child processes: how one is started with a line to it, what it needs to know of its parent, and how both report trouble.

A child is `command FD PARENT`: the number of its end of the line, and the process id of its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import IO

from solver.errors import InputError

Output = int | IO[bytes] | None  # as subprocess takes it


def start_child(
    command: Sequence[str], environment: Mapping[str, str], stdout: Output, stderr: Output, own_session: bool = False
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start `command FD PARENT` and give it with our end of the line; `environment` is added to ours.

    With `own_session` a Ctrl-C meant for us does not reach it, and its process group is its own to be killed. Raises OSError
    if there is no process, memory or file to be had; nothing is left open then.
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
    """For the child: its end of the line, from its command line. From now on it dies with its parent."""
    die_with(int(sys.argv[2]))
    return Connection(int(sys.argv[1]))


def die_with(parent: int) -> None:
    """Have the system kill this process when its parent dies (Linux; elsewhere the broken line does it)."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)


class WarningHandler(logging.Handler):
    """Passes the text of every warning to `send`, but not of errors: they come with what failed by them."""

    def __init__(self, send: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning."""
        if record.levelno == logging.WARNING:
            self._send(record.getMessage())


def describe_error(error: BaseException) -> str:
    """An error in one line; an InputError is a line for the user already."""
    text = str(error).strip().splitlines()
    if text and isinstance(error, InputError):
        return text[0]
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def describe_exit(code: int | None) -> str:
    """How a process ended, by its `Popen.returncode`; None: it could not be ended."""
    if code is None:
        return "it closed its line and could not be ended"
    if code >= 0:
        return f"it ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"
