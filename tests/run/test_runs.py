"""Whole runs with real processes: faults, kills, signals, disks and resumption. The worker's maths is a stand-in."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_helpers import FAST, assert_valid, assert_worked, command, make_tasks, run_it, worked, write_challenges, write_solutions

from solver.arc.datasets import TaskSet
from solver.arc.submission import load_submission
from solver.child_process import start_child
from solver.errors import InputError
from solver.report.observer import SilentObserver
from solver.run.ledger import Ledger
from solver.run.pipeline import run
from solver.run.supervisor import MAX_FAILED_STARTS
from solver.run.types import RunOptions

TASKS = make_tasks(3)


@pytest.fixture
def challenges(tmp_path: Path) -> Path:
    return write_challenges(tmp_path / "challenges.json", TASKS)


def events(out: Path) -> Counter[str]:
    return Counter(event.kind for event in Ledger.read(out / "run.db").events())


def told(out: Path, kind: str) -> list[str]:
    """What events of a kind say."""
    return [event.detail for event in Ledger.read(out / "run.db").events() if event.kind == kind]


def children_gone(out: Path, patience: float = 10.0) -> bool:
    """Whether no worker of this run is left, after a while at most."""
    for _ in range(int(patience / 0.1)):
        left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if _belongs(p, out)]
        if not left:
            return True
        time.sleep(0.1)
    return False


def _belongs(cmdline: Path, out: Path) -> bool:
    try:
        return b"faulty_worker.py" in (text := cmdline.read_bytes()) and str(out.parent).encode() in text
    except OSError:
        return False


def test_a_run_solves_scores_and_reports(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    solutions = write_solutions(tmp_path / "solutions.json", TASKS)
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), solutions=str(solutions))
    assert done.returncode == 0, done.stderr + done.stdout
    out = tmp_path / "out"
    assert_valid(out, challenges)
    # the stand-in answers every query with its own input, and so it gets all of these right
    submission = load_submission(out / "submission.json")
    for task in TASKS:
        assert (submission[task.id][0][0] == task.test[0].input).all()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tasks"] == summary["done"] == 3
    assert summary["trainer"] == "fake"
    assert summary["agreement"] == 1.0
    assert summary["scores"]["per_prediction"]["total"] == 3
    assert {"fit", "infer", "score", "load", "load: imports", "load: engine", "total"} <= set(summary["phases"])
    assert summary["steps"] == 6
    assert "task000 wave 1: complete" in (out / "log.txt").read_text()
    assert sorted(worked(tmp_path)) == [f"task00{i} 0 0" for i in range(3)]
    assert children_gone(out)


def test_the_same_command_again_repeats_nothing(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec: dict[str, Any] = {"challenges": str(challenges), "model": str(tiny_base)}
    run_it(tmp_path, {}, **spec)
    first = (tmp_path / "out" / "submission.json").read_bytes()
    again = run_it(tmp_path, {}, **spec)
    assert again.returncode == 0
    assert len(worked(tmp_path)) == 3
    assert (tmp_path / "out" / "submission.json").read_bytes() == first


@pytest.mark.parametrize(("fault", "tries"), [("crash", 2), ("exit", 2), ("raise", 4)])
def test_a_task_that_fails_is_tried_smaller_and_then_skipped(
    tmp_path: Path, challenges: Path, tiny_base: Path, fault: str, tries: int
) -> None:
    """Two lost workers are enough; a failure that the worker survives is tried until batch, views and context were halved."""
    done = run_it(tmp_path, {"task001": fault}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 0, done.stderr + done.stdout
    assert [line for line in worked(tmp_path) if line.startswith("task001")] == [f"task001 0 {n}" for n in range(tries)]
    found = events(tmp_path / "out")
    assert found["retry"] == tries - 1
    assert found["skipped"] == 1
    assert_valid(tmp_path / "out", challenges)
    assert Ledger.read(tmp_path / "out" / "run.db").statuses() == {
        "task000": "complete",
        "task001": "skipped",
        "task002": "complete",
    }


def test_a_process_that_is_of_no_more_use_is_replaced_and_the_task_done_by_the_next(
    tmp_path: Path, challenges: Path, tiny_base: Path
) -> None:
    done = run_it(tmp_path, {"task001": "broken-once"}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 0
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}
    kinds = events(tmp_path / "out")
    assert (kinds["worker gives up"], kinds["worker lost"], kinds["retry"]) == (1, 1, 1)


def test_a_task_that_fails_once_is_done_the_second_time(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    done = run_it(tmp_path, {"task001": "crash-once"}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 0
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}
    assert events(tmp_path / "out")["worker lost"] == 1


@pytest.mark.parametrize(
    ("fault", "setting"), [("stop-once", "budget.heartbeat=3"), ("hang-once", "budget.grace=0.5")], ids=["stopped", "hanging"]
)
def test_a_worker_that_says_nothing_or_never_ends_is_killed(
    tmp_path: Path, challenges: Path, tiny_base: Path, fault: str, setting: str
) -> None:
    spec = {"set": [*FAST, setting], "budget": 60.0}
    if fault == "hang-once":
        spec = {"set": [*FAST, setting], "budget": 25.0}
    done = run_it(tmp_path, {"task000": fault}, challenges=str(challenges), model=str(tiny_base), **spec)
    assert done.returncode == 0, done.stderr + done.stdout
    assert events(tmp_path / "out")["worker lost"] == 1
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}


def test_a_worker_that_cannot_start(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    done = run_it(tmp_path, {"*": "raise"}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 1
    said = "no worker could be started: MemoryError: out of memory"
    assert f"end: {said}; {tmp_path / 'out' / 'submission.json'} holds only fallback answers" in done.stdout
    assert_valid(tmp_path / "out", challenges)
    assert events(tmp_path / "out")["start failed"] >= MAX_FAILED_STARTS
    again = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base))  # once what was wrong is put right
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(Ledger.read(tmp_path / "out" / "run.db").statuses().values()) == {"complete"}


@pytest.mark.parametrize(("fault", "event"), [("crash-once", "worker lost"), ("raise-once", "start failed")])
def test_a_worker_that_starts_the_second_time(tmp_path: Path, challenges: Path, tiny_base: Path, fault: str, event: str) -> None:
    done = run_it(tmp_path, {"*": fault}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 0
    assert len(worked(tmp_path)) == 3
    assert events(tmp_path / "out")[event] == 1


def test_a_model_the_worker_refuses(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    done = run_it(tmp_path, {"*": "refuse"}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 2
    assert done.stderr == "solver: model/config.json: no good\n"
    assert_valid(tmp_path / "out", challenges)


def test_a_budget_too_short_to_start(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"set": [*FAST, "budget.reserve=30"]}
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), **spec)
    assert done.returncode == 2
    assert "too short to start a model" in done.stderr
    assert_valid(tmp_path / "out", challenges)


@pytest.mark.parametrize("until", [float("nan"), float("inf"), 1e3 * 1.9e9])  # the last one in milliseconds
def test_an_end_that_is_no_time_is_refused(tmp_path: Path, challenges: Path, tiny_base: Path, until: float) -> None:
    options = RunOptions(str(challenges), tmp_path / "out", until=until, model=tiny_base)
    with pytest.raises(InputError, match="--until"):
        run(options, SilentObserver())


def test_hung_for_good_the_run_ends_in_time_and_keeps_what_it_had(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    began = time.monotonic()
    spec = {"set": [*FAST, "budget.reserve=4", "budget.policy=fixed"], "budget": 15.0}
    done = run_it(tmp_path, {"task001": "hang"}, challenges=str(challenges), model=str(tiny_base), **spec)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr + done.stdout
    assert seconds < 15.0  # the promise, not a measurement
    assert Ledger.read(tmp_path / "out" / "run.db").statuses()["task000"] == "complete"
    assert events(tmp_path / "out")["broken off"] == 1
    assert children_gone(tmp_path / "out")


@pytest.mark.parametrize(
    ("hang", "number"), [("worker 0 ready", None), ("worker 0 ready", signal.SIGTERM), ("the summary", None)]
)
def test_a_process_that_hangs_ends_in_time_all_the_same(
    tmp_path: Path, challenges: Path, tiny_base: Path, hang: str, number: signal.Signals | None
) -> None:
    budget = 6.0 if number is None else 60.0
    spec = {"challenges": str(challenges), "model": str(tiny_base), "budget": budget, "hang": hang}
    began = time.monotonic()
    process = subprocess.Popen(command(tmp_path, {}, spec), stdout=subprocess.PIPE, text=True)
    if number is not None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("worker 0 ready"):
                break
        began, budget = time.monotonic(), 5.0
        process.send_signal(number)
    code = process.wait(timeout=30)
    assert time.monotonic() - began < budget  # the promise, not a measurement
    assert code == (1 if number is None else 128 + number)
    assert_valid(tmp_path / "out", challenges)
    assert children_gone(tmp_path / "out")
    assert "the watchdog ended it" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_run_cleanly(tmp_path: Path, challenges: Path, tiny_base: Path, number: signal.Signals) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    process = subprocess.Popen(command(tmp_path, {"task001": "hang"}, spec), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("task000 wave 1"):
            break
    process.send_signal(number)
    assert process.wait(timeout=5) == 128 + number
    out = tmp_path / "out"
    assert_valid(out, challenges)
    assert children_gone(out)
    assert not (out / "run.db-wal").exists()  # the ledger was closed
    assert json.loads((out / "summary.json").read_text())["exit_code"] == 128 + number
    assert told(out, "end") == [f"stopped by {number.name}"]
    done = run_it(tmp_path, {}, **spec)
    assert done.returncode == 0
    assert "the one before it came to its end" in told(out, "resumed")[0]
    assert Counter(line.split()[0] for line in worked(tmp_path))["task000"] == 1


def test_adapters_that_a_signal_left_unused_wait_for_the_resumption(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    process = subprocess.Popen(command(tmp_path, {"answer": 2.0}, spec), stdout=subprocess.DEVNULL)
    while not (adapters := list((tmp_path / "temporary").glob("solver-*/*"))):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=5)
    assert adapters[0].is_dir()
    assert events(tmp_path / "out")["broken off"] == 1
    assert f"the adapters stay in {adapters[0].parent}" in (tmp_path / "out" / "log.txt").read_text()
    assert run_it(tmp_path, {}, **spec).returncode == 0
    assert not adapters[0].parent.exists()  # found by the ledger, and removed as nothing needs it any more


def kill_and_resume(folder: Path, tasks: TaskSet, model: Path, kills: int, seed: int) -> None:
    """Kill the process at random moments; after each the file is valid, finished tasks stay finished, and in the end all are.

    Half of the moments are counted from the start of the process. The other half fall within the first fit, which lasts longer
    than they wait, and the first process has no time for all tasks: at least one kill interrupts a fit on a machine of any speed.
    """
    challenges = write_challenges(folder / "challenges.json", tasks)
    out = folder / "out"
    spec = {"challenges": str(challenges), "model": str(model), "budget": 120.0}
    rng = random.Random(seed)
    finished: set[str] = set()
    for kill in range(kills):
        before = len(worked(folder))
        process = subprocess.Popen(
            command(folder, {"step": 0.3, "answer": 0.02}, spec), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if kill % 2:
            while len(worked(folder)) == before and process.poll() is None:
                time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.5) if kill % 2 else rng.uniform(0.1, 2.0))
        process.kill()
        process.communicate()
        assert children_gone(out)
        if (out / "submission.json").exists():
            assert_valid(out, challenges)
        assert not finished & {line.split()[0] for line in worked(folder)[before:]}
        if (out / "run.db").exists() and (out / "run.db").stat().st_size:
            statuses = Ledger.read(out / "run.db").statuses() if (out / "submission.json").exists() else {}
            assert finished <= {id_ for id_, status in statuses.items() if status == "complete"}
            finished = {id_ for id_, status in statuses.items() if status == "complete"}
    before = len(worked(folder))
    done = run_it(folder, {}, **spec)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not finished & {line.split()[0] for line in worked(folder)[before:]}
    assert set(Ledger.read(out / "run.db").statuses().values()) == {"complete"}
    submission = load_submission(out / "submission.json")
    assert all((submission[task.id][0][0] == task.test[0].input).all() for task in tasks)
    assert any("was broken off" in detail for detail in told(out, "resumed"))


def test_kill_and_resume(tmp_path: Path, tiny_base: Path) -> None:
    kill_and_resume(tmp_path, make_tasks(6), tiny_base, kills=2, seed=1)


@pytest.mark.slow
def test_kill_eight_times_and_resume(tmp_path: Path, tiny_base: Path) -> None:
    kill_and_resume(tmp_path, make_tasks(8), tiny_base, kills=8, seed=2)


@pytest.mark.soak
def test_kill_fifty_times_and_resume(tmp_path: Path, tiny_base: Path) -> None:
    kill_and_resume(tmp_path, make_tasks(40), tiny_base, kills=50, seed=2)


def test_another_task_set_is_refused_and_nothing_overwritten(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base))
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    other = write_challenges(tmp_path / "other.json", make_tasks(2, tests=2))
    done = run_it(tmp_path, {}, challenges=str(other), model=str(tiny_base))
    assert done.returncode == 2
    assert "another task set" in done.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_another_seed_recipe_or_setting_is_refused(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    run_it(tmp_path, {}, **spec)
    for change, said in [
        ({"set": [*FAST, "seed=5"]}, "seed 0, now 5"),
        ({"recipe": "mit"}, "recipe default, now mit"),
        ({"set": [*FAST, "train.lr=0.5"]}, "train.lr"),
    ]:
        done = run_it(tmp_path, {}, **{**spec, **change})
        assert done.returncode == 2
        assert said in done.stderr
    done = run_it(tmp_path, {}, **{**spec, "set": [*FAST, "budget.grace=3", "model.threads=1"], "budget": 40.0})
    assert done.returncode == 0


def test_a_submission_of_unknown_origin_is_left_alone(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "submission.json").write_text("{}")
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base))
    assert done.returncode == 2
    assert (tmp_path / "out" / "submission.json").read_text() == "{}"


def test_two_runs_do_not_share_a_folder(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    first = subprocess.Popen(command(tmp_path, {"task000": "hang"}, spec), stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()
    second = run_it(tmp_path, {}, **spec)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "another run is using it" in second.stderr


def test_an_output_folder_that_cannot_be(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), out=str(tmp_path / "file" / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("solver: --out ")


def test_a_bad_task_gets_a_fallback_answer_if_asked_for(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    value = json.loads(challenges.read_text())
    value["broken"] = {"train": [], "test": [{"input": [[1]]}, {"input": [[11]]}]}
    challenges.write_text(json.dumps(value))
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    refused = run_it(tmp_path, {}, **spec)
    assert refused.returncode == 2
    assert "broken" in refused.stderr
    assert not (tmp_path / "out").exists()
    done = run_it(tmp_path, {}, **{**spec, "set": [*FAST, "input.on_bad_task=fallback"]})
    assert done.returncode == 0, done.stderr
    assert len(load_submission(tmp_path / "out" / "submission.json")["broken"]) == 2
    assert events(tmp_path / "out")["bad task"] == 1


def test_adapters_are_removed_or_kept(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    for name, keep in (("a", False), ("b", True)):
        scratch = tmp_path / f"scratch-{name}"
        run_it(tmp_path, {}, out=str(tmp_path / name), scratch=str(scratch), keep_adapters=keep, **spec)
        left = list(scratch.iterdir())  # of the run's own folder
        assert len(left) == keep
        assert [len(list(folder.iterdir())) for folder in left] == [3] * keep


def test_runs_do_not_mix_adapters_in_one_scratch(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base), "scratch": str(tmp_path / "scratch"), "keep_adapters": True}
    for name in ("a", "b"):
        assert run_it(tmp_path, {}, out=str(tmp_path / name), **spec).returncode == 0
    adapters = [
        {outcome.fit.adapter.path for outcome in Ledger.read(tmp_path / name / "run.db").outcomes() if outcome.fit.adapter}  # type: ignore[union-attr]
        for name in ("a", "b")
    ]
    assert len(adapters[0]) == len(adapters[1]) == 3
    assert not adapters[0] & adapters[1]
    assert all(path.is_dir() for paths in adapters for path in paths)


def kill_after_first_task(arguments: list[str]) -> None:
    """Start a run, and kill -9 it once task000 has had its pass."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("task000 wave 1"):
            break
    process.kill()
    process.communicate()


