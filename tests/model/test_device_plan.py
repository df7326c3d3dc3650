"""How a device's memory is shared out, on the sizes of real devices and models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.config import ModelSettings
from solver.model.device import CUDA_CONTEXT, USABLE_SHARE, Demand, ModelShape, affordable_positions, plan_device
from solver.model.load import load_base

T4, L4, H200 = int(15.8e9), int(22.3e9), 139 * 2**30
HALF = ModelShape(layers=24, hidden=896, inner=4864, queries=896, keys=128, vocabulary=151936, tied=True)  # Qwen2.5-0.5B
FOUR = ModelShape(layers=36, hidden=2560, inner=9728, queries=4096, keys=1024, vocabulary=151936, tied=True)  # Qwen3-4B
EIGHT = ModelShape(layers=36, hidden=4096, inner=12288, queries=4096, keys=1024, vocabulary=151936, tied=False)  # Qwen3-8B


def demand(shape: ModelShape, quantized: bool = False, context: int = 8192) -> Demand:
    return Demand(
        shape=shape,
        itemsize=2,
        quantized=quantized,
        rank=32,
        stack=1,
        batch_tokens=8192,
        checkpointing=True,
        context=context,
        cache_tokens=32768,
        step_tokens=1766,  # as many as an engine reads of this vocabulary
        sequences=256,
        slots=8,
        separate_process=True,
    )


def test_sizes_of_known_models() -> None:
    assert HALF.linear_weights + HALF.other_weights == pytest.approx(494e6, rel=1e-3)
    assert FOUR.linear_weights + FOUR.other_weights == pytest.approx(4.02e9, rel=1e-2)
    assert EIGHT.linear_weights + EIGHT.other_weights == pytest.approx(8.19e9, rel=1e-2)
    assert EIGHT.weight_bytes(2) == pytest.approx(16.4e9, rel=1e-2)
    assert EIGHT.weight_bytes(2, quantized=True) == pytest.approx(0.516 * 6.95e9 + 2 * 1.245e9, rel=1e-2)
    assert FOUR.kv_bytes(1, 2) == 147456  # bytes a token: 36 layers, 8 heads of 128, keys and values
    assert 256 * FOUR.weights_per_rank * 2 == pytest.approx(1.05e9, rel=0.05)  # rank 256 in 16 bits


def test_the_shape_is_that_of_a_loaded_model(tiny_base: Path) -> None:
    base = load_base(tiny_base, ModelSettings(dtype="float32", device="cpu"))
    shape = ModelShape.of(base.model.config)
    # not counted: norms of the heads, a few hundred weights
    heads = sum(p.numel() for name, p in base.model.named_parameters() if "q_norm" in name or "k_norm" in name)
    assert shape.linear_weights + shape.other_weights + heads == base.parameters
    plain = SimpleNamespace(
        num_hidden_layers=2, hidden_size=64, intermediate_size=128, num_attention_heads=4, vocab_size=10, head_dim=None
    )
    assert ModelShape.of(plain) == ModelShape(2, 64, 128, 64, 64, 10, False)


@pytest.mark.parametrize(
    ("total", "shape", "quantized", "alternates", "served"),
    [
        (T4, HALF, False, False, "as loaded"),
        (L4, HALF, True, False, "dequantised"),
        (H200, HALF, True, False, "dequantised"),
        (T4, FOUR, False, True, "as loaded"),
        (T4, FOUR, True, True, "dequantised"),
        (L4, FOUR, False, True, "as loaded"),
        (H200, FOUR, False, False, "as loaded"),
        (T4, EIGHT, True, True, "quantised"),  # 16.4 GB of weights
        (L4, EIGHT, True, True, "quantised"),  # what is scored takes the room that the longest sequence needs
        (L4, replace(EIGHT, vocabulary=16), True, True, "dequantised"),
        (H200, EIGHT, True, False, "dequantised"),
    ],
)
def test_devices_and_models(total: int, shape: ModelShape, quantized: bool, alternates: bool, served: str) -> None:
    plan = plan_device(total, 1, demand(shape, quantized))
    assert (plan.alternates, plan.served) == (alternates, served), plan.describe()
    assert plan.cache >= shape.kv_bytes(8192, 2)
    assert plan.base == shape.weight_bytes(2, quantized)
    assert 0 < plan.fit_fraction < 1


def test_what_is_scored_needs_room() -> None:
    """Logits in 16 bits and their log-probabilities in 32, of all tokens of a pass."""
    tokens = 1000
    small, large = (replace(FOUR, vocabulary=vocabulary).inference_bytes(tokens, 0, 2) for vocabulary in (16, FOUR.vocabulary))
    assert large - small == tokens * (FOUR.vocabulary - 16) * 6


def test_a_smaller_cache_before_turns_are_taken() -> None:
    """A wish that is larger than the device; more room for fits and inference first goes to the cache, and half of it at most."""
    longest = FOUR.kv_bytes(8192, 2)
    wishful = replace(demand(FOUR), cache_tokens=2**20)
    plans = [plan_device(total * 10**9, 1, wishful) for total in range(20, 320)]
    beside = [plan for plan in plans if not plan.alternates]
    assert [plan.alternates for plan in plans] == [True] * (len(plans) - len(beside)) + [False] * len(beside)
    assert 4 * longest <= beside[0].cache < 5 * longest  # as soon as there is room for a few sequences
    assert [plan.cache for plan in beside] == sorted(plan.cache for plan in beside)
    assert beside[-1].cache == FOUR.kv_bytes(2**20, 2)
    for plan in beside[:-1]:
        assert plan.cache <= (plan.fit + plan.infer) / 2 or plan.cache == FOUR.kv_bytes(2**20, 2)
        assert plan.fit >= plan.base + FOUR.training_bytes(8192, 2, True)
    large = next(plan for plan in beside if plan.total > 140e9)
    assert large.cache == pytest.approx((large.fit + large.infer) / 2)


def test_large_adapters_have_fewer_places() -> None:
    large = replace(demand(FOUR), rank=256)  # a gigabyte each
    on_t4, on_h200 = (plan_device(total, 1, large) for total in (T4, H200))
    assert on_h200.slots == 8
    assert on_t4.slots < 8
    assert on_t4.cache >= FOUR.kv_bytes(8192, 2)
    assert on_t4.adapters == on_t4.slots * 256 * FOUR.weights_per_rank * 2


def test_a_model_that_fits_no_engine_has_no_cache() -> None:
    assert plan_device(T4, 1, demand(EIGHT)).cache == 0
    assert plan_device(H200, 16, demand(EIGHT)).cache == 0  # so many workers on one device


def test_settings_overrule() -> None:
    asked = demand(HALF)
    assert plan_device(H200, 1, asked, alternate=True).alternates
    half = plan_device(H200, 1, asked, fit_share=0.5)
    assert not half.alternates
    assert half.fit == pytest.approx(half.infer, rel=1e-6)
    assert half.cache == HALF.kv_bytes(32768, 2)
    assert plan_device(T4, 1, asked, fit_share=0.999).alternates  # nothing is left for an engine


@given(
    total=st.integers(8 * 10**9, 200 * 10**9),
    workers=st.integers(1, 4),
    shape=st.sampled_from([HALF, FOUR, EIGHT]),
    quantized=st.booleans(),
    apart=st.booleans(),
    fit_share=st.none() | st.floats(0.01, 0.99),
    alternate=st.sampled_from([None, True]),
)
def test_nothing_is_given_twice(
    total: int, workers: int, shape: ModelShape, quantized: bool, apart: bool, fit_share: float | None, alternate: bool | None
) -> None:
    plan = plan_device(total, workers, replace(demand(shape, quantized), separate_process=apart), fit_share, alternate)
    contexts = CUDA_CONTEXT * (1 + apart)
    assert workers * plan.share <= total * USABLE_SHARE
    if plan.alternates:
        assert plan.fit == plan.infer == plan.share - contexts
    else:
        assert plan.fit + plan.infer + contexts <= plan.share
        assert plan.fit >= plan.base
        assert plan.cache
    if plan.cache:
        assert plan.weights + plan.adapters + plan.cache <= plan.infer
        assert shape.kv_bytes(8192, 2) <= plan.cache <= shape.kv_bytes(32768, 2)


@given(total=st.integers(8 * 10**9, 190 * 10**9), shape=st.sampled_from([HALF, FOUR, EIGHT]), quantized=st.booleans())
def test_a_larger_device_never_takes_away(total: int, shape: ModelShape, quantized: bool) -> None:
    less, more = (plan_device(size, 1, demand(shape, quantized)) for size in (total, total + 10**9))
    assert less.alternates or not more.alternates
    if (less.served, less.alternates, less.slots) == (more.served, more.alternates, more.slots):
        assert more.cache >= less.cache
    assert (less.served == "quantised") >= (more.served == "quantised")


def test_a_batch_of_keys_and_values_leaves_most_of_the_free_memory() -> None:
    free = 14 * 10**9
    assert affordable_positions(HALF, 2, 131072, free) == 131072
    large = affordable_positions(FOUR, 2, 131072, free)
    assert FOUR.kv_bytes(large, 2) <= 0.2 * free < FOUR.kv_bytes(large + 1, 2)
    assert affordable_positions(FOUR, 2, 131072, 0) == 1
