"""The HF engine against plain forward passes of the same model: its optimisations must not change results."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_calls import record_calls
from forcing import AfterTrigger, forced_parts
from lora_adapters import random_lora
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from solver.codec import GridGrammar, grid_codec
from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.cache import MAX_PRODUCTS, SharedPrefixCache
from solver.infer.decoding import Decoder
from solver.infer.forward import PIECE_ELEMENTS, Forward
from solver.infer.fused_decoding import FusedDecodingPass
from solver.infer.hf import HFEngine
from solver.infer.registry import make_engine
from solver.model.load import Base, load_base, share
from solver.model.lora import LoraShape, LoraStack
from solver.types import (
    NEVER,
    AdapterRef,
    Completion,
    Deadline,
    Result,
    SampleRequest,
    ScoreRequest,
    SearchRequest,
    TokenIds,
)

CELLS, NEWLINE, END = (0, 1), 2, 3  # a vocabulary small enough to enumerate
SMALL = replace(grid_codec(), cells=CELLS, newline=NEWLINE, end=END)


def small_base(seed: int, sharpness: float = 25.0, family: str = "qwen3") -> Base:
    """A random model over five tokens whose next-token distributions are far from flat."""
    config, build = (Qwen3Config, Qwen3ForCausalLM) if family == "qwen3" else (LlamaConfig, LlamaForCausalLM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(
            config(
                vocab_size=5,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                max_position_embeddings=256,
                tie_word_embeddings=False,
            )
        )
        model.lm_head.weight.data *= sharpness
    return Base(model.eval(), SMALL, torch.device("cpu"), torch.float32, Path(), 256)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base, ModelSettings(device="cpu", dtype="float32"))


@pytest.fixture(params=["fused", "modules", "slots apart"])
def either_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The paths through a model: the fused pass for small decoders, the modules of transformers, and attention slot by slot.

    At the end of the test, asserts that every pass took this path.
    """
    if request.param == "modules":
        monkeypatch.setattr("solver.infer.fused_decoding.MAX_PARAMETERS", 0)
    if request.param == "slots apart":
        monkeypatch.setitem(MAX_PRODUCTS, "cpu", 1)
    passes = record_calls(monkeypatch, Forward, "_call")
    fused = record_calls(monkeypatch, FusedDecodingPass, "logits")
    groups: list[tuple[int, int]] = []
    ranges = SharedPrefixCache._ranges

    def recorded(cache: SharedPrefixCache, slot_of: np.ndarray, new: int) -> list[tuple[int, int]]:
        found = ranges(cache, slot_of, new)
        groups.extend(found)
        return found

    monkeypatch.setattr(SharedPrefixCache, "_ranges", recorded)
    yield str(request.param)
    assert passes
    assert len(fused) == (0 if request.param == "modules" else len(passes))
    if request.param == "slots apart":
        assert {end - start for start, end in groups} == {1}


def prompts(count: int, seed: int = 0, vocabulary: int = 10, shortest: int = 5, longest: int = 40) -> list[TokenIds]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, rng.integers(shortest, longest)).astype(np.int32) for _ in range(count)]


def next_logprobs(model: torch.nn.Module, ids: Sequence[int] | TokenIds) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.tensor(np.asarray(ids, dtype=np.int64))[None]).logits[0, -1]
    return torch.log_softmax(logits.float(), -1).numpy()


def teacher_forced(base: Base, prompt: TokenIds, ids: TokenIds) -> np.ndarray:
    with torch.inference_mode():
        text = torch.tensor(np.concatenate([prompt, ids]).astype(np.int64))
        logprobs = torch.log_softmax(base.model(text[None]).logits[0].float(), -1)
    return logprobs[len(prompt) - 1 : -1].gather(1, text[len(prompt) :, None])[:, 0].numpy()


def by_id(results: Iterator[Result]) -> dict[str, Result]:
    found = {}
    for result in results:
        assert result.request not in found
        found[result.request] = result
    return found


