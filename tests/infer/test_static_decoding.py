"""Static batches against the decoder with buffers that grow: the same steps as on a CUDA device, run one by one on a CPU."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from forcing import AfterTrigger
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_adapters import random_lora
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from solver.codec import Codec, grid_codec
from solver.config import InferSettings
from solver.infer import hf
from solver.infer.base import EngineState
from solver.infer.decoding import Decoder
from solver.infer.forward import Forward
from solver.infer.grammar import STATE, GridMachine
from solver.infer.hf import HFEngine
from solver.infer.pace import Pace
from solver.infer.static import decoder as static
from solver.infer.static import graphs
from solver.infer.static import requests as static_requests
from solver.infer.static.batch import StaticBatch
from solver.infer.static.randomness import draw, uniform
from solver.infer.static.rules import TokenRules
from solver.infer.static.shapes import BatchShape, choose_lanes, rounded
from solver.infer.static.store import BatchStore
from solver.infer.token_choice import _uniform
from solver.infer.token_choice import draw as draw_on_host
from solver.model.adapters import own_weights
from solver.model.build import Shape, new_model
from solver.model.folder import EMBEDDED
from solver.model.load import Base, share
from solver.model.lora import LoraShape, attach
from solver.model.positions import positions_of
from solver.types import NEVER, AdapterRef, Deadline, Result, SampleRequest, ScoreRequest, SearchRequest, TokenIds

SMALL = Shape(hidden=32, layers=2, heads=2, ffn=48)
CPU = torch.device("cpu")
CODEC = grid_codec()
Request = SampleRequest | SearchRequest
OTHER_RUN = Decoder.run


def sharp(model: Any, factor: float) -> Any:
    """A random model whose next-token distributions are far from flat, so that a search finds some completions."""
    model.get_output_embeddings().weight = torch.nn.Parameter(model.get_output_embeddings().weight * factor, requires_grad=False)
    return model.eval()


@functools.cache
def base_of(family: str = "cells") -> Base:
    """A small random model of a family over the grid vocabulary."""
    if family == "cells":
        return Base(sharp(new_model(SMALL, 1), 12.0), CODEC, CPU, torch.float32, EMBEDDED, 512)
    config, build = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = build(config(vocab_size=16, num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.1, **sizes))
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.data.normal_(0, 0.3)
    return Base(sharp(model, 6.0 if family == "qwen2" else 3.0), CODEC, CPU, torch.float32, EMBEDDED, 512)


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[TokenIds]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 13, rng.integers(5, longest)).astype(np.int32) for _ in range(count)]


def ask(engine: HFEngine, requests: Sequence[Request], deadline: Deadline = NEVER) -> dict[str, Result]:
    searches = [request for request in requests if isinstance(request, SearchRequest)]
    samples = [request for request in requests if isinstance(request, SampleRequest)]
    results = [*engine.search(searches, deadline), *engine.sample(samples, deadline)]
    found = {result.request: result for result in results}
    assert len(found) == len(results)
    return found


def same(given: dict[str, Result], expected: dict[str, Result], tolerance: float = 1e-4) -> None:
    """Assert equal completions, in any order where they are about as probable, and equal counts of tokens."""
    assert given.keys() == expected.keys()
    for key, wanted in expected.items():
        got = given[key]
        assert (got.status, got.error, got.new_tokens) == (wanted.status, wanted.error, wanted.new_tokens), key
        assert got.prompt_tokens == wanted.prompt_tokens
        order = [sorted(result.completions, key=lambda c: (tuple(c.ids), c.finished)) for result in (got, wanted)]
        assert len(order[0]) == len(order[1])
        for mine, other in zip(*order, strict=True):
            np.testing.assert_array_equal(mine.ids, other.ids)
            np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=tolerance)
            assert mine.finished == other.finished
            assert (mine.ids.dtype, mine.logprobs.dtype) == (other.ids.dtype, other.logprobs.dtype)
        totals = [completion.logprob for completion in got.completions]
        assert totals == sorted(totals, reverse=True)


@pytest.fixture
def static_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU decodes in static batches, and rows of several adapters share one. Asserts that nothing else decoded."""
    monkeypatch.setattr(hf, "STATIC_DEVICES", ("cpu",))
    monkeypatch.setattr(hf, "STACKED_DEVICES", ("cpu",))
    others = record_calls(monkeypatch, Decoder, "run")
    yield
    assert not others


