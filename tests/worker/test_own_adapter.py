"""Runs whose fits start from an adapter of the user's: refused before work if it does not fit, never touched, never lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_parts import EchoEngine, StepTrainer
from lora_adapters import random_lora
from run_helpers import FAST, assert_valid, make_task, make_tasks, write_challenges

from solver.codec import grid_codec
from solver.config import ModelSettings, TrainSettings, load_settings
from solver.errors import InputError
from solver.messages import WorkerConfig
from solver.model.adapter_folder import WEIGHTS, adapter_identity, check_start
from solver.model.adapters import apply_adapter
from solver.model.build import Shape, new_model, save_model
from solver.model.load import load_base
from solver.model.lora import LoraShape
from solver.report.observer import SilentObserver
from solver.run.identity import identity_of
from solver.run.ledger import Ledger
from solver.run.pipeline import run
from solver.run.run_facts import Identity
from solver.run.types import RunOptions
from solver.train.lora import LoraTrainer
from solver.train.peft import PeftTrainer
from solver.types import NEVER, AdapterRef, Fit, FitJob, TaskPlan, TaskWork, WorkItem
from solver.worker.main import START, load
from solver.worker.solve import Solver

FP32 = ModelSettings(dtype="float32", device="cpu")
SHAPE = LoraShape(4, 8.0)
CHOSEN = [*FAST, "train.rank=4", "train.alpha=8", "model.device=cpu", "model.threads=1", "model.dtype=float32"]


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny model, on two of its layers alone, as users have them."""
    folder = tmp_path_factory.mktemp("own") / "adapter"
    random_lora(load_base(tiny_base, FP32), folder, 1, SHAPE, 0.5)
    from safetensors.torch import load_file, save_file

    weights = {n: w for n, w in load_file(folder / WEIGHTS).items() if "q_proj" in n or "v_proj" in n}
    assert len(weights) == 8
    save_file(weights, folder / WEIGHTS)
    return folder


class _Solver(Solver):
    def __init__(self, scratch: Path, start: AdapterRef, *overrides: str) -> None:
        self.trainer, self.engine = StepTrainer(scratch), EchoEngine(grid_codec())
        super().__init__(load_settings(overrides=overrides), grid_codec(), 8192, self.trainer, self.engine, start=start)


def item(steps: int, kind: str = "solve", start: AdapterRef | None = None) -> WorkItem:
    works = (TaskWork(make_task("a").without_answers(), TaskPlan(steps, 2, 1), start),)
    return WorkItem("r1i1", 0, works, 1e12, kind)  # type: ignore[arg-type]


def test_fits_start_from_it_and_what_is_not_fitted_is_served_by_it(tmp_path: Path, adapter: Path) -> None:
    own, earlier = AdapterRef(START, adapter, "lora"), AdapterRef("r1i0t0", tmp_path, "lora")
    solver = _Solver(tmp_path, own)
    (unfitted,) = solver.work(item(0))
    assert {c.adapter for c in unfitted.queries[0].candidates} == {START}  # type: ignore[union-attr]
    list(solver.work(item(3)))
    list(solver.work(replace(item(3, start=earlier), id="r1i2")))  # an earlier pass of the task has left one
    list(solver.work(replace(item(3, "shared"), id="r1i3")))
    assert [job.start for job in solver.trainer.jobs] == [own, earlier, own]


def test_a_fit_without_steps_does_not_make_it_the_runs_to_delete(tmp_path: Path, adapter: Path) -> None:
    own = AdapterRef(START, adapter, "lora")
    solver = _Solver(tmp_path, own)

    class Cut(StepTrainer):
        def fit(self, jobs, deadline):  # type: ignore[no-untyped-def]
            for job in jobs:
                yield Fit(job.adapter_id, "cut", "deadline", job.start, 0, 0, 0.0, 2.0, 2.0)

    solver._trainer = Cut(tmp_path)
    (outcome,) = solver.work(item(3))
    assert outcome.fit is not None
    assert outcome.fit.adapter is None
    assert {c.adapter for c in outcome.queries[0].candidates} == {START}  # type: ignore[union-attr]