def table(result: Result) -> dict[tuple[int, ...], float]:
    return {tuple(c.ids.tolist()): c.logprob for c in result.completions}


def legal(prefix: tuple[int, ...], side: int) -> bool:
    """Whether a prefix can be completed to a grid. Independent of `GridMachine`: it compares the widths of whole lines."""
    body = prefix[:-1] if prefix and prefix[-1] == END else prefix
    if END in body or any(token not in (*CELLS, NEWLINE) for token in body):
        return False
    lines = "".join("n" if token == NEWLINE else "c" for token in body).split("n")
    closed = lines if prefix and prefix[-1] == END else lines[:-1]
    widths = {len(line) for line in closed}
    width = widths.pop() if widths else side
    return not widths and width >= 1 and len(lines) <= side and all(len(line) <= min(width, side) for line in lines)


def brute_force(base: Base, prompt: TokenIds, min_prob: float, longest: int, side: int | None) -> dict[tuple[int, ...], float]:
    """Every completion above the threshold, by a walk over the whole tree with one plain forward pass per node."""
    found: dict[tuple[int, ...], float] = {}

    def walk(prefix: tuple[int, ...], total: float) -> None:
        if (prefix and prefix[-1] == END) or len(prefix) == longest:
            found[prefix] = total
            return
        for token, logprob in enumerate(next_logprobs(base.model, [*prompt, *prefix])):
            child = (*prefix, token)
            if total + logprob >= np.log(min_prob) and (side is None or legal(child, side)):
                walk(child, total + float(logprob))

    walk((), 0.0)
    return found


@functools.cache
def threshold_cases(seed: int, grammar: bool) -> tuple[Base, list[SearchRequest], list[dict[tuple[int, ...], float]]]:
    """A model, requests to it, and what brute force answers."""
    base = small_base(seed, 6.0 if grammar else 25.0, "llama" if seed % 2 else "qwen3")
    least = (0.001, 0.0004, 0.002, 0.03) if grammar else (0.01, 0.004, 0.02, 0.3)
    requests = [
        SearchRequest(str(n), prompt, None, min_prob, 6)
        for n, (prompt, min_prob) in enumerate(zip(prompts(4, seed, 5), least, strict=True))
    ]
    return base, requests, [brute_force(base, r.prompt, r.min_prob, 6, 30 if grammar else None) for r in requests]


@pytest.mark.parametrize("grammar", [True, False])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", [64, 32768])
def test_search_finds_exactly_what_brute_force_finds(
    seed: int, grammar: bool, budget: int, either_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parked = record_calls(monkeypatch, Decoder, "_park")
    base, requests, answers = threshold_cases(seed, grammar)
    engine = HFEngine(base, InferSettings(grammar=grammar, batch_tokens=budget))
    results = by_id(engine.search(requests, NEVER))
    for request, expected in zip(requests, answers, strict=True):
        got = results[request.id]
        assert got.status == "complete"
        assert table(got).keys() == expected.keys()
        for ids, logprob in table(got).items():
            assert logprob == pytest.approx(expected[ids], abs=1e-4)
        assert [c.logprob for c in got.completions] == sorted((c.logprob for c in got.completions), reverse=True)
        assert all(c.finished == (c.ids[-1] == END) for c in got.completions)
    assert sum(map(len, answers)) > len(requests)  # branching was exercised
    assert bool(parked) == (budget == 64)


def test_search_keeps_the_side_limit_of_the_grammar() -> None:
    base = small_base(0, sharpness=3.0)
    limited = replace(base, codec=_Sided(SMALL, 2))
    prompt = prompts(1, 3, 5)[0]
    result = next(HFEngine(limited, InferSettings()).search([SearchRequest("a", prompt, None, 3e-5, 7)], NEVER))
    assert table(result).keys() == brute_force(base, prompt, 3e-5, 7, 2).keys()
    assert any(len(c.ids) == 6 for c in result.completions)  # 2x2 closed: c c n c c e


class _Sided:
    """The small codec with a smaller side limit."""

    def __init__(self, codec: object, side: int) -> None:
        self._codec, self.end = codec, END
        self.grammar = GridGrammar(CELLS, NEWLINE, END, side)


def test_search_in_a_large_vocabulary_looks_at_enough_tokens(base: Base) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
            )
        )  # fmt: skip
    model.lm_head.weight.data *= 80
    wide = replace(base, model=model.eval(), codec=SMALL, context=64)
    prompt = prompts(1, 1, 300)[0]
    result = next(HFEngine(wide, InferSettings(grammar=False)).search([SearchRequest("a", prompt, None, 0.01, 2)], NEVER))
    expected = brute_force(wide, prompt, 0.01, 2, None)
    assert table(result).keys() == expected.keys()
    assert len(expected) > 1


