"""What a worker makes of its device: with the answers of a GPU, where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen2Config, Qwen3Config

from solver.config import ModelSettings, Settings, load_settings
from solver.infer.hf import HFEngine
from solver.infer.vllm import engine as engine_module
from solver.infer.vllm.engine import VllmEngine
from solver.infer.vllm.handover_costs import HandoverCosts
from solver.infer.vllm.shim import CoreOptions, ServedLora
from solver.infer.vllm.state import VllmState
from solver.model.device import plan_device
from solver.model.load import Base, load_base
from solver.train.lora import LoraTrainer
from solver.worker import device_plan
from solver.worker.device_plan import WorkerDevicePlan, demand_of, needs_no_weights

FP32 = ModelSettings(dtype="float32", device="cpu")
VLLM = ["infer.engine=vllm", "train.rank=8"]
COMMON = {"vocab_size": 151936, "tie_word_embeddings": True}
MODELS: dict[str, PreTrainedConfig] = {  # the shapes of Qwen2.5-0.5B, Qwen3-0.6B and Qwen3-4B
    "0.5B": Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, **COMMON
    ),
    "0.6B": Qwen3Config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
        head_dim=128, **COMMON
    ),
    "4B": Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, **COMMON
    ),
}  # fmt: skip
DEVICES = {"kaggle-t4x2": int(15.8e9), "kaggle-l4x4": int(22.3e9), "h200": 139 * 2**30}


@pytest.fixture
def base(plain_base: Path) -> Base:
    return load_base(plain_base, FP32)


def chosen(*overrides: str) -> Settings:
    return load_settings(overrides=["model.device=cpu", "model.dtype=float32", *overrides])


class Gpu:
    """Bytes there are; notes what is asked of it."""

    def __init__(self, patch: pytest.MonkeyPatch, memory: float, host: float = 64e9) -> None:
        self.fractions: list[float] = []
        patch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=int(memory)))
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: self.fractions.append(share))
        patch.setattr(device_plan, "free_memory", lambda: int(host))


def on_gpu(base: Base) -> Base:
    return replace(base, device=torch.device("cuda:0"))


def test_an_engine_on_the_worker_s_own_base_leaves_nothing_to_share(base: Base, tmp_path: Path) -> None:
    worker_plan = WorkerDevicePlan.of(base, chosen("workers.alternate=true"))
    assert (worker_plan.alternates, worker_plan.plan, worker_plan.fit_fraction) == (False, None, 1.0)
    settings = chosen()
    trainer, engine = LoraTrainer(base, settings.train, tmp_path), HFEngine(base, settings.infer)
    worker_plan.rest(trainer)
    assert worker_plan.device_turns(engine) is None
    assert worker_plan.turns(trainer, engine, tmp_path) is None
    together = LoraTrainer(base, settings.train.model_copy(update={"stack": 5}), tmp_path)
    turns = worker_plan.turns(together, engine, tmp_path)
    assert turns is not None
    assert (turns.handover, turns.sequences, turns.fits) == (0.0, 1, 5)


@pytest.mark.parametrize(
    "overrides", [[], ["infer.engine=hf", "train.trainer=unsloth"], ["infer.engine=vllm", "train.trainer=lora"]]
)
def test_whoever_computes_loads_weights(overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_plan, "load_base", lambda *_, **__: pytest.fail("it is known without a model"))
    assert not needs_no_weights(None, chosen(*overrides), tmp_path)


def test_with_fits_elsewhere_and_an_engine_of_its_own_weights_nobody_does(plain_base: Path, tmp_path: Path) -> None:
    assert needs_no_weights(plain_base, chosen("infer.engine=vllm", "train.trainer=unsloth"), tmp_path)


def test_a_large_device_holds_both(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, 16e9)
    worker_plan = WorkerDevicePlan.of(on_gpu(base), chosen(*VLLM))
    assert worker_plan.plan is not None
    assert not worker_plan.alternates
    assert not worker_plan.sleeps
    assert worker_plan.fit_fraction == 1.0  # fits are made in this process, whose share is both
    assert gpu.fractions == [pytest.approx(0.94, abs=1e-6)]


def test_turns_can_be_asked_for(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch, 16e9)
    asked = [*VLLM, "workers.alternate=true"]
    assert WorkerDevicePlan.of(on_gpu(base), chosen(*asked)).sleeps
    assert not WorkerDevicePlan.of(on_gpu(base), chosen(*asked, "workers.per_device=2")).sleeps
    Gpu(monkeypatch, 16e9, host=1e5)
    without_room = WorkerDevicePlan.of(on_gpu(base), chosen(*asked))
    assert without_room.alternates
    assert not without_room.sleeps


def test_fits_in_a_process_of_their_own_have_their_share(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, 16e9)
    worker_plan = WorkerDevicePlan.of(on_gpu(base), chosen(*VLLM, "train.trainer=unsloth", "workers.fit_share=0.25"))
    assert worker_plan.plan is not None
    assert worker_plan.fit_fraction == pytest.approx(0.25 * (0.94 * 16e9 - 1.2e9) / 16e9, abs=1e-3)
    assert gpu.fractions[0] + worker_plan.fit_fraction < 0.94


def test_a_device_too_small_is_said(base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Gpu(monkeypatch, 0.6e9)
    WorkerDevicePlan.of(on_gpu(base), chosen(*VLLM))
    assert "device memory: too little for inference on 8192 tokens" in caplog.text


def test_what_is_told_is_what_the_choice_of_chunks_reads(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.infer.vllm.engine.unservable", lambda base: "")
    worker_plan = WorkerDevicePlan.of(base, chosen(*VLLM, "workers.alternate=true"))
    engine = VllmEngine(base, chosen(*VLLM).infer)
    monkeypatch.setattr(VllmEngine, "handover_seconds", 12.5)
    trainer = LoraTrainer(base, chosen(*VLLM).train, tmp_path)
    worker_plan.rest(trainer)
    device_turns = worker_plan.device_turns(engine)
    assert device_turns is not None
    turns = worker_plan.turns(trainer, engine, tmp_path)
    assert turns is not None
    widths = 2 * (4 * (32 + 32) + 3 * (32 + 64))  # of two layers
    assert (turns.handover, turns.sequences, turns.fits, turns.adapter_bytes) == (12.5, 1, 1, 8 * widths * 4)
    assert turns.adapter_room > 0
    assert worker_plan.device_turns(HFEngine(base, chosen().infer)) is None  # it took the place of one that did not start
    assert not worker_plan.alternates


@pytest.mark.parametrize(
    ("machine", "model", "more", "alternates"),
    [
        ("kaggle-t4x2", "0.5B", [], False),
        ("kaggle-t4x2", "0.6B", [], False),
        ("kaggle-t4x2", "4B", [], True),
        ("kaggle-l4x4", "0.5B", [], True),  # without checkpointing fits take all there is
        ("kaggle-l4x4", "0.5B", ["train.checkpointing=true"], False),
        ("kaggle-l4x4", "0.6B", ["train.checkpointing=true"], False),
        ("kaggle-l4x4", "4B", ["train.checkpointing=true"], True),
        ("h200", "0.5B", [], False),
        ("h200", "0.6B", [], False),
        ("h200", "4B", [], True),  # as on four L4
        ("h200", "4B", ["train.checkpointing=true"], False),
    ],
)
def test_machines_and_models(machine: str, model: str, more: list[str], alternates: bool, base: Base) -> None:
    """By the presets that the package comes with."""
    settings = load_settings(machine, overrides=["train.rank=16", *more])
    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(MODELS[model], dtype=torch.bfloat16)
    large = replace(on_gpu(base), model=described, dtype=torch.bfloat16, context=settings.model.context)
    demand = demand_of(settings, large, apart=True)
    plan = plan_device(DEVICES[machine], 1, demand)
    assert plan.alternates == alternates, plan.describe()
    wished = demand.shape.kv_bytes(settings.infer.batch_tokens, 2)
    assert min(wished, demand.shape.kv_bytes(2 * large.context, 2)) <= plan.cache <= wished


def test_a_stack_may_fill_a_pass_with_the_sequences_of_all_its_tasks(base: Base) -> None:
    base = replace(on_gpu(base), context=100)
    for stack, tokens in ((1, 400), (3, 1200), (50, 16384)):
        settings = load_settings(overrides=["train.batch_tokens=16384", "train.batch_sequences=4", f"train.stack={stack}"])
        demand = demand_of(settings, base, apart=False)
        assert (demand.stack, demand.batch_tokens) == (stack, tokens)
        assert demand_of(settings, base, apart=True).batch_tokens == 400


class StandInCore:
    """Starts at once; sleeps if it can."""

    log: list[str]
    able: bool

    def __init__(self, options: CoreOptions) -> None:
        self.options, self.asleep, self.sleeps = options, False, options.sleeps and self.able
        self.log.append("start")

    def try_adapter(self, lora: ServedLora) -> None:
        pass

    def sleep(self) -> None:
        self.asleep = True
        self.log.append("sleep")

    def wake(self) -> None:
        self.asleep = False
        self.log.append("wake")

    def close(self) -> None:
        self.log.append("close")


@pytest.mark.parametrize(("able", "done"), [(True, ["start", "sleep", "wake", "sleep"]), (False, ["start", "close"])])
def test_no_start_is_thrown_away(
    able: bool, done: list[str], base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan says that there is room for what sleeps; whether a core can sleep is known when one has started."""
    core = type("Core", (StandInCore,), {"log": [], "able": able})
    monkeypatch.setattr(engine_module, "Core", core)
    monkeypatch.setattr(engine_module, "unservable", lambda base: "")
    monkeypatch.setattr(VllmEngine, "_warm_up", lambda _: None)
    worker_plan = WorkerDevicePlan(base, 8, alternates=True, sleeps=True)
    trainer = LoraTrainer(base, chosen(*VLLM).train, tmp_path)
    worker_plan.rest(trainer)
    engine = VllmEngine(
        base, chosen(*VLLM).infer, sleeps=worker_plan.sleeps, state=VllmState(handover_costs=HandoverCosts(lambda: 0.0))
    )
    engine.start(8)
    assert worker_plan.device_turns(engine) is not None
    assert core.log == done
