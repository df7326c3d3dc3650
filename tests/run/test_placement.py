"""Workers are placed one a device, see no other device, and are no more than memory allows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.config import load_settings
from solver.errors import InputError
from solver.report.observer import SilentObserver
from solver.run.pipeline import run
from solver.run.placement import IMPORTED, place, visible_gpus, weight_bytes
from solver.run.types import RunOptions

PLENTY = 10**12
FOUR = ("0", "1", "2", "3")


def devices(*overrides: str, gpus: tuple[str, ...] = FOUR, machine: str | None = None) -> list[str | None]:
    placement = place(load_settings(machine, None, overrides), gpus, 8, PLENTY, 0)
    return [environment.get("CUDA_VISIBLE_DEVICES") for environment in placement.environments]


def test_every_gpu_gets_a_worker_that_sees_it_alone() -> None:
    assert devices() == ["0", "1", "2", "3"]
    assert devices(machine="kaggle-l4x4") == ["0", "1", "2", "3"]
    assert devices(machine="kaggle-t4x2", gpus=("0", "1")) == ["0", "1"]
    assert devices(machine="kaggle-l4x4", gpus=("0", "1", "2")) == [
        "0",
        "1",
        "2",
    ]
    assert devices(machine="h200") == ["0"]
    assert place(load_settings(), FOUR, 8, PLENTY, 0).settings.model.device == "cuda:0"  # of those it sees


def test_a_named_gpu_is_used_alone() -> None:
    assert devices('model.device="cuda:2"') == ["2"]
    assert devices('model.device="cuda:1"', "workers.devices=2") == ["1", "2"]
    assert devices(gpus=("GPU-aa", "GPU-bb")) == ["GPU-aa", "GPU-bb"]


def test_several_workers_share_a_gpu() -> None:
    assert devices("workers.per_device=2", gpus=("0", "1")) == ["0", "1", "0", "1"]


def test_the_processor_is_one_device_with_all_cores() -> None:
    one = place(load_settings("cpu"), FOUR, 8, PLENTY, 0)
    assert one.environments == ({},)
    assert one.settings.model.threads == 0
    two = place(load_settings("cpu", None, ["workers.per_device=2"]), (), 8, PLENTY, 0)
    assert [environment["OMP_NUM_THREADS"] for environment in two.environments] == ["4", "4"]
    assert two.settings.model.threads == 4
    three = place(load_settings("cpu", None, ["workers.per_device=3", "model.threads=2"]), (), 2, PLENTY, 0)
    assert three.settings.model.threads == 2
    assert devices(gpus=()) == [None]


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [(["workers.devices=5"], FOUR), (["workers.devices=1"], ()), (["workers.devices=4", 'model.device="cuda:1"'], FOUR)],
)
def test_more_gpus_than_there_are(overrides: list[str], gpus: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"workers\.devices = \d"):
        devices(*overrides, gpus=gpus)


def test_memory_limits_workers_and_says_so() -> None:
    gigabyte = 10**9
    short = place(load_settings(None, None, ["workers.memory=10e9"]), FOUR, 8, 25 * gigabyte, 0)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in short.environments] == ["0", "1"]
    assert short.notes == ("host memory: 25.0 GB are free, a worker needs 10.0 GB: 2 of 4 workers are started",)
    none = place(load_settings("cpu"), (), 8, gigabyte, gigabyte)
    assert len(none.environments) == 1
    assert "may run out of memory" in none.notes[0]
    assert not place(load_settings("cpu"), (), 8, IMPORTED + 5 * gigabyte, gigabyte).notes


@given(st.integers(0, 8), st.integers(1, 4), st.integers(0, 2**40), st.integers(0, 2**36))
def test_there_is_always_a_worker_and_never_more_than_wanted(gpus: int, per_device: int, memory: int, weights: int) -> None:
    settings = load_settings(overrides=[f"workers.per_device={per_device}"])
    placement = place(settings, tuple(map(str, range(gpus))), 8, memory, weights)
    assert 1 <= len(placement.environments) <= per_device * max(1, gpus)


def test_gpus_are_found_without_cuda(tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}) == ("2", "3")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,-1,1"}) == ("0",)
    assert visible_gpus({}, tmp_path) == ()
    for number in range(2):
        (tmp_path / "proc/driver/nvidia/gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
    assert visible_gpus({}, tmp_path) == ("0", "1")


def test_weight_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "config.json").write_text("{}")
    assert weight_bytes(tmp_path) == 5


def test_more_gpus_than_there_are_end_a_run_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    settings = load_settings("kaggle-l4x4", None, ["workers.devices=4"])
    with pytest.raises(InputError, match=r"workers\.devices = 4 .*2 GPUs \(0, 1\)"):
        run(RunOptions("arc1:evaluation", tmp_path / "out", 60.0, settings=settings), SilentObserver())
    assert not (tmp_path / "out").exists()
