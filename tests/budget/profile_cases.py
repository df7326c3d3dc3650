"""Profiles to test with."""

from __future__ import annotations

from typing import Any

from solver.budget.profile import Machine, Model, Profile, Row, Variant

CPU = Machine(kind="cpu", device="some processor", cores=4, threads=4, memory=2**34, peak_flops=1e11, bandwidth=2e10)
TINY = Model(name="tiny", parameters=3_000_000, layers=6, hidden=192, kv_width=192, q_width=192, vocabulary=16)


def row(tokens: int, **changed: Any) -> Row:
    values: dict[str, Any] = {
        "tokens": tokens,
        "step_seconds": tokens * 2e-3,
        "steps": 3,
        "mfu": 0.25,
        "prefill_seconds": tokens * 1e-4,
        "decode_rate": 400.0,
        "search_rate": 900.0,
        "score_seconds": 0.05,
        "score_tokens": 128,
        "peak_memory": 600_000_000,
    }
    return Row(**{**values, **changed})


def variant(*rows: Row, **changed: Any) -> Variant:
    values: dict[str, Any] = {
        "quantization": "none",
        "dtype": "float32",
        "trainer": "full",
        "engine": "hf",
        "rank": 0,
        "batch": 4,
        "views": 8,
        "import_seconds": 5.0,
        "load_seconds": 1.0,
        "trainer_seconds": 0.25,
        "engine_seconds": 0.5,
        "fit_seconds": 0.1,
        "rows": rows or (row(512), row(1024)),
    }
    return Variant(**{**values, **changed})


def profile(*variants: Variant, **changed: Any) -> Profile:
    values: dict[str, Any] = {
        "machine": CPU,
        "model": TINY,
        "variants": variants or (variant(),),
        "measured_at": "2026-01-01T00:00:00",
    }
    return Profile(**{**values, **changed})