def expected(base: Base, requests: Sequence[Request], **infer: Any) -> dict[str, Result]:
    """What the decoder with buffers that grow gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "STATIC_DEVICES", ())
        patch.setattr(Decoder, "run", OTHER_RUN)
        return ask(HFEngine(base, InferSettings(**infer)), requests)


def mixed(seed: int = 0, adapters: Sequence[AdapterRef | None] = (None,)) -> list[Request]:
    """Greedy, sampled and searched completions of several prompts."""
    requests: list[Request] = []
    for n, prompt in enumerate(prompts(5, seed, 40)):
        adapter = adapters[n % len(adapters)]
        requests.append(SampleRequest(f"greedy {n}", prompt, adapter, 1, 0.0, 25))
        requests.append(SampleRequest(f"sample {n}", prompt, adapter, n % 3 + 1, 0.7, 20, seed=n))
        requests.append(SearchRequest(f"search {n}", prompt, adapter, 0.003, 12))
    return requests


@pytest.mark.parametrize("grammar", [True, False])
@pytest.mark.parametrize("family", ["cells", "llama", "mistral", "qwen2", "qwen3"])
def test_static_batches_give_the_completions_of_the_other_decoder(family: str, grammar: bool, static_device: None) -> None:
    base = base_of(family)
    requests = mixed()
    if family == "qwen2":  # in this prompt format the row separator follows the last row of an answer, too
        base = replace(base, codec=replace(CODEC, closes_rows=True))
    want = expected(base, requests, grammar=grammar)
    same(ask(HFEngine(base, InferSettings(grammar=grammar)), requests), want)
    assert max(len(result.completions) for key, result in want.items() if key.startswith("search")) > 1
    assert {completion.finished for result in want.values() for completion in result.completions} == {True, False}


def test_many_adapters_in_one_batch(tmp_path: Path, static_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of()
    shape = LoraShape(4, 8.0)
    adapters = [random_lora(base, tmp_path / str(n), n, shape, 0.3) for n in range(5)]
    loads = record_calls(monkeypatch, StaticBatch, "load")
    engine = HFEngine(base, InferSettings())
    for chunk in (adapters[:3], adapters[3:]):  # the batches of one chunk serve the next
        requests = mixed(3, chunk)
        given = ask(engine, requests)
        same(given, expected(base, requests))
    assert max(len(set(numbers)) for _, _, numbers in loads) > 1
    assert given["greedy 0"].completions[0].logprobs[0] != ask(engine, mixed(3))["greedy 0"].completions[0].logprobs[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 3])
def test_models_in_16_bits_with_adapters_beside_their_weights(
    dtype: torch.dtype, count: int, tmp_path: Path, static_device: None
) -> None:
    base = base_of("llama")
    adapters = [random_lora(base, tmp_path / str(n), n, LoraShape(4, 8.0), 0.3) for n in range(count)]
    base = replace(base, model=own_weights(base, dtype), dtype=dtype)
    state = EngineState()
    engine = HFEngine(base, InferSettings(), state)
    requests = mixed(1, adapters)
    given = ask(engine, requests)
    assert not state.static_given_up
    asked = {r.id: ScoreRequest(r.id, r.prompt, r.adapter, tuple(c.ids for c in given[r.id].completions)) for r in requests}
    for result in engine.score(list(asked.values()), NEVER):
        for scored, completion in zip(result.completions, given[result.request].completions, strict=True):
            np.testing.assert_allclose(completion.logprobs, scored.logprobs, atol=0.3 if dtype == torch.bfloat16 else 0.04)


SEARCHED = [SearchRequest(str(n), prompt, None, (0.02, 0.005)[n % 2], 24) for n, prompt in enumerate(prompts(7, 5, 90))]
SAMPLED = [SampleRequest(str(n), prompt, None, n % 4 + 1, 0.8, 9 + n, seed=n) for n, prompt in enumerate(prompts(7, 6, 90))]


@functools.cache
def wanted(search: bool) -> dict[str, Result]:
    return expected(base_of(), SEARCHED if search else SAMPLED)


@settings(max_examples=8)
@given(
    search=st.booleans(),
    order=st.permutations(range(7)),
    budget=st.integers(64, 6000),
    look=st.integers(1, 20),
    width=st.integers(1, 5),
    tokens=st.integers(4, 40),
    alike=st.sampled_from([0.1, 0.9]),
    refill=st.sampled_from([0.0, 0.9]),
    prefill=st.integers(1, 200),
)
def test_results_depend_neither_on_slots_nor_on_shapes_nor_on_the_order(
    search: bool, order: list[int], budget: int, look: int, width: int, tokens: int, alike: float, refill: float, prefill: int
) -> None:
    requests: Sequence[Request] = SEARCHED if search else SAMPLED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "STATIC_DEVICES", ("cpu",))
        patch.setattr(static, "LOOK_EVERY", look)
        patch.setattr(static, "MIN_ROUND", 1)
        patch.setattr(static, "ROUND_RATIO", alike)
        patch.setattr(static, "REFILL_SHARE", refill)
        patch.setattr(static_requests, "MAX_WIDTH", width)
        patch.setattr(static_requests, "EXPECTED_TOKENS", tokens)
        patch.setattr(static_requests, "EXPECTED_BRANCHES", 1)
        others, want = record_calls(patch, Decoder, "run"), wanted(search)
        engine = HFEngine(base_of(), InferSettings(batch_tokens=budget))
        engine._forward.prefill_tokens = prefill
        same(ask(engine, [requests[n] for n in order]), want)
        assert not others


def test_free_slots_get_the_next_prompts(static_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "REFILL_SHARE", 0.0)
    requests = [SampleRequest(str(n), prompt, None, 1, 1.0, 50, seed=n) for n, prompt in enumerate(prompts(12, 8))]
    admitted = record_calls(monkeypatch, StaticBatch, "admit")
    made = record_calls(monkeypatch, StaticBatch, "__init__")
    same(ask(HFEngine(base_of(), InferSettings(batch_tokens=600)), requests), expected(base_of(), requests))
    assert len(made) == 1
    assert len(admitted) > 2
    slots = [slot for _, some, *_ in admitted for slot in some]
    assert len(slots) == 12
    assert len(set(slots)) == made[0][2].slots < 12


def test_short_prompts_do_not_wait_for_the_few_slots_of_a_long_one(static_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [np.arange(300, dtype=np.int32) % 10, *prompts(12, 4, 12)]
    requests = [SampleRequest(str(n), text, None, 1, 0.0, 8) for n, text in enumerate(texts)]
    made = record_calls(monkeypatch, StaticBatch, "__init__")
    same(ask(HFEngine(base_of(), InferSettings(batch_tokens=900)), requests), expected(base_of(), requests))
    assert [shape.slots for _, _, shape, *_ in made] == [2, 12]


def test_a_search_without_enough_rows_or_columns_begins_anew(static_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_requests, "MAX_WIDTH", 1)
    monkeypatch.setattr(static_requests, "EXPECTED_TOKENS", 2)
    grown = record_calls(monkeypatch, static_requests.Part, "enlarge")
    same(ask(HFEngine(base_of(), InferSettings(batch_tokens=500)), SEARCHED), wanted(True))
    assert max(Counter(part.request for part, *_ in grown).values()) > 1  # more than once, if need be


def test_searches_for_very_improbable_answers_are_left_to_the_other_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "STATIC_DEVICES", ("cpu",))
    requests = [replace(SEARCHED[0], min_prob=0.0005, max_new_tokens=4), replace(SEARCHED[1], max_new_tokens=4)]
    others, mine = record_calls(monkeypatch, Decoder, "run"), record_calls(monkeypatch, static.StaticDecoder, "run")
    given = ask(HFEngine(base_of(), InferSettings()), requests)
    assert (len(others), len(mine)) == (1, 1)
    same(given, expected(base_of(), requests))


def test_requests_with_forced_tokens_are_left_to_the_other_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "STATIC_DEVICES", ("cpu",))
    plain, other = (SampleRequest(str(n), prompt, None, 2, 1.0, 8, seed=n) for n, prompt in enumerate(prompts(2)))
    requests = [plain, replace(other, forcer=lambda: AfterTrigger(3, (7, 7)))]
    others, mine = record_calls(monkeypatch, Decoder, "run"), record_calls(monkeypatch, static.StaticDecoder, "run")
    given = ask(HFEngine(base_of(), InferSettings(grammar=False)), requests)
    assert (len(others), len(mine)) == (1, 1)
    same(given, expected(base_of(), requests, grammar=False))
    ask(HFEngine(base_of(), InferSettings(grammar=False)), requests[1:])
    assert (len(others), len(mine)) == (2, 1)  # without any other request there is no static batch


class Clock:
    """A clock that advances by one second whenever it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("seconds", [0, 6, 60, 200])