@pytest.mark.parametrize("budget", [64, 700, 32768])
def test_log_probabilities_are_those_of_teacher_forcing(base: Base, budget: int, either_path: str) -> None:
    engine = HFEngine(base, InferSettings(batch_tokens=budget))
    requests = [SampleRequest(str(n), prompt, None, 3, 1.0, 70, seed=n) for n, prompt in enumerate(prompts(5))]
    results = by_id(engine.sample(requests, NEVER))
    for request in requests:
        assert len(results[request.id].completions) == 3
        for completion in results[request.id].completions:
            expected = teacher_forced(base, request.prompt, completion.ids)
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("budget", [64, 500, 32768])
def test_score_equals_teacher_forcing(base: Base, budget: int, either_path: str) -> None:
    rng = np.random.default_rng(1)
    engine = HFEngine(base, InferSettings(batch_tokens=budget))
    lengths = ((1, 40, 7), (3,), (), (90, 2, 2, 5))
    requests = [
        ScoreRequest(str(n), prompt, None, tuple(rng.integers(0, 16, k).astype(np.int32) for k in ks))
        for n, (prompt, ks) in enumerate(zip(prompts(4, 2), lengths, strict=True))
    ]
    results = by_id(engine.score(requests, NEVER))
    for request in requests:
        got = results[request.id]
        assert got.status == "complete"
        assert len(got.completions) == len(request.completions)
        for given, completion in zip(request.completions, got.completions, strict=True):
            np.testing.assert_array_equal(completion.ids, given)
            np.testing.assert_allclose(completion.logprobs, teacher_forced(base, request.prompt, given), atol=1e-4)
            assert completion.finished == (given[-1] == base.codec.end)


def test_score_reads_long_completions_in_pieces(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PIECE_ELEMENTS, "cpu", 1 << 11)
    reads = record_calls(monkeypatch, Forward, "extend")
    test_score_equals_teacher_forcing(base, 32768, "fused")
    widths = [ids.shape[1] for _, _, _, ids in reads]
    assert max(widths) < 89 < sum(widths)  # the longest completion has 90 tokens, and its last one is not read


def test_greedy_decoding_takes_the_argmax_of_plain_forward_passes() -> None:
    for seed in range(3):
        base = small_base(seed)
        requests = [SampleRequest(str(n), prompt, None, 1, 0.0, 12) for n, prompt in enumerate(prompts(4, seed, 5))]
        results = by_id(HFEngine(base, InferSettings(grammar=False)).sample(requests, NEVER))
        for request in requests:
            ids = list(request.prompt)
            while len(ids) < len(request.prompt) + 12 and (len(ids) == len(request.prompt) or ids[-1] != END):
                ids.append(int(next_logprobs(base.model, ids).argmax()))
            assert results[request.id].completions[0].ids.tolist() == ids[len(request.prompt) :]


