"""Child processes: the line to them, their end with their parent, and how trouble is put into words."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from solver.child_process import WarningHandler, describe_error, describe_exit, start_child
from solver.errors import InputError

ECHO = """
import os
from solver.child_process import line_to_parent
line = line_to_parent()
line.send((os.environ["MARK"], os.getsid(0) == os.getpid()))
line.send(line.recv() * 2)
"""


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("own_session", [False, True])
def test_a_child_gets_its_environment_and_a_line(own_session: bool) -> None:
    process, line = start_child((sys.executable, "-c", ECHO), {"MARK": "here"}, None, None, own_session)
    with line:
        assert line.recv() == ("here", own_session)
        line.send(21)
        assert line.recv() == 42
        with pytest.raises(EOFError):
            line.recv()
    assert process.wait(timeout=30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts files by /proc")
def test_a_child_that_cannot_be_started_leaves_no_file_open(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(OSError, match="no-such-program"):
        start_child((str(tmp_path / "no-such-program"),), {}, None, None)
    assert open_files() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the system ends children of the dead on Linux only")
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    child = "import time; from solver.child_process import line_to_parent; line_to_parent().send(1); time.sleep(600)"
    parent = (
        "import sys, time; from solver.child_process import start_child\n"
        f"process, line = start_child((sys.executable, '-c', {child!r}), {{}}, None, None)\n"
        "line.recv(); print(process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + 30
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_warnings_are_passed_on_and_errors_are_not() -> None:
    heard: list[str] = []
    logger = logging.Logger("made")
    logger.addHandler(WarningHandler(heard.append))
    logger.info("no matter")
    logger.warning("memory: %d GB", 3)
    logger.error("it failed")
    assert heard == ["memory: 3 GB"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("config.json: no good"), "config.json: no good"),
        (InputError(""), "InputError"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (MemoryError(), "MemoryError"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 300),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert describe_error(error) == line


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (None, "it closed its connection, and killing it had no effect"),
        (3, "it ended with exit code 3"),
        (-9, "it was ended by SIGKILL"),
        (-250, "it was ended by signal 250"),
    ],
)
def test_the_end_of_a_process_is_put_into_words(code: int | None, line: str) -> None:
    assert describe_exit(code) == line