def test_the_deadline_cuts_and_keeps_what_was_finished(
    seconds: float, static_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "LOOK_EVERY", 1)
    requests = [SampleRequest(str(n), prompt, None, 4, 1.0, 50, seed=n) for n, prompt in enumerate(prompts(6))]
    full = expected(base_of("llama"), requests)
    clock = Clock()
    results = ask(HFEngine(base_of("llama"), InferSettings()), requests, Deadline(seconds, clock))
    assert clock.now <= seconds + 8 + len(requests)
    assert results.keys() == full.keys()
    cut = [key for key, result in results.items() if result.status == "cut"]
    assert bool(cut) == (seconds < 200)
    for key, result in results.items():
        whole = {tuple(c.ids) for c in full[key].completions}
        assert {tuple(c.ids) for c in result.completions} <= whole
        assert result.new_tokens <= full[key].new_tokens
    if seconds == 60:
        assert any(results[key].completions for key in cut)


def failing(engine: HFEngine, error: Callable[[int], Exception | None]) -> None:
    """Make prefills of the engine raise what `error` returns for their number of tokens."""
    call = engine._forward._call

    def refused(cache: Any, ids: torch.Tensor, *rest: Any) -> Any:
        if problem := error(ids.numel()):
            raise problem
        return call(cache, ids, *rest)

    engine._forward._call = refused  # type: ignore[method-assign]


