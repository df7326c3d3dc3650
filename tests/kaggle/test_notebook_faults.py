"""The real notebook, run by a kernel in real processes, when something around it or in it fails."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from kaggle_machine import BROKEN, SECONDS, Machine
from rehearse import SOLVER, lay_out, rehearse

from offline_wheels.network import without_network

pytestmark = pytest.mark.slow

HANGING = 12  # seconds of a notebook whose solver hangs


def ended(machine: Machine) -> bool:
    """Whether all processes of hanging runs have ended."""
    pids = (machine.faults / "hanging").read_text().split()
    until = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() and not zombie(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def zombie(pid: str) -> bool:
    """Whether a process has ended but was not waited for: in a container nobody may be there to do so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# -- nothing fails


@pytest.mark.parametrize("by_kind", [True, False])
def test_inputs_are_found_in_every_layout(tmp_path: Path, by_kind: bool) -> None:
    machine = Machine(tmp_path)
    machine.place.by_kind = by_kind
    machine.attach_solver()
    model = machine.place.folder("models", "my-model") / "transformers/default/3"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    machine.solutions = {"aaaaaaaa": [[[1]]]}
    done = machine.run(MODEL="my-model", SETTINGS=["train.lr=1e-4"])
    machine.assert_good(done)
    assert machine.solved(done)
    assert "!!!" not in done.text
    assert "no wheels are attached" in done.text
    options = machine.options()
    assert options["--model"] == str(model)
    assert options["--machine"] == "cpu"
    assert options["--solutions"].endswith("solutions.json")
    argv = machine.calls("run")[0]["argv"]
    settings = [value for name, value in itertools.pairwise(argv) if name == "--set"]
    assert settings == ["input.on_bad_task=fallback", "train.lr=1e-4"]
    assert time.time() - 120 < float(options["--until"]) < time.time() + 30
    working = machine.place.working
    assert working not in Path(options["--out"]).parents
    assert working not in Path(options["--scratch"]).parents
    assert len(machine.calls("check")) == 1


def test_the_scored_rerun_has_all_the_time_but_the_reserve(machine: Machine) -> None:
    machine.solutions = {"aaaaaaaa": [[[1]]]}
    began = time.time()
    done = machine.run({"KAGGLE_IS_COMPETITION_RERUN": "1"})
    machine.assert_good(done)
    until = float(machine.options()["--until"])
    assert began + 10.5 * 3600 - 120 <= until <= time.time() + 10.5 * 3600 - 120
    assert "--solutions" not in machine.options()  # they are of other tasks, and the time is for the score


@pytest.mark.parametrize(("gpus", "preset"), [("cpu", "cpu"), ("t4", "kaggle-t4x2"), ("l4", "kaggle-l4x4"), ("broken", "cpu")])
def test_the_machine_is_found_with_or_without_gpu(machine: Machine, gpus: str, preset: str) -> None:
    machine.plan["machine"] = gpus
    done = machine.run()
    machine.assert_good(done)
    assert machine.solved(done)
    assert machine.options()["--machine"] == preset
    assert ("!!!" in done.text) == (gpus == "broken")


# -- data sets


@pytest.mark.parametrize("report", ["path", "nothing missing"])
def test_attached_wheels_come_before_the_packages_of_the_image(machine: Machine, report: str) -> None:
    machine.attach_wheels(error=None, **({} if report == "path" else {"path": None}))
    done = machine.run()
    machine.assert_good(done)
    assert "!!!" not in done.text
    for command in ("doctor", "run"):
        assert any(entry.endswith("/wheels") for entry in machine.calls(command)[0]["path"]) == (report == "path")


@pytest.mark.parametrize(
    "report",
    [
        {"error": "wheels for Python 3.11, and this is Python 3.12: attach a data set that was built for it"},
        {"error": "numpy-2.0.2-cp312.whl is truncated: upload the data set again"},
        {"error": "numpy-2.0.2-cp312.whl has another sha256 than manifest.json: upload the data set again"},
        {"error": None, "hangs": True},
    ],
    ids=["wrong Python", "truncated wheel", "wrong hash", "hangs"],
)
def test_wheels_that_cannot_be_used_are_named_and_passed_over(machine: Machine, report: dict[str, Any]) -> None:
    machine.attach_wheels(**report)
    seconds = HANGING if "hangs" in report else SECONDS
    done = machine.run(FIRST_RUN=seconds)
    machine.assert_good(done, seconds)
    assert machine.solved(done)
    assert (report["error"] or "ended by the notebook") in done.text
    assert not any(entry.endswith("/wheels") for entry in machine.calls("run")[0]["path"])


