"""The benchmarks that `.ci/gpu/run.sh` runs, tried without a CUDA device."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / ".ci" / "gpu"))

import bench_fit
from half_billion import write

from solver.config import ModelSettings
from solver.errors import InputError
from solver.model.build import Shape
from solver.model.dtype import fastest_dtype, pick_dtype
from solver.model.load import Base, load_base


@pytest.mark.parametrize(("name", "described"), [("lora", False), ("unsloth", True)])
def test_only_one_process_loads_the_weights(
    name: str, described: bool, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Base] = []

    def trainer(base: Base, *_: Any) -> Any:
        given.append(base)
        raise InputError("seen")

    monkeypatch.setitem(bench_fit.TRAINERS, name, trainer)
    args = argparse.Namespace(device="cpu", rank=4, tokens=32, steps=1)
    row = bench_fit.measure(tiny_base, ModelSettings(dtype="float32", device="cpu"), False, name, args, tmp_path)
    assert row.startswith("float32 | seen")
    assert [base.load is not None for base in given] == [described]


def test_the_kinds_of_base_that_runs_use_come_first() -> None:
    assert bench_fit.ON_CUDA[:2] == (("auto", "nf4", True), ("auto", "none", False))
    assert len(set(bench_fit.ON_CUDA)) == 4


def test_the_model_is_written_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", Shape(hidden=32, layers=1, heads=2, ffn=64))
    first = load_base(folder, ModelSettings(device="cpu")).parameters
    assert load_base(write(folder), ModelSettings(device="cpu")).parameters == first


def test_vllm_is_measured_in_a_dtype_in_which_it_serves_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    settings = importlib.import_module("bench_vllm").model_settings
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    fastest_dtype.cache_clear()
    try:
        assert pick_dtype(settings("cuda:0"), torch.device("cuda:0")) is torch.float16
    finally:
        fastest_dtype.cache_clear()
    assert pick_dtype(settings("cpu"), torch.device("cpu")) is torch.float32


def test_a_table_compares_stacks_with_one_task_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    rates = {1: (4.0, 1000, 0.5, ""), 64: (2.0, 6000, 9.0, "compiler: fits go on without it: no toolchain")}

    class Here:
        """Instead of a process."""

        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, function: Any, *arguments: Any) -> Any:
            return argparse.Namespace(result=lambda: function(*arguments))

    monkeypatch.setattr(bench_fit, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(bench_fit, "measure_stack", lambda stack, *_: rates[stack])
    args = argparse.Namespace(tasks=64, steps=2, batch_tokens=1024, stacks=[1, 64])
    bench_fit.stack_table(args, False, tmp_path, lambda *more: lines.extend(more))
    assert lines[-3].startswith("| 64 | plain | 2.00 | 3,000 | 12.0x | 9.0 | compiler:")
    assert lines[-1] == "bar: 10x one after another; the fastest row has 12.0x: met"


def test_all_stacks_fit_the_same_steps(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_fit, "EMBEDDED", tiny_base)
    measured = []
    for stack in (1, 2):
        args = argparse.Namespace(device="cpu", batch_tokens=1024, tasks=2, steps=1)
        measured.append(bench_fit.measure_stack(stack, False, args, tmp_path / str(stack)))
    assert measured[0][1] == measured[1][1] > 0
    assert measured[0][3] == measured[1][3] == ""


def test_the_table_of_decoders(tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    bench = importlib.import_module("bench_decode")
    monkeypatch.setattr(bench, "AT_ROWS", 4)
    sizes = ["--rows", "4", "--adapters", "0", "2", "--new", "3", "--rank", "2", "--batch-tokens", "8192"]
    bench.main(["--device", "cpu", "--model", str(tiny_base), *sizes])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith(("| sample", "| search"))]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        (f"| {mode}", count, decoder) for mode in ("sample", "search") for count in "02" for decoder in ("static", "growing")
    ]
    assert sum(line.startswith("4 rows, ") for line in lines) == 2
