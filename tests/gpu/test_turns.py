"""Fits and vLLM on one CUDA device: sleeping, turns, and quantised bases. Not run where there is none."""

from __future__ import annotations

import gc
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_adapters import random_lora

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.config import InferSettings, ModelSettings, load_settings
from solver.infer.base import Engine
from solver.infer.hf import HFEngine
from solver.infer.vllm import shim
from solver.infer.vllm.engine import VllmEngine
from solver.messages import WorkerConfig
from solver.model.device import DevicePlan
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape
from solver.model.offloaded_weights import OffloadedWeights
from solver.types import NEVER, AdapterRef, ScoreRequest, TaskOutcome, TaskPlan, TaskWork, TokenIds, WorkItem
from solver.worker.main import load

needs_vllm = pytest.mark.skipif(not shim.distribution(), reason="needs vllm")
needs_nf4 = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
KINDS = ["none", pytest.param("nf4", marks=needs_nf4)]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DTYPE = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
ROUNDING = 0.1  # of a token's log-probability: 16-bit sums in another order
POSITIONS = 262144  # keys and values of more than a gigabyte, to be seen in what the driver says is free


def settings(quantization: str = "none", dtype: str = DTYPE) -> ModelSettings:
    return ModelSettings(dtype=dtype, quantization=quantization, device="cuda:0", context=2048)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(served_base: Path) -> Base:
    return load_base(served_base, settings())