def test_a_stopped_run_finds_its_folder_in_a_scratch_again(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    scratch = tmp_path / "scratch"
    spec = {"challenges": str(challenges), "model": str(tiny_base), "scratch": str(scratch)}
    kill_after_first_task(command(tmp_path, {"task001": "hang"}, spec))
    (left,) = scratch.iterdir()
    assert run_it(tmp_path, {}, **{**spec, "keep_adapters": True}).returncode == 0
    assert list(scratch.iterdir()) == [left]
    assert len(list(left.iterdir())) >= 2


def test_every_worker_dies_with_its_supervisor(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base)}
    kill_after_first_task(command(tmp_path, {"task001": "stop"}, spec))
    assert children_gone(tmp_path / "out")


def test_a_shared_adapter_is_fitted_once_and_used_by_all(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    spec = {"challenges": str(challenges), "model": str(tiny_base), "set": [*FAST, "train.shared=true"]}
    done = run_it(tmp_path, {}, **spec)
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = Ledger.read(tmp_path / "out" / "run.db")
    fit = ledger.shared_fit()
    assert fit is not None
    assert fit.adapter is not None
    assert fit.steps == 6  # two for each task
    adapters = {c.adapter for outcome in ledger.outcomes() for query in outcome.queries for c in query.candidates}
    assert adapters == {fit.adapter.id}


def test_the_answers_of_400_tasks_are_on_disk_before_a_worker_exists(tmp_path: Path, tiny_base: Path) -> None:
    tasks = make_tasks(400, tests=2)
    challenges = write_challenges(tmp_path / "challenges.json", tasks)
    done = run_it(tmp_path, {"*": "raise"}, challenges=str(challenges), model=str(tiny_base))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("400 tasks; a valid submission is in")
    assert_valid(tmp_path / "out", challenges)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of so many bytes."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path) -> None:
    """With whatever room is left."""
    with file.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while opened.write(b"x" * 1024):
            pass


def test_a_full_disk(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    with small_disk(tmp_path / "small", "600k") as out:
        filler = out / "filler"
        spec = {"challenges": str(challenges), "model": str(tiny_base), "out": str(out)}
        process = subprocess.Popen(
            command(tmp_path, {"step": 0.2}, spec), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        fill(filler)  # from now on nothing fits
        text, error = process.communicate(timeout=60)
        assert process.returncode == 0, text + error
        assert "cannot write" in text
        assert_valid(out, challenges)
        filler.unlink()
        done = run_it(tmp_path, {}, **spec)
        assert done.returncode == 0
        assert_valid(out, challenges)
        assert set(Ledger.read(out / "run.db").statuses().values()) == {"complete"}


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    """What it refused is written when it takes something again, and the ledger tells."""
    with small_disk(tmp_path / "small", "600k") as out:
        spec = {"challenges": str(challenges), "model": str(tiny_base), "out": str(out)}
        process = subprocess.Popen(command(tmp_path, {"step": 0.2, "answer": 0.1}, spec), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:  # work has begun: what comes first is refused with another line
            if ": complete" in line:
                break
        fill(out / "filler")
        for line in process.stdout:
            if "cannot write" in line:
                break
        (out / "filler").unlink()
        assert process.wait(timeout=60) == 0
        assert_valid(out, challenges)
        assert set(Ledger.read(out / "run.db").statuses().values()) == {"complete"}
        assert events(out)["disk"] >= 1
        submission = load_submission(out / "submission.json")
        assert all((submission[task.id][0][0] == task.test[0].input).all() for task in TASKS)


def test_a_disk_full_from_the_start(tmp_path: Path, challenges: Path, tiny_base: Path) -> None:
    with small_disk(tmp_path / "small", "8k") as out:
        done = run_it(tmp_path, {}, challenges=str(challenges), model=str(tiny_base), out=str(out))
        assert done.returncode == 2
        assert done.stderr.startswith("solver: ")
        assert str(out) in done.stderr


@pytest.mark.slow
def test_with_the_real_worker(tmp_path: Path, tiny_base: Path) -> None:
    """The installed command, a real (untrained) model, real fits and real inference."""
    tasks = make_tasks(2)
    challenges = write_challenges(tmp_path / "challenges.json", tasks)
    arguments = ["run", str(challenges), "--out", str(tmp_path / "out"), "--budget", "300s", "--model", str(tiny_base)]
    settings = [*FAST, "budget.policy=fixed", "infer.permutations=1"]
    done = subprocess.run(
        [sys.executable, "-m", "solver", *arguments, *(part for setting in settings for part in ("--set", setting))],
        capture_output=True,
        text=True,
        timeout=320,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_valid(tmp_path / "out", challenges)
    ledger = Ledger.read(tmp_path / "out" / "run.db")
    assert_worked(ledger, steps=2)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["trained_rate"] > 0
    assert summary["peak_memory_worker"] > 0


@pytest.mark.parametrize("cores", [1, 2])
def test_workers_start_while_tasks_are_read_and_end_with_bad_ones(
    cores: int, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **named: Any) -> Any:
        process, line = start_child(*arguments, **named)
        started.append(process)
        return process, line

    monkeypatch.setattr("solver.run.executors.local.start_child", start)
    monkeypatch.setattr("solver.run.pipeline.cores", lambda: cores)
    options = RunOptions(challenges=str(tmp_path / "nowhere.json"), out=tmp_path / "out", budget=60.0, model=tiny_base)
    with pytest.raises(InputError, match="nowhere"):
        run(options, SilentObserver())
    assert len(started) == (1 if cores > 1 else 0)
    assert all(process.poll() is not None for process in started)
    assert not (tmp_path / "out").exists()
