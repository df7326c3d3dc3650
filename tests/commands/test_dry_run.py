"""`solver dry-run`: a stratified sample through the real pipeline, then the whole set on paper."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from run_helpers import FAST, FAULTY_WORKER, assert_valid, make_tasks, write_challenges
from typer.testing import CliRunner

from solver.arc.datasets import TaskSet
from solver.cli import app
from solver.commands.dry_run import MAX_TASKS, DryRunOptions, dry_run, sample_size, stratified
from solver.config import load_settings
from solver.errors import InputError
from solver.messages import WorkerConfig
from solver.report.dry_run_table import DryRun, dry_run_view
from solver.report.observer import SilentObserver
from solver.run.executors.base import Executor
from solver.run.executors.local import LocalExecutor
from solver.run.types import RunOptions

TASKS = make_tasks(12)


def stand_in(options: RunOptions, scratch: Path) -> Executor:
    """A real worker process whose maths is a stand-in."""
    flags = options.out.parent / "flags"
    flags.mkdir(exist_ok=True)
    command = [sys.executable, str(FAULTY_WORKER), json.dumps({"flags": str(flags)})]
    return LocalExecutor(WorkerConfig(options.settings, options.model, scratch), options.out / "worker.log", command=command)


def dry(folder: Path, model: Path, cap: float = 20.0, budget: float = 3600.0, machine: str | None = None) -> DryRun:
    challenges = write_challenges(folder / "challenges.json", TASKS)
    options = RunOptions(str(challenges), folder / "out", budget, settings=load_settings(overrides=FAST), model=model)
    found, summary = dry_run(DryRunOptions(options, cap, machine), SilentObserver(), lambda _: None, stand_in)
    assert found is not None, summary
    return found


def view(found: DryRun) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(*dry_run_view(found))
    return capture.get()


@given(st.integers(1, 12), st.permutations(TASKS.tasks))
def test_the_sample_covers_all_sizes_whatever_their_order(count: int, tasks: list[object]) -> None:
    shuffled = TaskSet("shuffled", tuple(tasks))  # type: ignore[arg-type]
    ids = stratified(shuffled, count)
    assert len(set(ids)) == count
    assert ids == stratified(TASKS, count)
    sizes = [TASKS.by_id[id_].grid_tokens() for id_ in ids]
    assert sizes == sorted(sizes)


def test_a_sample_of_two_takes_a_short_and_a_long_task() -> None:
    ordered = sorted(TASKS, key=lambda task: (task.grid_tokens(), task.id))
    assert stratified(TASKS, 2) == [ordered[3].id, ordered[9].id]


@pytest.mark.parametrize(("cap", "tasks", "size"), [(1.0, 100, 3), (180.0, 100, 12), (1e6, 1000, MAX_TASKS), (180.0, 2, 2)])
def test_the_sample_grows_with_the_cap_up_to_the_set(cap: float, tasks: int, size: int) -> None:
    assert sample_size(cap, tasks) == size


def test_a_dry_run_measures_and_extrapolates(tmp_path: Path, tiny_base: Path) -> None:
    found = dry(tmp_path, tiny_base)
    assert not found.estimate
    assert (found.tasks, found.sample_tasks, found.workers) == (12, 3, 1)
    assert found.sample_seconds < 20.0
    assert {"fit", "infer"} <= set(found.phases)
    assert all(phase.used >= 0 for phase in found.phases.values())
    assert found.finish <= 3600.0
    assert found.steps >= 2
    assert found.untouched == ()
    assert_valid_sample(tmp_path / "out")
    assert "extrapolation from the sample" in view(found)
    assert "ESTIMATE" not in view(found)


def assert_valid_sample(out: Path) -> None:
    assert len(json.loads((out / "submission.json").read_text())) == 3


def test_on_another_machine_it_is_an_estimate_and_says_so(tmp_path: Path, tiny_base: Path) -> None:
    found = dry(tmp_path, tiny_base, machine="kaggle-l4x4")
    assert found.estimate
    assert (found.machine, found.workers) == ("NVIDIA L4", 4)
    assert "ratio of the profiles" in found.derivation
    assert json.loads(json.dumps(found.to_json()))["phases"]["fit"]["used"] >= 0
    assert "ESTIMATE, not measured there" in view(found)


def test_what_would_be_cut_is_named() -> None:
    found = DryRun(
        False, "", "cpu", 1, 3, 1.0, {}, 9, 60.0, 5.0, 58.0, True, 0.9, 1.0, 1.0, 1.0, 60, 8,
        tuple(f"long{place}" for place in range(8)), ("short",), {},
    )  # fmt: skip
    assert "8 (long0, long1, long2, long3, long4, long5 and 2 more) without a pass" in view(found)
    assert "1 (short) with less than one full pass" in view(found)
    assert "no task" in view(replace(found, untouched=()))


def test_a_cap_too_short_for_a_task_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(InputError, match="too short"):
        dry(tmp_path, tiny_base, cap=1.2)


def test_a_dry_run_needs_a_network(tmp_path: Path) -> None:
    options = RunOptions(str(write_challenges(tmp_path / "challenges.json", TASKS)), tmp_path / "out", 60.0)
    alone = replace(options, settings=load_settings(recipe="programs"))
    with pytest.raises(InputError, match="runs with a network"):
        dry_run(DryRunOptions(alone, 20.0), SilentObserver(), lambda _: None)
    assert not (tmp_path / "out").exists()


def test_an_unknown_machine_is_refused_before_anything_runs(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(InputError, match="abacus"):
        dry(tmp_path, tiny_base, machine="abacus")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_on_two_real_tasks(tmp_path: Path, tiny_base: Path) -> None:
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(2))
    wishes = [part for wish in [*FAST, "model.threads=1", "budget.policy=fixed"] for part in ("--set", wish)]
    out = tmp_path / "out"
    arguments = [
        "dry-run",
        str(challenges),
        "--cap",
        "45s",
        "--budget",
        "10m",
        "--model",
        str(tiny_base),
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(app, [*arguments, *wishes])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["tasks"], found["sample_tasks"], found["estimate"]) == (2, 2, False)
    assert found["phases"]["fit"]["used"] > 0
    assert found["finish"] <= 600
    assert_valid(out, challenges)