def test_a_request_gets_the_same_alone_and_in_any_batch(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        SampleRequest(str(n), prompt, None, n % 4 + 1, 0.8, 50, seed=n) for n, prompt in enumerate(prompts(9, 5, longest=120))
    ]
    steps = record_calls(monkeypatch, Forward, "extend")
    together = by_id(HFEngine(base, InferSettings()).sample(requests, NEVER))
    widest = max(len(ids) for _, _, _, ids in steps)
    steps.clear()
    tight = by_id(HFEngine(base, InferSettings(batch_tokens=900)).sample(requests[::-1], NEVER))
    assert 1 < max(len(ids) for _, _, _, ids in steps) < widest
    for request in requests:
        alone = next(HFEngine(base, InferSettings()).sample([request], NEVER))
        for other in (together[request.id], tight[request.id]):
            assert table(other).keys() == table(alone).keys()
            assert other.new_tokens == alone.new_tokens


@pytest.mark.parametrize("budget", [64, 700, 32768])
def test_forced_tokens_are_in_the_completion_with_the_log_probabilities_of_the_model(base: Base, budget: int) -> None:
    engine = HFEngine(base, InferSettings(batch_tokens=budget, grammar=False))
    trigger, forced = 3, (7, 7, 3, 5)
    free = [SampleRequest(str(n), prompt, None, 3, 1.0, 60, seed=n) for n, prompt in enumerate(prompts(5))]
    requests = [replace(r, forcer=lambda: AfterTrigger(trigger, forced)) if r.id != "4" else r for r in free]
    results, without = by_id(engine.sample(requests, NEVER)), by_id(engine.sample(free, NEVER))
    assert table(results["4"]) == table(without["4"])
    found = 0
    for request in requests[:4]:
        for completion in results[request.id].completions:
            parts = forced_parts(completion.ids.tolist(), trigger, forced)
            found += sum(part == list(forced) for part in parts)
            assert all(part == list(forced) for part in parts[:-1])
            assert parts[-1:] == [list(forced)[: len(part)] for part in parts[-1:]]
            np.testing.assert_allclose(completion.logprobs, teacher_forced(base, request.prompt, completion.ids), atol=1e-4)
    assert found > 5


def test_equal_seeds_give_equal_samples_and_other_seeds_give_others(base: Base) -> None:
    engine = HFEngine(base, InferSettings())
    request = SampleRequest("a", prompts(1)[0], None, 4, 1.0, 30, seed=7)
    first, second = (next(engine.sample([request], NEVER)) for _ in range(2))
    other = next(engine.sample([replace(request, seed=8)], NEVER))
    assert table(first) == table(second)
    assert table(first).keys() != table(other).keys()
    assert len(table(first)) > 1  # samples of one request differ among themselves
    again = replace(request, id="a, tried again")
    neighbour = SampleRequest("b", prompts(2)[1], None, 4, 1.0, 30, seed=7)  # an equal seed, another prompt
    results = by_id(engine.sample([neighbour, again], NEVER))
    assert table(results[again.id]) == pytest.approx(table(first), abs=1e-4)
    assert table(results["b"]) == pytest.approx(table(next(engine.sample([neighbour], NEVER))), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_distribution(temperature: float) -> None:
    base = small_base(1, sharpness=4.0)
    prompt = prompts(1, 1, 5)[0]
    engine = HFEngine(base, InferSettings(grammar=False))
    n = 4000
    result = next(engine.sample([SampleRequest("a", prompt, None, n, temperature, 2)], NEVER))
    first = next_logprobs(base.model, prompt).astype(np.float64) / temperature
    first = np.exp(first) / np.exp(first).sum()
    expected: dict[tuple[int, ...], float] = {(END,): first[END]}
    for a, b in itertools.product((t for t in range(5) if t != END), range(5)):
        second = next_logprobs(base.model, [*prompt, a]).astype(np.float64) / temperature
        expected[a, b] = first[a] * np.exp(second[b]) / np.exp(second).sum()
    drawn = dict.fromkeys(expected, 0)
    for completion in result.completions:
        drawn[tuple(completion.ids.tolist())] += 1
    counts = np.array([drawn[key] for key in expected])
    means = np.array(list(expected.values())) * n
    likely = means > 5
    chi2 = float((((counts - means) ** 2) / means)[likely].sum())
    freedom = int(likely.sum())
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)