def test_a_vllm_that_cannot_be_imported_is_left_out(machine: Machine) -> None:
    machine.attach_wheels(vllm="raise ImportError('libcudart.so.13: cannot open shared object file')", error=None)
    machine.plan["runs"] = ["import vllm"]
    done = machine.run(SETTINGS=["infer.engine=vllm"])
    machine.assert_good(done)
    assert machine.solved(done)
    assert "libcudart.so.13" in done.text
    assert "infer.engine=vllm" in machine.calls("run")[0]["argv"]
    assert "infer.engine=vllm" not in machine.calls("run")[1]["argv"]
    assert machine.options(0)["--out"] != machine.options(1)["--out"]  # other settings: not the same run


@pytest.mark.parametrize("fault", ["not attached", "truncated"])
def test_without_a_solver_the_fallback_answers_stay(tmp_path: Path, fault: str) -> None:
    machine = Machine(tmp_path)
    if fault == "truncated":
        wheel = machine.attach_solver(padding=10_000)
        wheel.write_bytes(wheel.read_bytes()[:5000])
    done = machine.run()
    machine.assert_good(done)
    assert done.submission["aaaaaaaa"] == [{"attempt_1": [[1, 2], [3, 4]], "attempt_2": [[4, 3], [2, 1]]}]
    assert f"attach the data set {SOLVER}" in done.text
    assert ("is damaged" in done.text) == (fault == "truncated")