@pytest.mark.parametrize("trainer", [LoraTrainer, PeftTrainer])
def test_layers_that_it_leaves_out_are_fitted_too(
    trainer: type[LoraTrainer | PeftTrainer], tiny_base: Path, adapter: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    base = load_base(tiny_base, FP32)
    own = AdapterRef(START, adapter, "lora")
    sequence = grid_codec().sequence(make_task("a"), 512)
    settings = TrainSettings(rank=4, alpha=8, lr=1e-3)
    still = FitJob("still", (sequence,), 1, 3, own)
    (begun,) = trainer(base, settings.model_copy(update={"lr": 1e-12}), tmp_path).fit([still], NEVER)
    assert begun.adapter is not None
    ids = torch.randint(0, 10, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # it starts at what the user's adapter makes of the model
        expected, plain = apply_adapter(base, own)(ids).logits, base.model(ids).logits
        torch.testing.assert_close(apply_adapter(base, begun.adapter)(ids).logits, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(expected, plain, atol=1e-2)
    (fit,) = trainer(base, settings, tmp_path).fit([FitJob("a", (sequence,), 3, 3, own)], NEVER)
    assert fit.adapter is not None
    before, after = load_file(begun.adapter.path / WEIGHTS), load_file(fit.adapter.path / WEIGHTS)
    assert len(after) == 28
    assert all(not torch.equal(before[name], after[name]) for name in after)


def test_what_cannot_be_started_from_is_refused_with_the_remedy(adapter: Path, tmp_path: Path) -> None:
    def said(folder: Path, **changes: object) -> str:
        with pytest.raises(InputError) as caught:
            check_start(folder, TrainSettings(**{"rank": 4, "alpha": 8, **changes}))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)
        return str(caught.value)

    check_start(adapter, TrainSettings(rank=4, alpha=8))
    assert said(adapter, rank=16).endswith("--set train.rank=4 --set train.alpha=8 --set train.rslora=false")
    assert "train.alpha=8 " in said(adapter, alpha=4)
    assert "set train.trainer=lora" in said(adapter, trainer="full")
    assert "no such adapter folder" in said(tmp_path / "nowhere")
    assert "not a LoRA adapter: adapter_config.json" in said(tmp_path)

    def changed(name: str, **values: object) -> Path:
        shutil.copytree(adapter, tmp_path / name)
        file = tmp_path / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return tmp_path / name

    assert "DoRA" in said(changed("dora", use_dora=True))
    assert "peft_type is IA3" in said(changed("ia3", peft_type="IA3"))
    pickled = changed("pickled")
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    assert "only pickled ones" in said(pickled)


def test_one_of_another_model_is_refused_when_the_worker_starts(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    save_model(new_model(Shape(64, 2, 2, 64)), tmp_path / "wide", torch.float32)
    with pytest.raises(InputError, match=r"adapter does not fit the model: decoder\.layers\.0"):
        load(WorkerConfig(load_settings(overrides=CHOSEN), tmp_path / "wide", tmp_path, adapter))


def test_a_run_is_another_one_with_another_adapter(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    tasks, settings = make_tasks(1), load_settings(overrides=CHOSEN)
    shutil.copytree(adapter, tmp_path / "copy")
    other = tmp_path / "copy"
    mine = identity_of(tasks, settings, tiny_base, None, adapter)
    assert mine == identity_of(tasks, settings, tiny_base, None, other)
    (other / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes()[:-1] + b"\x01")
    for theirs in (identity_of(tasks, settings, tiny_base, None), identity_of(tasks, settings, tiny_base, None, other)):
        difference = theirs.difference(Identity.of(mine.rows()))
        assert difference is not None
        assert f"adapter = {adapter_identity(adapter)}" in difference


@pytest.mark.slow
def test_a_run_from_an_adapter(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    """By the command line, refusals first; then again, with nothing left to do and the adapter where it was."""
    challenges = write_challenges(tmp_path / "challenges.json", make_tasks(2))
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    line = [sys.executable, "-m", "solver", "run", str(challenges), "--out", str(tmp_path / "out"), "--budget", "40s"]
    line += ["--model", str(tiny_base), "--adapter", str(adapter), "--scratch", str(tmp_path)]
    refused = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "--set train.rank=4 --set train.alpha=8" in refused.stderr
    assert not (tmp_path / "out").exists()
    options = RunOptions(
        str(challenges),
        tmp_path / "out",
        budget=40.0,
        settings=load_settings(overrides=[*CHOSEN, "budget.policy=fixed"]),
        model=tiny_base,
        adapter=adapter,
        scratch=tmp_path,
        started=time.monotonic(),
    )
    summary = run(options, SilentObserver())
    assert (summary.exit_code, summary.trainer) == (0, "lora")
    assert_valid(tmp_path / "out", challenges)
    ledger = Ledger.read(tmp_path / "out" / "run.db")
    assert [outcome.fit.steps for outcome in ledger.outcomes() if outcome.fit is not None] == [2, 2]
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
    with pytest.raises(InputError, match="its run had adapter = "):
        run(replace(options, adapter=None), SilentObserver())
