"""Faults of the real worker, with a real (untrained) model: memory, losses, signals from outside, several workers, clocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from run_helpers import FAST, assert_valid, make_tasks, write_challenges

from solver.config import load_settings
from solver.messages import WorkerConfig
from solver.report.observer import SilentObserver
from solver.report.results import Summary
from solver.run.executors.base import Executor
from solver.run.executors.local import LocalExecutor
from solver.run.ledger import Event, Ledger
from solver.run.pipeline import run
from solver.run.types import RunOptions

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
SETTINGS = [*FAST, "budget.policy=fixed", "model.threads=1", "model.device=cpu"]


@pytest.fixture
def challenges(tmp_path: Path) -> Path:
    return write_challenges(tmp_path / "challenges.json", make_tasks(4))


def work(
    folder: Path, challenges: Path, model: Path, faults: dict[str, Any], *overrides: str, budget: float = 240.0, workers: int = 1
) -> Summary:
    """A run in this process, around real workers."""
    settings = load_settings(overrides=[*SETTINGS, *overrides])
    options = RunOptions(str(challenges), folder / "out", budget, settings=settings, model=model, started=time.monotonic())

    def executor(options: RunOptions, scratch: Path) -> Executor:
        config = WorkerConfig(options.settings, options.model, scratch)
        command = [sys.executable, str(HERE / "sabotaged_worker.py"), json.dumps(faults)]
        return LocalExecutor(config, options.out / "worker.log", workers, command=command)

    return run(options, SilentObserver(), executor)


def told(folder: Path) -> list[Event]:
    ledger = Ledger.read(folder / "out" / "run.db")
    events = ledger.events()
    ledger.close()
    return events


def statuses(folder: Path) -> list[str]:
    ledger = Ledger.read(folder / "out" / "run.db")
    found = list(ledger.statuses().values())
    ledger.close()
    return found


@pytest.mark.parametrize("where", ["fit", "decode", "score"])
def test_memory_that_runs_out_once_is_made_do_with(tmp_path: Path, challenges: Path, tiny_base: Path, where: str) -> None:
    summary = work(tmp_path, challenges, tiny_base, {"where": where, "what": "oom", "times": 1})
    assert summary.exit_code == 0
    assert set(statuses(tmp_path)) == {"complete"}
    found = [event for event in told(tmp_path) if event.kind == "out of memory"]
    assert len(found) == 1
    assert found[0].task.startswith("task")
    assert not {"worker lost", "retry"} & {event.kind for event in told(tmp_path)}
    assert_valid(tmp_path / "out", challenges)


@pytest.mark.parametrize("where", ["fit", "decode"])
def test_memory_that_runs_out_for_long_costs_a_task_at_most(
    tmp_path: Path, challenges: Path, tiny_base: Path, where: str
) -> None:
    summary = work(tmp_path, challenges, tiny_base, {"where": where, "what": "oom", "times": 6})
    assert summary.exit_code == 0
    assert statuses(tmp_path).count("complete") >= 3
    kinds = {event.kind for event in told(tmp_path)}
    assert "out of memory" in kinds
    assert {"fit stopped", "inference failed"} & kinds
    assert_valid(tmp_path / "out", challenges)


def test_a_loss_that_is_no_number(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    summary = work(tmp_path, challenges, tiny_base, {"where": "fit", "what": "nan", "times": 1})
    assert summary.exit_code == 0
    stopped = [event for event in told(tmp_path) if event.kind == "fit stopped"]
    assert len(stopped) == 1
    assert "nan" in stopped[0].detail
    assert statuses(tmp_path).count("complete") == 4  # answered by the base model
    assert_valid(tmp_path / "out", challenges)


def test_an_engine_that_does_not_start_is_replaced(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    summary = work(tmp_path, challenges, tiny_base, {"where": "engine"}, "train.trainer=lora", "train.rank=4")
    assert (summary.exit_code, summary.engine) == (0, "hf")
    (event,) = (event for event in told(tmp_path) if event.kind == "engine")
    assert event.detail.startswith("hf: vllm did not start: ")
    assert "no room for adapters of rank 4" in event.detail
    assert set(statuses(tmp_path)) == {"complete"}
    assert_valid(tmp_path / "out", challenges)


def test_an_engine_that_is_lost_in_the_middle_of_a_run_is_replaced(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    summary = work(tmp_path, challenges, tiny_base, {"where": "engine later"}, "train.trainer=lora", "train.rank=4")
    assert summary.engine == "hf"
    assert summary.exit_code == 0
    (event,) = (event for event in told(tmp_path) if event.kind == "engine")
    assert event.detail == "hf: vllm was lost: vLLM broke: sabotage"
    assert not {"worker lost", "retry", "skipped", "inference failed"} & {event.kind for event in told(tmp_path)}
    assert set(statuses(tmp_path)) == {"complete"}
    assert_valid(tmp_path / "out", challenges)


def test_a_worker_that_follows_one_in_which_vllm_broke_does_not_choose_vllm(
    tmp_path: Path, challenges: Path, tiny_base: Path
) -> None:
    faults = {"where": "engine later", "device": True}
    summary = work(tmp_path, challenges, tiny_base, faults, "train.trainer=lora", "train.rank=4")
    assert (summary.exit_code, summary.engine) == (0, "hf")
    kinds = Counter(event.kind for event in told(tmp_path))
    assert kinds["worker gives up"] == kinds["worker lost"] == kinds["retry"] == 1
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "engine_because vllm failed in an earlier worker of this run: vLLM broke: sabotage" in log
    assert set(statuses(tmp_path)) == {"complete"}
    assert_valid(tmp_path / "out", challenges)


def test_an_engine_that_was_asked_for_and_is_lost_gets_a_new_process(tmp_path: Path, tiny_base: Path) -> None:
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(2))
    wishes = ["infer.engine=vllm", "train.trainer=lora", "train.rank=4"]
    summary = work(tmp_path, challenges, tiny_base, {"where": "engine later"}, *wishes)
    assert summary.exit_code == 0
    kinds = Counter(event.kind for event in told(tmp_path))
    assert kinds["worker gives up"] == kinds["worker lost"] == kinds["retry"] == 1
    assert set(statuses(tmp_path)) == {"complete"}
    assert_valid(tmp_path / "out", challenges)


def test_an_engine_that_was_asked_for_and_does_not_start_ends_the_run(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    wishes = ["infer.engine=vllm", "train.trainer=lora", "train.rank=4"]
    summary = work(tmp_path, challenges, tiny_base, {"where": "engine"}, *wishes, budget=90.0)
    assert summary.exit_code == 1
    assert "infer.engine = vllm does not start: " in summary.reason
    assert "no room for adapters of rank 4" in summary.reason
    assert_valid(tmp_path / "out", challenges)


def test_two_workers_share_the_tasks_of_a_run(tmp_path: Path, tiny_base: Path) -> None:
    """By the command: `workers.per_device` of the processor."""
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(6))
    arguments = ["run", str(challenges), "--out", str(tmp_path / "out"), "--budget", "300s", "--model", str(tiny_base)]
    settings = [*FAST, "budget.policy=fixed", "model.device=cpu", "workers.per_device=2", "train.steps=6"]
    done = subprocess.run(
        [sys.executable, "-m", "solver", *arguments, *(part for setting in settings for part in ("--set", setting))],
        capture_output=True,
        text=True,
        timeout=320,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_valid(tmp_path / "out", challenges)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "worker 0 ready" in log
    assert "worker 1 ready" in log
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_of_two_workers_is_lost_and_the_run_goes_on(tmp_path: Path, tiny_base: Path, number: signal.Signals) -> None:
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(4))
    settings = load_settings(overrides=[*SETTINGS, "budget.heartbeat=10", "train.steps=40"])
    options = RunOptions(str(challenges), tmp_path / "out", 240.0, settings=settings, model=tiny_base, started=time.monotonic())
    made: list[LocalExecutor] = []

    class Assassin(SilentObserver):
        """Strikes worker 0 when the first task is done."""

        struck = False

        def note(self, line: str) -> None:
            if "wave 1:" in line and not self.struck:
                self.struck = True
                os.kill(made[0].pids()[0], number)

    def executor(options: RunOptions, scratch: Path) -> Executor:
        made.append(LocalExecutor(WorkerConfig(options.settings, options.model, scratch), options.out / "worker.log", 2))
        return made[0]

    summary = run(options, Assassin(), executor)
    assert summary.exit_code == 0
    assert set(statuses(tmp_path)) == {"complete"}
    kinds = Counter(event.kind for event in told(tmp_path))
    assert kinds["worker lost"] == 1
    assert_valid(tmp_path / "out", challenges)


@pytest.mark.parametrize("step", [-86400.0, 86400.0])
def test_a_wall_clock_that_is_set_does_not_move_the_end(
    tmp_path: Path, challenges: Path, tiny_base: Path, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    settings = load_settings(overrides=[*SETTINGS, "budget.policy=uniform", "budget.reserve=2"])
    options = RunOptions(
        str(challenges), tmp_path / "out", until=real() + 40.0, settings=settings, model=tiny_base, started=time.monotonic()
    )

    class Stepper(SilentObserver):
        def note(self, line: str) -> None:
            if "ready after" in line:
                shift[0] = step

    began = time.monotonic()
    summary = run(options, Stepper())
    assert shift[0] == step
    assert summary.exit_code == 0
    assert summary.done >= 1
    assert time.monotonic() - began < 41.0  # the promise, not a measurement
    (event,) = (event for event in told(tmp_path) if event.kind == "clock")
    assert ("back" if step < 0 else "forward") in event.detail
    assert_valid(tmp_path / "out", challenges)