def test_a_source_folder_serves_as_well_as_a_wheel(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    package = machine.place.folder("datasets", SOLVER) / "solver"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text((Path(__file__).parent / "stand_in.py").read_text())
    done = machine.run()
    machine.assert_good(done)
    assert machine.solved(done)


# -- disks

SMALL_DISKS = {
    "file size": ["ulimit -f 64"],
    "tmpfs": ["mount -t tmpfs -o size=64k tmpfs {root}/tmp", "mount -t tmpfs -o size=64k tmpfs {root}/kaggle/working"],
}


@pytest.mark.parametrize("disk", SMALL_DISKS)
def test_on_a_full_disk_the_fallback_answers_stay(tmp_path: Path, disk: str) -> None:
    if disk == "tmpfs" and not without_network(mounts=True):
        pytest.skip("mounts are not permitted here")
    machine = Machine(tmp_path)
    machine.place.setup = [command.format(root=machine.place.root) for command in SMALL_DISKS[disk]]
    machine.attach_solver(padding=1_000_000)
    done = machine.run()
    assert done.error == "", done.text
    assert "the disk is full" in done.text
    assert "is complete and valid: 0 of 2 tasks" in done.text
    if disk == "file size":  # what is on the other disks was seen by the notebook alone
        machine.assert_good(done)


def test_the_input_may_be_read_only(machine: Machine) -> None:
    if not without_network(mounts=True):
        pytest.skip("mounts are not permitted here")
    folder = machine.place.root / "kaggle/input"
    machine.place.setup = [f"mount --bind {folder} {folder}", f"mount -o remount,ro,bind {folder}", f"! touch {folder}/x"]
    machine.attach_wheels(error=None)
    done = machine.run()
    machine.assert_good(done)
    assert machine.solved(done)
    assert "!!!" not in done.text


# -- the solver


def test_a_solver_that_crashes_at_the_start_is_tried_with_less(machine: Machine) -> None:
    machine.plan = {"machine": "l4", "runs": ["crash", "crash"]}
    done = machine.run(SETTINGS=["train.lr=1e-4"])
    machine.assert_good(done)
    assert machine.solved(done)
    assert [machine.options(number)["--machine"] for number in range(3)] == ["kaggle-l4x4", "kaggle-l4x4", "cpu"]
    assert "RuntimeError: crashed at the start" in done.text


def test_a_solver_that_always_crashes_costs_its_answers_alone(machine: Machine) -> None:
    machine.plan["runs"] = ["crash"] * 9
    done = machine.run()
    machine.assert_good(done)
    assert len(machine.calls("run")) == 3
    assert not machine.solved(done)
    assert "!!!" in done.text.splitlines()[-1]


def test_a_killed_solver_is_resumed_and_its_answers_are_kept(machine: Machine) -> None:
    machine.plan["runs"] = ["killed"] * 9
    done = machine.run()
    machine.assert_good(done)
    assert machine.solved(done)
    assert len({machine.options(number)["--out"] for number in range(3)}) == 1
    assert "exit code -9" in done.text


def test_a_solver_that_hangs_at_the_start_is_ended_and_tried_again(machine: Machine) -> None:
    machine.plan["runs"] = ["hang"]
    done = machine.run(FIRST_RUN=HANGING)
    machine.assert_good(done, HANGING)
    assert machine.solved(done)
    assert ended(machine)


def test_answers_of_a_hanging_solver_are_kept(machine: Machine) -> None:
    machine.plan["runs"] = ["hang after answers"] * 9
    done = machine.run(FIRST_RUN=HANGING)
    machine.assert_good(done, HANGING)
    assert machine.solved(done)
    assert ended(machine)
    assert "printed nothing" in done.text


def test_an_invalid_submission_of_the_solver_is_not_taken(machine: Machine) -> None:
    machine.plan["runs"] = ["invalid"]
    done = machine.run()
    machine.assert_good(done)
    assert not machine.solved(done)
    assert "the solver's submission is not valid" in done.text


@pytest.mark.parametrize("does", ["refuses", "crashes"])
def test_the_last_check_counts_only_if_it_names_defects(machine: Machine, does: str) -> None:
    machine.plan["check"] = does
    done = machine.run()
    machine.assert_good(done)
    assert machine.solved(done) == (does == "crashes")
    assert ("solver check names defects" if does == "refuses" else "the check crashed") in done.text


def test_the_output_folder_is_tidied(machine: Machine) -> None:
    machine.plan["runs"] = ["litter"]
    machine.place.prepare()
    for name in ("__notebook__.ipynb", "before.txt"):  # not ours
        (machine.place.working / name).write_text("")
    done = machine.run()
    assert done.left == ["__notebook__.ipynb", "before.txt", "logs", "submission.json"]
    assert "removed from the output folder: left.whl" in done.text
    assert sorted(path.name for path in (done.working / "logs").iterdir()) == ["check.txt", "doctor.txt", "run.txt"]


# -- the challenges


def test_missing_challenges_are_a_clear_failure(machine: Machine) -> None:
    lay_out(machine.place, machine.challenges, {}, {})
    for path in (machine.place.root / "kaggle/input").rglob("*test_challenges*"):
        path.rename(path.with_name("arc-agi_training_challenges.json"))
    done = rehearse(machine.place, {}, seconds=SECONDS)
    assert done.error.startswith("FileNotFoundError: no *test_challenges*.json below")
    assert "arc-agi_training_challenges.json" in done.error
    assert done.left == []


def test_broken_tasks_and_unknown_fields_get_answers_too(machine: Machine) -> None:
    machine.challenges |= BROKEN
    machine.challenges["aaaaaaaa"] |= {"name": "a name", "difficulty": {"level": 3}}
    machine.challenges["aaaaaaaa"]["test"][0]["output"] = None
    machine.solutions = {"cccccccc": [[[1]]]}  # of another task
    done = machine.run()
    machine.assert_good(done)
    assert done.submission.keys() == machine.challenges.keys()
    assert "--solutions" not in machine.options()


def test_what_runs_of_their_own_found_is_put_together(machine: Machine) -> None:
    """A run with other settings comes after one that was killed: the answers of both count, the first one's first."""
    machine.plan["runs"] = ["killed"] * 3
    done = machine.run(SETTINGS=["train.lr=1e-4"])
    machine.assert_good(done)
    assert machine.solved(done)
    assert len({machine.options(number)["--out"] for number in range(4)}) == 2