def test_with_the_grammar_even_a_random_model_writes_grids(base: Base) -> None:
    engine = HFEngine(base, InferSettings())
    requests = [SampleRequest(str(n), prompt, None, 8, 1.5, 300, seed=n) for n, prompt in enumerate(prompts(4))]
    finished = 0
    for result in engine.sample(requests, NEVER):
        for completion in result.completions:
            if completion.finished:
                finished += 1
                assert base.codec.decode_answer(completion.ids) is not None
            else:
                assert len(completion.ids) == 300
    assert finished > 10
    free = HFEngine(base, InferSettings(grammar=False)).sample(requests, NEVER)
    assert any(base.codec.decode_answer(c.ids) is None for r in free for c in r.completions)


@pytest.mark.slow
def test_an_answer_of_maximum_size(base: Base) -> None:
    """A model that never wants to end or break a line writes 30x30, because the grammar ends lines and the grid."""
    stubborn = replace(base, model=_with_bias(base, {base.codec.newline: -30.0, base.codec.end: -60.0}))
    request = SampleRequest("a", prompts(1)[0], None, 2, 1.0, 1000)
    result = next(HFEngine(stubborn, InferSettings()).sample([request], NEVER))
    for completion in result.completions:
        grid = base.codec.decode_answer(completion.ids)
        assert completion.finished
        assert grid is not None
        assert grid.shape == (30, 30)


def _with_bias(base: Base, bias: dict[int, float]) -> torch.nn.Module:
    from solver.model.adapters import own_weights

    model = own_weights(base, torch.float32)
    model.lm_head.bias = torch.nn.Parameter(torch.tensor([bias.get(i, 0.0) for i in range(16)]), requires_grad=False)
    return model


