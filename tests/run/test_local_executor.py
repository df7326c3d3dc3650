"""Workers as processes: what is said of those that cannot be created, and what later ones get to know."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_helpers import make_task

from solver.config import Settings
from solver.messages import StartFailed, VllmLost, Warned, WorkerConfig
from solver.run.executors import local
from solver.run.executors.base import WorkerLost, WorkResult
from solver.types import ProgramConfig, ProgramWork


def test_a_worker_that_cannot_be_created_is_a_failed_start_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, real = [OSError(12, "Cannot allocate memory"), RuntimeError("can't start new thread")], subprocess.Popen

    def create(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        if refusals:
            raise refusals.pop(0)
        return real(*arguments, **named)

    monkeypatch.setattr(local.subprocess, "Popen", create)
    monkeypatch.setattr(local, "RETRY_SECONDS", 0.0)
    ends_at_once = (sys.executable, "-c", "raise SystemExit(3)")
    executor = local.LocalExecutor(WorkerConfig(Settings(), None, tmp_path), tmp_path / "worker.log", command=ends_at_once)
    executor.start()
    executor.kill(0, "nobody is there")
    said: list[WorkResult | WorkerLost] = []
    until = time.monotonic() + 60
    while time.monotonic() < until and not (said and isinstance(said[-1], WorkerLost) and "exit code 3" in said[-1].reason):
        said += executor.results(0.2)
    executor.close()
    failed = [one.message.error for one in said if isinstance(one, WorkResult) and isinstance(one.message, StartFailed)]
    assert failed == [
        "no process could be created for it: OSError: [Errno 12] Cannot allocate memory",
        "no process could be created for it: RuntimeError: can't start new thread",
    ]
    assert [one.reason for one in said if isinstance(one, WorkerLost)] == ["it could not be created"] * 2 + [
        "it ended with exit code 3"
    ]


LOSES_VLLM = """
from solver.child_process import line_to_parent
from solver.messages import VllmLost, Warned

line = line_to_parent()
config = line.recv()
line.send(("", Warned("told", config.vllm_lost) if config.vllm_lost else VllmLost("vLLM broke: no more")))
"""


def test_a_later_worker_is_told_that_vllm_broke_in_an_earlier_one(tmp_path: Path) -> None:
    config = WorkerConfig(Settings(), None, tmp_path)
    executor = local.LocalExecutor(config, tmp_path / "worker.log", command=(sys.executable, "-c", LOSES_VLLM))
    executor.start()
    said: list[WorkResult | WorkerLost] = []
    until = time.monotonic() + 60
    while time.monotonic() < until and len(said) < 3:
        said += executor.results(0.2)
    executor.close()
    first, lost, second = said[:3]
    assert isinstance(first, WorkResult)
    assert first.message == VllmLost("vLLM broke: no more")
    assert isinstance(lost, WorkerLost)
    assert isinstance(second, WorkResult)
    assert second.message == Warned("told", "vLLM broke: no more")


ECHO = """
import time
from solver.child_process import line_to_parent
from solver.types import ProgramReady

line = line_to_parent()
line.recv()
line.send(("", ProgramReady(0.0)))
time.sleep(0.5)  # meanwhile work piles up, more than a pipe holds
while True:
    work = line.recv()
    line.send((work.id, ProgramReady(work.seconds)))
"""


def test_work_that_is_handed_over_ahead_arrives_in_order(tmp_path: Path) -> None:
    task = make_task("large", side=30)
    executor = local.LocalExecutor(ProgramConfig(2**32), tmp_path / "programs.log", command=(sys.executable, "-c", ECHO))
    executor.start()
    for number in range(60):
        executor.submit(0, ProgramWork(f"p{number}", task, float(number), 0.0))
    said: list[WorkResult | WorkerLost] = []
    until = time.monotonic() + 60
    while time.monotonic() < until and len(said) < 61:
        said += executor.results(0.2)
    executor.close()
    items = [one.item for one in said if isinstance(one, WorkResult)]
    assert items == ["", *(f"p{number}" for number in range(60))]


TELLS = """
import os
from solver.child_process import line_to_parent, write_output_to
from solver.messages import Warned

line = line_to_parent()
print("before", flush=True)
line.send(("", Warned("before", "")))
config = line.recv()
if config.log is not None:
    write_output_to(config.log)
print("printed", flush=True)
line.send(("", Warned("told", f"{os.getpid()} {os.environ.get('NUMBER')}")))
line.recv()
"""


def said_by(executor: local.LocalExecutor, count: int) -> list[str]:
    """What the workers warn of, `count` messages."""
    said: list[WorkResult | WorkerLost] = []
    until = time.monotonic() + 60
    while time.monotonic() < until and len(said) < count:
        said += executor.results(0.2)
    return [one.message.detail for one in said if isinstance(one, WorkResult) and isinstance(one.message, Warned)]


def test_workers_that_were_started_early_are_taken_over(tmp_path: Path) -> None:
    command, log = (sys.executable, "-c", TELLS), tmp_path / "worker.log"
    environments = [{"NUMBER": "1"}, {"NUMBER": "2"}]
    early = local.EarlyWorkers([*environments, {"NUMBER": "3"}], command)
    pids = [process.popen.pid for _, process in early._waiting.values()]
    third = early._waiting[2][1].popen
    config = WorkerConfig(Settings(), None, tmp_path)
    executor = local.LocalExecutor(config, log, 2, environments, command, early)
    executor.start()
    assert set(said_by(executor, 4)) == {"", f"{pids[0]} 1", f"{pids[1]} 2"}
    assert executor.pids() == pids[:2]
    assert third.poll() is None
    early.close()
    assert third.poll() is not None
    assert log.read_text() == "before\nprinted\n" * 2
    executor.kill(0, "another one takes its place, with its output in the log from its start")
    assert said_by(executor, 3)[-1].endswith(" 1")
    assert executor.pids()[0] not in pids
    executor.close()
    assert log.read_text() == "before\nprinted\n" * 3


@pytest.mark.parametrize("why", ["ended", "other environment", "not created"])
def test_early_workers_that_are_of_no_use_are_replaced(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (sys.executable, "-c", TELLS)
    if why == "not created":
        with monkeypatch.context() as patch:
            patch.setattr(local, "start_child", lambda *_, **__: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")))
            early = local.EarlyWorkers([{"NUMBER": "1"}], command)
    else:
        early = local.EarlyWorkers([{"NUMBER": "1"}], (sys.executable, "-c", "") if why == "ended" else command)
        if why == "ended":
            early._waiting[0][1].popen.wait(60)
    environment = {"NUMBER": "2" if why == "other environment" else "1"}
    executor = local.LocalExecutor(WorkerConfig(Settings(), None, tmp_path), tmp_path / "log", 1, [environment], command, early)
    executor.start()
    assert said_by(executor, 2)[-1].endswith(f" {environment['NUMBER']}")
    executor.close()
    early.close()
