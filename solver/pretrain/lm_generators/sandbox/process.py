"""Starts locked processes, gives them code, and reads their answers within bounds of time and size.

`Form` names what a locked process must have; `sandbox.lockdown` says what each layer is. No form is without the system call
filter, because the other layers leave too much to code that means harm.

full            limits, namespaces and seccomp
no-namespaces   limits and seccomp, for containers that allow no new namespaces
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import solver
from solver.arc.task import Pair
from solver.child_process import describe_exit
from solver.errors import InputError
from solver.pretrain.lm_generators.sandbox.answers import read_answer
from solver.pretrain.lm_generators.verdicts import Refused

Form = Literal["full", "no-namespaces"]

LAYERS: Mapping[Form, frozenset[str]] = {
    "full": frozenset(("limits", "namespaces", "seccomp")),
    "no-namespaces": frozenset(("limits", "seccomp")),
}
MEMORY = 512 * 2**20  # bytes of address space
MAX_CODE = 20_000  # characters
MAX_BYTES_OF_A_PAIR = 4096  # JSON of two 30x30 grids, and of a seed
MAX_OTHER_BYTES = 4096

_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from solver.pretrain.lm_generators.sandbox.child import main; "
    "sys.path.pop(); main()"
)
# Reaches what honest code cannot, and tries what no locked process can do. Where it succeeds, it is a generator.
_PROBE = """
os = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close").__init__.__globals__
file = os["open"]("/proc/self/status", 0)
def generate(rng):
    return [[file]], [[0]]
"""
_HARMLESS = "def generate(rng):\n    return [[rng.randrange(10)]], [[1]]\n"


@dataclass(frozen=True)
class Sandbox:
    """Runs generators in locked processes. Several threads may use it at once."""

    layers: frozenset[str]
    empty_folder: Path
    cpu_seconds: int = 5  # of a process
    wall_seconds: float = 30.0  # of a process; more than its CPU seconds, because the machine may be busy
    clock: Callable[[], float] = time.monotonic

    def draw(self, code: str, seeds: Sequence[int], count: int) -> dict[int, Pair]:
        """`count` pairs of the generator in `code`, by the first of the `seeds` with which it does not fail.

        Raises Refused if it does not give them, InputError if there is no process or it cannot be locked.
        """
        if len(code) > MAX_CODE:
            raise Refused("syntax", f"longer than {MAX_CODE} characters")
        job = {
            "code": code,
            "seeds": list(seeds),
            "pairs": count,
            "layers": sorted(self.layers),
            "limits": {"cpu_seconds": self.cpu_seconds, "memory": MEMORY},
            "parent": os.getpid(),
            "empty_folder": str(self.empty_folder),
        }
        try:
            return read_answer(self._run(job, MAX_BYTES_OF_A_PAIR * count + MAX_OTHER_BYTES), seeds, count)
        except OSError as error:
            raise InputError(f"no process for the sandbox: {error.strerror or error}") from None

    def _run(self, job: Mapping[str, Any], max_bytes: int) -> bytes:
        """The answer that a locked process wrote, without its first line. Raises as `draw`, and OSError."""
        with _started(json.dumps(job).encode()) as process:
            written, end = self._read(process, max_bytes)
            code = process.returncode
        first, _, answer = written.partition(b"\n")
        self._check_locked(first, end[1] if end else describe_exit(code))
        if end:
            raise Refused(*end)
        if code != 0:
            reason = {-signal.SIGSYS: "system call", -signal.SIGXCPU: "time", -signal.SIGKILL: "time"}.get(code, "crash")
            raise Refused(reason, describe_exit(code))
        return answer

    def _read(self, process: subprocess.Popen[bytes], max_bytes: int) -> tuple[bytes, tuple[str, str] | None]:
        """What the process writes until it ends, and why it was ended: (reason, detail), None if it ended by itself."""
        assert process.stdout is not None
        deadline = self.clock() + self.wall_seconds
        written = bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while ready.select(max(0.0, deadline - self.clock())):
                part = os.read(process.stdout.fileno(), 2**16)
                written += part
                if len(written) > max_bytes:
                    return bytes(written), ("answer", f"more than {max_bytes} bytes")
                if not part:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, deadline - self.clock()))
                        return bytes(written), None
                    break
        return bytes(written), ("time", f"{self.wall_seconds:.0f} seconds")

    def _check_locked(self, first: bytes, end: str) -> None:
        """Raises InputError unless the first line of an answer says so. It is written before any code runs."""
        try:
            line = json.loads(first)
        except ValueError:
            line = None
        match line:
            case {"locked": True}:
                return
            case {"missing": [layer, reason]}:
                weaker = [name for name, layers in LAYERS.items() if layers == self.layers - {layer}]
                hint = f"; a weaker form does without: --sandbox {weaker[0]}" if weaker else ""
                raise InputError(f"this system does not offer the sandbox its layer {layer!r}: {reason}{hint}")
        raise InputError(f"a process of the sandbox did not start: {end}")


@contextlib.contextmanager
def open_sandbox(form: Form) -> Iterator[Sandbox]:
    """A sandbox of the form, which was seen to work and to stop what it must.

    Raises InputError if this system does not offer one of its layers.
    """
    if sys.platform != "linux":
        raise InputError(f"written code runs on Linux alone: {platform.system()} has no sandbox that would hold it")
    with tempfile.TemporaryDirectory(prefix="solver-sandbox-") as folder:
        Path(folder).chmod(0o555)
        sandbox = Sandbox(LAYERS[form], Path(folder))
        _try_out(sandbox)
        yield sandbox


def _try_out(sandbox: Sandbox) -> None:
    """Raises InputError unless harmless code runs in the sandbox, and the filter ends code that opens a file."""
    try:
        sandbox.draw(_HARMLESS, range(2), 2)
    except Refused as refused:
        raise InputError(f"the sandbox does not work here: harmless code in it failed: {refused.told}") from None
    try:
        sandbox.draw(_PROBE, range(1), 1)
    except Refused as refused:
        if refused.reason == "system call":
            return
        told = f"code that opens a file failed otherwise: {refused.told}"
        raise InputError(f"the sandbox was not seen to hold here: {told}") from None
    raise InputError("the sandbox does not hold here: code in it could open a file")


@contextlib.contextmanager
def _started(job: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads its job from a file, because a pipe would be waited for. It is ended with the block."""
    command = [sys.executable, "-I", "-S", "-B", "-W", "ignore", "-c", _BOOT, str(Path(solver.__file__).parents[1])]
    with tempfile.TemporaryFile() as job_file:
        job_file.write(job)
        job_file.seek(0)
        with subprocess.Popen(
            command,
            bufsize=0,
            stdin=job_file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