class Clock:
    """A clock that advances by one second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("seconds", [0, 5, 20, 60, 150])
def test_the_deadline_cuts_and_keeps_what_was_finished(base: Base, seconds: float) -> None:
    requests = [SampleRequest(str(n), prompt, None, 4, 1.0, 200, seed=n) for n, prompt in enumerate(prompts(6))]
    full = by_id(HFEngine(base, InferSettings()).sample(requests, NEVER))
    clock = Clock()
    results = by_id(HFEngine(base, InferSettings()).sample(requests, Deadline(seconds, clock)))
    assert clock.now <= seconds + 8 + len(requests)  # the clock is also read after the cut, without a forward pass
    assert results.keys() == full.keys()
    statuses = {result.status for result in results.values()}
    assert "cut" in statuses
    for key, result in results.items():
        assert result.status in ("cut", "complete")
        assert table(result).items() <= table(full[key]).items() or seconds
        assert table(result).keys() <= table(full[key]).keys()
        if result.status == "complete":
            assert len(result.completions) == 4
    if seconds == 60:
        assert any(result.completions for result in results.values() if result.status == "cut")


def test_search_and_score_are_cut_too(base: Base) -> None:
    prompt = prompts(1)[0]
    engine = HFEngine(base, InferSettings())
    for call in (
        lambda d: engine.search([SearchRequest("a", prompt, None, 1e-4, 40)], d),
        lambda d: engine.score([ScoreRequest("a", prompt, None, (np.zeros(50, dtype=np.int32),))], d),
    ):
        assert [r.status for r in call(Deadline(0.5, Clock()))] == ["cut"]


def test_a_request_that_cannot_be_served_fails_and_the_others_go_on(base: Base) -> None:
    long = np.zeros(base.context, dtype=np.int32)
    good = prompts(1)[0]
    engine = HFEngine(base, InferSettings())
    results = by_id(
        engine.sample(
            [
                SampleRequest("long", long, None, 1, 1.0, 5),
                SampleRequest("empty", good[:0], None, 1, 1.0, 5),
                SampleRequest("greedy", good, None, 2, 0.0, 5),
                SampleRequest("adapter", good, AdapterRef("gone", Path("nowhere"), "lora"), 1, 1.0, 5),
                SampleRequest("good", good, None, 1, 1.0, 5),
            ],
            NEVER,
        )
    )
    assert {key: result.status for key, result in results.items()} == {
        "long": "failed", "empty": "failed", "greedy": "failed", "adapter": "failed", "good": "complete",
    }  # fmt: skip
    assert str(base.context) in results["long"].error
    assert "nowhere" in results["adapter"].error
    scored = by_id(engine.score([ScoreRequest("long", good, None, (long,)), ScoreRequest("good", good, None, (good,))], NEVER))
    assert (scored["long"].status, scored["good"].status) == ("failed", "complete")


def test_completions_stop_at_the_context(base: Base) -> None:
    prompt = np.zeros(60, dtype=np.int32)
    short = replace(base, context=64)
    result = next(HFEngine(short, InferSettings(grammar=False)).sample([SampleRequest("a", prompt, None, 8, 1.0, 50)], NEVER))
    assert max(len(c.ids) for c in result.completions) == 4
    assert all(c.finished == (c.ids[-1] == base.codec.end) for c in result.completions)


def _fail_passes(engine: HFEngine, error: Callable[[int], Exception | None]) -> None:
    """Make forward passes of the engine raise what `error` returns for their number of tokens, as an allocator would."""
    forward = engine._forward
    call, count = forward._call, itertools.count()

    def failing(cache, ids, *args):  # type: ignore[no-untyped-def]
        next(count)
        problem = error(ids.numel())
        if problem is not None:
            raise problem
        return call(cache, ids, *args)

    forward._call = failing  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), MemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_backs_off_to_smaller_batches(base: Base, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [SampleRequest(str(n), prompt, None, 4, 1.0, 40, seed=n) for n, prompt in enumerate(prompts(6))]
    expected = by_id(HFEngine(base, InferSettings()).sample(requests, NEVER))
    engine = HFEngine(base, InferSettings())
    _fail_passes(engine, lambda size: error if size > 45 else None)
    backed_off = record_calls(monkeypatch, Decoder, "_back_off")
    results = by_id(engine.sample(requests, NEVER))
    assert backed_off
    for key, result in results.items():
        assert result.status == "complete"
        assert table(result).keys() == table(expected[key]).keys()


def test_a_request_that_never_fits_fails_and_the_others_go_on(base: Base) -> None:
    long, short = np.zeros(300, dtype=np.int32), prompts(1)[0]
    engine = HFEngine(base, InferSettings())
    _fail_passes(engine, lambda size: MemoryError() if size >= 300 else None)
    results = by_id(
        engine.sample([SampleRequest("long", long, None, 2, 1.0, 5), SampleRequest("short", short, None, 2, 1.0, 5)], NEVER)
    )
    assert (results["long"].status, results["short"].status) == ("failed", "complete")
    assert "memory" in results["long"].error
    scored = by_id(
        engine.score([ScoreRequest("long", long, None, (short,)), ScoreRequest("short", short, None, (short,))], NEVER)
    )
    assert (scored["long"].status, scored["short"].status) == ("failed", "complete")


@pytest.mark.parametrize(("failures", "status"), [(1, "complete"), (2, "failed")])
def test_an_adapter_that_does_not_fit_is_tried_once_more(
    base: Base, monkeypatch: pytest.MonkeyPatch, failures: int, status: str
) -> None:
    import solver.infer.hf as hf

    errors = [MemoryError()] * failures

    def apply(base: Base, ref: AdapterRef) -> torch.nn.Module:
        if errors:
            raise errors.pop()
        return share(base.model)

    monkeypatch.setattr(hf, "apply_adapter", apply)
    request = SampleRequest("a", prompts(1)[0], AdapterRef("x", Path("x"), "lora"), 1, 0.0, 5)
    (result,) = HFEngine(base, InferSettings()).sample([request], NEVER)
    assert (result.status, result.error) == (status, "" if status == "complete" else "out of memory")


def test_nan_fails_the_request_only_where_it_appears(base: Base) -> None:
    """A token whose embedding is NaN: prompts with it fail, the others complete."""
    from solver.model.adapters import own_weights

    model = own_weights(base, torch.float32)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    model.get_decoder().embed_tokens.weight = torch.nn.Parameter(
        model.get_decoder().embed_tokens.weight.clone(), requires_grad=False
    )
    model.get_decoder().embed_tokens.weight[15] = float("nan")
    good = prompts(1)[0]
    bad = np.append(good, np.int32(15))
    engine = HFEngine(replace(base, model=model), InferSettings())
    results = by_id(
        engine.sample([SampleRequest("bad", bad, None, 3, 1.0, 9), SampleRequest("good", good, None, 3, 1.0, 9)], NEVER)
    )
    assert (results["bad"].status, results["good"].status) == ("failed", "complete")
    assert "NaN" in results["bad"].error
    found = by_id(engine.search([SearchRequest("bad", bad, None, 0.1, 9), SearchRequest("good", good, None, 0.1, 9)], NEVER))
    assert (found["bad"].status, found["good"].status) == ("failed", "complete")
    scored = by_id(
        engine.score(
            [
                ScoreRequest("bad", bad, None, (good,)),
                ScoreRequest("inside", good, None, (good, bad, np.append(bad, good))),
                ScoreRequest("good", good, None, (good,)),
            ],
            NEVER,
        )
    )
    assert {key: result.status for key, result in scored.items()} == {"bad": "failed", "inside": "failed", "good": "complete"}
    assert scored["inside"].completions == ()
    assert "not finite" in scored["inside"].error


def test_the_base_model_and_the_global_generator_are_left_alone(plain_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solver.infer.fused_decoding.MAX_PARAMETERS", 0)  # the modules of transformers get another attention
    base = load_base(plain_base, ModelSettings(device="cpu", dtype="float32"))
    before = base.model.config._attn_implementation
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    engine = make_engine(base, InferSettings())
    for _ in engine.sample([SampleRequest("a", prompts(1)[0], None, 2, 1.0, 5)], NEVER):
        assert not torch.is_inference_mode_enabled()
    assert base.model.config._attn_implementation == before
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()


def test_models_without_full_attention_are_refused(base: Base) -> None:
    with torch.random.fork_rng(devices=[]):
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=2, head_dim=8, use_sliding_window=True, sliding_window=8, max_window_layers=1,
            )
        )  # fmt: skip
    with pytest.raises(InputError, match="full causal attention"):
        HFEngine(replace(base, model=model), InferSettings())


def _full_adapter(base: Base, folder: Path, seed: int) -> AdapterRef:
    from solver.model.adapters import own_weights, save_full

    model = own_weights(base, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    save_full(base, model, folder)
    return AdapterRef(f"full-{seed}", folder, "full")


@pytest.mark.parametrize("stacked", [False, True])
def test_every_request_is_served_by_its_own_adapter(
    base: Base, tmp_path: Path, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solver.model.adapters import apply_adapter

    adapters = [
        None,
        random_lora(base, tmp_path / "a", 1, LoraShape(4, 8.0), 0.3),
        _full_adapter(base, tmp_path / "b", 2),
        random_lora(base, tmp_path / "c", 3, LoraShape(4, 8.0), 0.3),
    ]
    if stacked:
        monkeypatch.setattr("solver.infer.hf.STACKED_DEVICES", ("cpu",))
    batches = record_calls(monkeypatch, LoraStack, "set_rows")
    prompt = prompts(1)[0]
    requests = [
        SampleRequest(f"{n}-{round_}", prompt, adapter, 2, 1.0, 20) for round_ in range(2) for n, adapter in enumerate(adapters)
    ]
    engine = HFEngine(base, InferSettings(batch_tokens=700))  # some requests wait for others to leave
    results = by_id(engine.sample(requests, NEVER))
    totals = set()
    for request in requests:
        plain = replace(base, model=apply_adapter(base, request.adapter))
        for completion in results[request.id].completions:
            np.testing.assert_allclose(completion.logprobs, teacher_forced(plain, prompt, completion.ids), atol=1e-4)
            totals.add(round(completion.logprobs[0], 4))
    assert len(totals) > 2
    mixed = [rows for _, rows in batches if len(set(rows.tolist())) > 1]
    assert bool(mixed) == stacked  # rows of different adapters in one pass
    given = {request.id: results[request.id].completions for request in requests}
    scored = engine.score([ScoreRequest(r.id, prompt, r.adapter, tuple(c.ids for c in given[r.id])) for r in requests], NEVER)
    for result in scored:
        for again, completion in zip(result.completions, given[result.request], strict=True):
            np.testing.assert_allclose(again.logprobs, completion.logprobs, atol=1e-4)


@pytest.mark.parametrize("keep", [150, 32768])
def test_scores_are_the_same_if_prompts_were_kept_from_a_search(
    base: Base, tmp_path: Path, keep: int, monkeypatch: pytest.MonkeyPatch, either_path: str
) -> None:
    mine, other = _full_adapter(base, tmp_path / "a", 1), _full_adapter(base, tmp_path / "b", 2)
    texts = prompts(6, 4, longest=60)
    total = sum(map(len, texts))
    given = tuple(np.random.default_rng(0).integers(0, 10, (3, 7)).astype(np.int32))
    computed: list[int] = []
    prefill = Forward._prefill

    def counted(self: Forward, cache: SharedPrefixCache, some: Sequence[TokenIds], numbers: Sequence[int]) -> torch.Tensor:
        computed.append(sum(map(len, some)))
        return prefill(self, cache, some, numbers)

    def scores(engine: HFEngine, adapter: AdapterRef | None) -> tuple[np.ndarray, int]:
        """The log-probabilities, and the prompt tokens that were computed."""
        computed.clear()
        results = by_id(engine.score([ScoreRequest(str(n), text, adapter, given) for n, text in enumerate(texts)], NEVER))
        return np.array([[c.logprobs for c in results[str(n)].completions] for n in range(len(texts))]), sum(computed)

    monkeypatch.setattr(Forward, "_prefill", counted)
    engine = HFEngine(base, InferSettings(batch_tokens=keep))
    expected = {adapter: scores(HFEngine(base, InferSettings()), adapter)[0] for adapter in (None, mine, other)}
    for asked in (None, mine, other):
        list(engine.search([SearchRequest(str(n), text, asked, 0.2, 9) for n, text in enumerate(texts)], NEVER))
        found, read = scores(engine, asked)
        np.testing.assert_allclose(found, expected[asked], atol=1e-4)
        assert read == 0 if keep > total else 0 < read < total
    list(engine.search([SearchRequest(str(n), text, mine, 0.2, 9) for n, text in enumerate(texts)], NEVER))
    for asked in (other, None, mine):  # prompts that were kept for one adapter are not used for others
        found, read = scores(engine, asked)
        np.testing.assert_allclose(found, expected[asked], atol=1e-4)
        assert read == total


def test_completion_sums_in_double_precision() -> None:
    completion = Completion(np.zeros(900, dtype=np.int32), np.full(900, 0.1, dtype=np.float32), False)
    assert completion.logprob == pytest.approx(900 * float(np.float32(0.1)), rel=1e-12)