@pytest.fixture(scope="module")
def adapters(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    folder = tmp_path_factory.mktemp("adapters")
    return [random_lora(base, folder / str(seed), seed, LoraShape(16, 16.0), 0.03) for seed in range(3)]


@pytest.fixture(scope="module")
def prompts(base: Base) -> list[TokenIds]:
    return [base.codec.prompt(task.query(0), 0, base.context).ids for task in shortest_tasks(load_tasks("arc1:evaluation"), 3)]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


def scores(engine: Engine, prompts: list[TokenIds], adapters: list[AdapterRef | None]) -> np.ndarray:
    """Log-probabilities of the second half of every prompt after its first half."""
    requests = [
        ScoreRequest(f"{n} {m}", prompt[: len(prompt) // 2], adapter, (prompt[len(prompt) // 2 :],))
        for n, prompt in enumerate(prompts)
        for m, adapter in enumerate(adapters)
    ]
    found = {result.request: result for result in engine.score(requests, NEVER)}
    assert {(result.status, result.error) for result in found.values()} == {("complete", "")}
    return np.concatenate([found[request.id].completions[0].logprobs for request in requests])


def free() -> int:
    torch.cuda.synchronize()
    return torch.cuda.mem_get_info()[0]


@pytest.mark.parametrize("quantization", KINDS)
def test_offloaded_weights_leave_the_device_and_come_back(quantization: str, served_base: Path) -> None:
    base = load_base(served_base, settings(quantization))
    ids = torch.arange(10, device="cuda")[None]
    expected = base.model(ids).logits
    weights = OffloadedWeights(base.model, base.device)
    before = torch.cuda.memory_allocated()
    weights.rest()
    assert {p.device.type for p in base.model.parameters()} == {"cpu"}
    assert before - torch.cuda.memory_allocated() > 0.9 * sum(p.numel() * p.element_size() for p in base.model.parameters())
    weights.wake()
    assert torch.equal(base.model(ids).logits, expected)


@needs_vllm
def test_a_core_that_slept_is_the_same(base: Base, adapters: list[AdapterRef], prompts: list[TokenIds], tmp_path: Path) -> None:
    engine = VllmEngine(base, InferSettings(batch_tokens=POSITIONS), sleeps=True)
    try:
        engine.start(16)
        assert engine._core is not None
        if not engine._core.sleeps:
            pytest.skip(f"{shim.distribution()} cannot sleep without losing adapters")
        core = engine._core
        before = scores(engine, prompts, [None, *adapters[:2]])
        for _ in range(3):
            awake = free()
            core.sleep()
            assert free() - awake > 0.9 * core.options.cache_bytes
            core.wake()
            np.testing.assert_allclose(scores(engine, prompts, [None, *adapters[:2]]), before, atol=1e-6)
        # one that comes after it slept, and changes more than rounding does
        strong = random_lora(base, tmp_path / "strong", 3, LoraShape(16, 16.0), 0.3)
        late = scores(engine, prompts, [strong])
        own, bare = (scores(HFEngine(base, InferSettings()), prompts, [ref]) for ref in (strong, None))
        assert np.abs(late - own).mean() < ROUNDING
        assert np.abs(late - bare).mean() > 3 * ROUNDING
        engine.rest()
        assert core.asleep == (engine._core is core)
        print(f"\n{shim.distribution()}: giving the device up and taking it again: {engine.handover_seconds:.2f} s")
        engine.close()  # asleep; and another one after it
        np.testing.assert_allclose(scores(engine, prompts, [None, *adapters[:2]]), before, atol=ROUNDING)
    finally:
        engine.close()


@needs_vllm
def test_restarts_give_the_memory_back(base: Base, adapters: list[AdapterRef], prompts: list[TokenIds]) -> None:
    engine = VllmEngine(base, InferSettings(batch_tokens=POSITIONS))
    left = []
    for _ in range(4):
        scores(engine, prompts[:1], adapters[:1])
        engine.rest()
        left.append(free())
    assert left[1] - left[-1] < 100e6, left


def plan(served: str) -> DevicePlan:
    return DevicePlan(10**11, 10**11, 0, 10**11, 0, 0, 8, 0, 10**10, False, served)  # type: ignore[arg-type]


@needs_vllm
@needs_nf4
@pytest.mark.parametrize("served", ["dequantised", "quantised"])
def test_a_quantised_base_is_served_on_its_own_weights(
    served: str, adapters: list[AdapterRef], prompts: list[TokenIds], served_base: Path, tmp_path: Path
) -> None:
    if served == "quantised" and not shim.reads_nf4():
        pytest.skip("needs vllm-bnb-plugin")
    base = load_base(served_base, settings("nf4"), cache=tmp_path)
    expected = scores(HFEngine(base, InferSettings()), prompts, [*adapters])
    distances = []
    whole = load_base(served_base, settings())
    for engine in (VllmEngine(base, InferSettings(), plan(served)), VllmEngine(whole, InferSettings())):
        try:
            distances.append(np.abs(scores(engine, prompts, [*adapters]) - expected).mean())
        finally:
            engine.close()
    own, original = distances  # weights: those that were fitted to, and those these were rounded from
    assert own < ROUNDING
    assert original > 3 * own


@needs_vllm
@pytest.mark.parametrize("quantization", KINDS)
@pytest.mark.parametrize("trainer", ["lora", "unsloth"])
def test_a_worker_takes_turns(trainer: str, quantization: str, tmp_path: Path) -> None:
    if trainer == "unsloth" and importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs unsloth")
    common = ["model.device=cuda:0", f"model.dtype={DTYPE}", f"model.quantization={quantization}", "model.context=2048"]
    chosen = [*common, f"train.trainer={trainer}", "train.rank=16", "infer.engine=vllm", "workers.alternate=true"]
    tasks = shortest_tasks(load_tasks("arc1:evaluation"), 3)
    backend = load(WorkerConfig(load_settings(overrides=chosen), None, tmp_path))
    solver, facts = backend.solver(0), backend.facts()
    print(f"\n{trainer}, {quantization}: {facts.memory}; {facts.turns}")
    engine = solver._engine
    assert isinstance(engine, VllmEngine)
    try:
        for name in ("first", "second"):
            works = tuple(TaskWork(task.without_answers(), TaskPlan(4, 4, 1)) for task in tasks)
            outcomes = list(solver.work(WorkItem(name, 0, works, time.monotonic() + 900)))
            final = [outcome for outcome in outcomes if isinstance(outcome, TaskOutcome) and outcome.final]
            assert [outcome.status for outcome in final] == ["complete"] * 3, [outcome.events for outcome in final]
            assert all(outcome.fit is not None and outcome.fit.steps == 4 for outcome in final)
            assert any(query.candidates and query.scores for outcome in final for query in outcome.queries)
        assert solver._device_turns is not None
        assert solver._device_turns.turns == 4
    finally:
        engine.close()
        if (process := getattr(solver._trainer, "_process", None)) is not None:
            process.close()