def test_out_of_memory_backs_off_to_smaller_batches(static_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = HFEngine(base_of(), InferSettings())
    failing(engine, lambda size: torch.OutOfMemoryError("no memory") if size > 100 else None)
    made = record_calls(monkeypatch, StaticBatch, "__init__")
    same(ask(engine, SAMPLED), wanted(False))
    assert made[-1][2].slots < made[0][2].slots


def test_what_fits_no_static_batch_is_left_to_the_other_decoder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hf, "STATIC_DEVICES", ("cpu",))
    monkeypatch.setattr(StaticBatch, "admit", lambda *_: (_ for _ in ()).throw(MemoryError()))
    state = EngineState()
    same(ask(HFEngine(base_of(), InferSettings(batch_tokens=500), state), SAMPLED), wanted(False))
    assert "takes over" in caplog.text
    assert not state.static_given_up  # there may be memory at the next call


def test_a_step_that_fails_is_given_up_for_good(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As where a step cannot be captured: results so far are kept, and the other decoder goes on."""
    monkeypatch.setattr(hf, "STATIC_DEVICES", ("cpu",))
    monkeypatch.setattr(static, "MIN_ROUND", 2)
    monkeypatch.setattr(static, "ROUND_RATIO", 1.0)
    run, calls = StaticBatch.run, iter(range(10**6))

    def broken(self: StaticBatch, steps: int) -> None:
        if next(calls) > 1:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        run(self, steps)

    monkeypatch.setattr(StaticBatch, "run", broken)
    state = EngineState()
    other = record_calls(monkeypatch, Decoder, "__init__")
    same(ask(HFEngine(base_of(), InferSettings(), state), SAMPLED), wanted(False))
    assert state.static_given_up == "operation not permitted when stream is capturing"
    (made,) = other
    assert 0 < len(made[5]) < len(SAMPLED)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("engine: static batches failed, ")  # the part before the colon is the kind of the event
    assert "takes over" in warning
    mine = record_calls(monkeypatch, static.StaticDecoder, "run")
    same(ask(HFEngine(base_of(), InferSettings(), state), SAMPLED), wanted(False))
    assert not mine


def test_nan_fails_the_request_only_where_it_appears(static_device: None) -> None:
    """A token whose embedding is NaN, which is the end token, too: rows that have ended must not spoil their neighbours."""
    base = base_of()
    model = own_weights(base, torch.float32)
    for module in (model.lm_head, model.get_decoder().embed_tokens):
        module.weight = torch.nn.Parameter(module.weight.clone(), requires_grad=False)
    model.get_decoder().embed_tokens.weight[CODEC.end] = float("nan")
    spoilt = replace(base, model=model)
    requests: list[Request] = []
    for n, prompt in enumerate(prompts(6, 9)):
        text = np.append(prompt, np.int32(CODEC.end)) if n % 2 else prompt
        requests.append(SampleRequest(f"sample {n}", text, None, 3, 1.0, 30))
        requests.append(SearchRequest(f"search {n}", text, None, 0.005, 20))
    given = ask(HFEngine(spoilt, InferSettings(batch_tokens=700)), requests)  # some slots are used again
    for key, result in given.items():
        assert (result.status, result.error) == (("failed", "the model gave NaN") if int(key[-1]) % 2 else ("complete", ""))
    sound = {key for key in given if not int(key[-1]) % 2}
    whole = expected(base, [request for request in requests if request.id in sound])
    same({key: given[key] for key in sound}, whole)


def test_models_of_other_kinds_keep_the_other_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "STATIC_DEVICES", ("cpu",))
    assert HFEngine(base_of(), InferSettings())._static is not None
    for changes in ({"hidden_act": "gelu"}, {"model_type": "granite"}):
        model = share(base_of("llama").model)
        for name, value in changes.items():
            setattr(model.config, name, value)
        monkeypatch.setattr(hf, "check_model", lambda _: None)
        assert HFEngine(replace(base_of("llama"), model=model), InferSettings())._static is None


# -- steps -------------------------------------------------------------------------------------------------------------


def step_of(tasks: int, slots: int, width: int, mode: Any, device: str = "cpu", lora: bool = True) -> Callable[[int], None]:
    """The step of a batch for `tasks` adapters, uncaptured; its argument is the number of columns."""
    base = replace(base_of(), device=torch.device(device))
    model = share(base.model).to(device) if device != "cpu" else base.model
    base = replace(base, model=model)
    stacked = attach(base, LoraShape(4, 8.0), tasks).model if lora else model
    rules = TokenRules(CODEC.grammar, CODEC.end, 16, base.device)
    batch = StaticBatch(stacked, BatchShape(tasks, slots, width, 128, 64, 16), mode, rules, positions_of(model.config))
    return batch._repeater._step


class Dispatched(TorchDispatchMode):
    """Records the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        self.tensors += [t for t in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        return result


def dispatched(step: Callable[[int], None], columns: int = 64) -> Dispatched:
    with torch.no_grad(), Dispatched() as record:
        step(columns)
    return record


@pytest.mark.parametrize("mode", ["greedy", "sample", "search"])
def test_a_step_of_64_tasks_dispatches_as_many_operations_as_one_of_one_row(mode: str) -> None:
    one = dispatched(step_of(1, 1, 1, mode)).names
    many = dispatched(step_of(64, 8, 3, mode)).names
    assert len(one) > 100
    assert len(many) <= 1.2 * len(one)


SYNCHRONISING = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "_unique2", "bincount",
    "repeat_interleave", "_assert_async",
}  # fmt: skip


@pytest.mark.parametrize("mode", ["greedy", "sample", "search"])
def test_a_step_never_waits_for_the_device(mode: str) -> None:
    """Tensors of the device "meta" have no values, so whatever reads one on the host raises."""
    record = dispatched(step_of(17, 8, 2, mode, "meta"))
    assert {tensor.device.type for tensor in record.tensors} == {"meta"}  # nothing is copied from or to the host
    assert not set(record.names) & SYNCHRONISING
    masks = [tensor.dtype for tensor in dispatched_indices(step_of(17, 8, 2, mode, "meta"))]
    assert masks
    assert torch.bool not in masks  # an index by a mask has a size that only its values tell


def dispatched_indices(step: Callable[[int], None]) -> list[torch.Tensor]:
    """The tensors by which a step indexes others."""
    found: list[torch.Tensor] = []

    class Indices(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ in ("index", "index_put_", "index_put"):
                found.extend(index for index in args[1] if index is not None)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Indices():
        step(64)
    return found


def test_captured_steps_are_used_again_for_the_next_chunk(
    tmp_path: Path, static_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many batches are made for many chunks as for one, and the shapes of their steps are few."""
    base = base_of()
    adapters = [random_lora(base, tmp_path / str(n), n, LoraShape(4, 8.0), 0.3) for n in range(6)]
    made = record_calls(monkeypatch, StaticBatch, "__init__")
    columns: set[int] = set()
    run = StaticBatch.run

    def recorded(self: StaticBatch, steps: int) -> None:
        columns.add(self._columns(steps))
        run(self, steps)

    monkeypatch.setattr(StaticBatch, "run", recorded)
    engine = HFEngine(base, InferSettings())
    for chunk in range(3):
        pair = adapters[2 * chunk : 2 * chunk + 2]
        ask(engine, [SampleRequest(str(n), p, pair[n % 2], 1, 0.0, 60) for n, p in enumerate(prompts(10 - chunk, chunk))])
    assert len(made) == 1
    assert len(columns) <= 2
    ask(engine, [SampleRequest("a", prompts(1)[0], None, 1, 0.0, 60)])
    assert len(made) == 2  # without adapters, steps have other operations


class GraphStandIn:
    """In the place of CUDA graphs: what is called within a capture is kept and not done, and `replay` does it."""

    captures: int = 0
    capturing: bool = False
    latest: GraphStandIn

    def __init__(self) -> None:
        self.replay: Callable[[], None] = lambda: None

    @classmethod
    @contextmanager
    def capture(cls, graph: GraphStandIn, **_: Any) -> Iterator[None]:
        cls.capturing, cls.captures = True, cls.captures + 1
        cls.latest = graph
        yield
        cls.capturing = False


@given(bursts=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=30))
def test_bursts_do_as_many_steps_as_asked_with_and_without_graphs(bursts: list[tuple[int, int]]) -> None:
    done: list[int] = []

    def step(columns: int) -> None:
        if GraphStandIn.capturing:
            GraphStandIn.latest.replay = lambda: done.append(columns)
        else:
            done.append(columns)

    stream = SimpleNamespace(wait_stream=lambda _: None)
    names = {
        "Stream": lambda _: stream,
        "current_stream": lambda _: stream,
        "stream": lambda _: nullcontext(),
        "graph_pool_handle": lambda: 0,
        "CUDAGraph": GraphStandIn,
        "graph": GraphStandIn.capture,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(graphs, "MAX_GRAPHS", 3)
        GraphStandIn.captures = 0
        repeaters = [graphs.Repeater(step, torch.device("cuda")), graphs.Repeater(step, CPU)]
        for repeater in repeaters:
            done.clear()
            for columns, steps in bursts:
                repeater.run(columns, steps)
                assert repeater.captured(columns)
            assert done == [columns for columns, steps in bursts for _ in range(steps)]
        sizes = {columns for columns, _ in bursts}
        assert GraphStandIn.captures == len(sizes) or len(sizes) > 3


def test_batches_that_are_kept_share_the_memory() -> None:
    base = base_of()
    store = BatchStore(base.model, CODEC.grammar, CODEC.end, 16, CPU)
    with torch.inference_mode():
        first = store.get(base.model, BatchShape(1, 4, 1, 64, 8, 1), "greedy", 500)
        assert store.get(base.model, BatchShape(1, 3, 1, 64, 8, 1), "greedy", 500) is first
        assert store.get(base.model, BatchShape(1, 1, 1, 64, 8, 1), "greedy", 500) is not first  # it is much larger
        assert store.get(base.model, BatchShape(1, 4, 1, 64, 8, 1), "greedy", 500) is first
        store.get(base.model, BatchShape(1, 4, 1, 64, 8, 1), "search", 500)
        assert store.get(base.model, BatchShape(1, 4, 1, 64, 8, 1), "greedy", 500) is not first
        own = own_weights(base, torch.float32)
        store.get(own, BatchShape(1, 4, 1, 64, 8, 1), "greedy", 500)
        assert [batch.shape.slots for _, batch in store._kept] == [4]


def test_a_cached_batch_begins_without_rows(static_device: None) -> None:
    base = base_of()
    engine = HFEngine(base, InferSettings())
    list(engine.sample(SAMPLED, Deadline(12, Clock())))
    same(ask(engine, SAMPLED), wanted(False))


# -- parts -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), closes=st.booleans(), steps=st.integers(1, 80))
def test_the_rules_are_those_of_the_grammar(seed: int, closes: bool, steps: int) -> None:
    codec: Codec = replace(CODEC, closes_rows=closes)
    grammar = replace(codec.grammar, max_side=4)
    machine, rules = GridMachine(grammar, 16), TokenRules(grammar, codec.end, 16, CPU)
    rng = np.random.default_rng(seed)
    host, device = np.zeros((6, STATE), dtype=np.int16), torch.zeros(STATE, 2, 3, dtype=torch.int64)
    for _ in range(steps):
        allowed, mine = machine.allowed(host), rules.allowed(device)
        assert mine is not None
        np.testing.assert_array_equal(mine.reshape(6, -1).numpy(), allowed)
        going = allowed.copy()
        going[:, rules.ends.numpy()] = False
        if not going.any(1).all():
            break
        picked = np.array([rng.choice(np.flatnonzero(row)) for row in going])
        machine.advance(host, machine.columns[picked])
        device = rules.advance(device, torch.from_numpy(picked).view(2, 3))
        np.testing.assert_array_equal(device.reshape(STATE, 6).numpy().T, host)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.0, 0.3, 1.0]))
def test_random_numbers_and_draws_are_those_of_the_host(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    keys, counters = rng.integers(0, 2**64, 12, dtype=np.uint64), rng.integers(0, 1000, 12)
    numbers = uniform(torch.from_numpy(keys.view(np.int64)), torch.from_numpy(counters))
    np.testing.assert_array_equal(numbers.numpy(), _uniform(keys, counters))
    logprobs = torch.log_softmax(torch.from_numpy(rng.normal(0, 2, (12, 7))).float(), -1)
    logprobs[:, 2] = -torch.inf
    heat = torch.full((4, 1), temperature, dtype=torch.float64)
    mine = draw(logprobs.view(4, 3, 7), heat, numbers.view(4, 3))
    assert mine.flatten().tolist() == draw_on_host(logprobs, np.full(12, temperature), keys, counters).tolist()


@given(count=st.integers(1, 10**6))
def test_sizes_are_rounded_up_by_a_quarter_at_most(count: int) -> None:
    assert count <= rounded(count) <= 1.25 * count
    assert rounded(rounded(count)) == rounded(count)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=30), most=st.integers(1, 600))
def test_lanes_fit_the_slots_and_waste_little(counts: list[int], most: int) -> None:
    lanes, slots = choose_lanes(counts, most)
    assert 1 <= lanes * slots <= most
    if most >= 4 * (sum(counts) + len(counts)):
        assert sum(-(-count // slots) for count in counts) <= lanes  # there is room for everything
        assert lanes * slots <= 3 * sum(counts)


def test_prompts_of_a_step_are_read_by_the_pass_of_the_engine(static_device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """So prompts that were decoded are kept for scoring, as by the other decoder."""
    reads = record_calls(monkeypatch, Forward, "_prefill")
    engine = HFEngine(base_of(), InferSettings())
    ask(engine, SAMPLED)
    before = len(reads)
    list(engine.score([ScoreRequest(r.id, r.prompt, None, (np.zeros(3, dtype=np.int32),)) for r in SAMPLED], NEVER))
    assert before
    assert len(reads) == before


def test_pace_tells_captures_from_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture takes longer than the steps after it, and must not make them look slow."""
    base = base_of()
    forward = Forward(share(base.model), CPU)
    store, pace = BatchStore(forward.model, CODEC.grammar, CODEC.end, 16, CPU), Pace()
    seen: set[int] = set()

    def captured(self: StaticBatch, steps: int) -> bool:
        known = self._columns(steps) in seen
        seen.add(self._columns(steps))
        return known

    monkeypatch.setattr(StaticBatch, "captured", captured)
    with torch.inference_mode():
        list(static.StaticDecoder(forward, store, SAMPLED, [0] * len(SAMPLED), 512, 600, pace, NEVER).run())
    assert set(pace._recent) == {"prefill", "capture", "burst"}
